"""SmolVLM (and Idefics3, whose layout it has) and InternVL: an image is cut into tiles of one size, and seen whole once more.

Legend: N images; I tokens of one image; H hidden size.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import isqrt
from typing import Any

import torch
from PIL import Image
from transformers import (
    Idefics3ForConditionalGeneration,
    InternVLForConditionalGeneration,
    SmolVLMForConditionalGeneration,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from medvlm_r1.models.family import Family, Pixels

# ---------------------------------------------------------------- SmolVLM

AROUND, WHOLE = "<fake_token_around_image>", "<global-img>"


def framed(rows: int, columns: int, tile_tokens: int) -> str:
    """What stands in the prompt for an image of so many tiles; no rows: it is seen whole only.

    >>> framed(0, 0, 2)
    '<fake_token_around_image><global-img><image><image><fake_token_around_image>'
    >>> framed(1, 1, 1)
    '<fake_token_around_image><row_1_col_1><image>\\n\\n<fake_token_around_image><global-img><image><fake_token_around_image>'
    """
    seen = "<image>" * tile_tokens
    lines = ["".join(f"{AROUND}<row_{row}_col_{column}>{seen}" for column in range(1, columns + 1)) for row in range(1, rows + 1)]
    return "".join(line + "\n" for line in lines) + ("\n" if rows else "") + f"{AROUND}{WHOLE}{seen}{AROUND}"


def prepare_framed(processor: Any, image: Image.Image, tile_tokens: int) -> Pixels:
    """Tiles row by row, then the whole image. One image at a time, so that no tile is padded."""
    out = processor(images=[[image]], return_row_col_info=True, return_tensors="pt")
    tiles, rows, columns = out["pixel_values"][0], int(out["rows"][0][0]), int(out["cols"][0][0])
    return Pixels.of(tiles, (len(tiles), 1, 1), framed(rows, columns, tile_tokens))


def embed_framed(model: Any, tiles: torch.Tensor, grid_N3: torch.Tensor) -> Sequence[torch.Tensor]:
    """Past ``get_image_features``, which would drop a tile of zeros."""
    seen = model.model.vision_model(pixel_values=tiles).last_hidden_state
    return _by_image(model.model.connector(seen), grid_N3)


def framed_tokens(config: Any) -> int:
    """Tokens of a tile: its patches, merged by the pixel shuffle."""
    vision = config.vision_config
    return (vision.image_size // vision.patch_size) ** 2 // config.scale_factor**2


def framed_most_pixels(processor: Any) -> int:
    """Of a square; a picture is scaled to its longest side."""
    return processor.size["longest_edge"] ** 2


def framed_shrink(processor: Any, max_pixels: int) -> None:
    """The longest side, in whole tiles and no less than one."""
    tile = processor.max_image_size["longest_edge"]
    side = max(tile, isqrt(max_pixels) // tile * tile)
    processor.size = {"longest_edge": min(side, processor.size["longest_edge"])}


# ---------------------------------------------------------------- InternVL


def prepare_cut(processor: Any, image: Image.Image, tile_tokens: int) -> Pixels:
    """Tiles row by row, then the whole image where there are several. The processor's file leaves the cutting to its caller."""
    tiles = processor(images=[image], crop_to_patches=True, return_tensors="pt")["pixel_values"]
    return Pixels.of(tiles, (len(tiles), 1, 1), f"<img>{'<IMG_CONTEXT>' * tile_tokens * len(tiles)}</img>")


def embed_cut(model: Any, tiles: torch.Tensor, grid_N3: torch.Tensor) -> Sequence[torch.Tensor]:
    """Tower, pixel shuffle and projection, as transformers has them."""
    return _by_image(model.model.get_image_features(pixel_values=tiles, return_dict=True).pooler_output, grid_N3)


def cut_most_pixels(processor: Any) -> int:
    """Of the most tiles together."""
    return processor.max_patches * processor.size["height"] * processor.size["width"]


def cut_shrink(processor: Any, max_pixels: int) -> None:
    """Fewer tiles, and no less than one."""
    tiles = max(1, max_pixels // (processor.size["height"] * processor.size["width"]))
    processor.max_patches = min(tiles, processor.max_patches)


def _by_image(tiles: torch.Tensor, grid_N3: torch.Tensor) -> Sequence[torch.Tensor]:
    """(tiles, tokens of a tile, H) to each image's (I, 1, H)."""
    return [part.flatten(0, 1)[:, None] for part in tiles.split(grid_N3.prod(1).tolist())]


SMOLVLM = Family(
    model_class=SmolVLMForConditionalGeneration,
    image_processor_class=SmolVLMImageProcessorPil,
    image_token="<image>",
    banned=("<image>", AROUND, WHOLE),
    text="text_model",
    vision=("vision_model", "connector"),
    prepare=prepare_framed,
    embed=embed_framed,
    most_pixels=framed_most_pixels,
    shrink=framed_shrink,
    tile_tokens=framed_tokens,
    processor=lambda config: {"processor_class": "SmolVLMProcessor", "image_seq_len": framed_tokens(config)},
)
IDEFICS3 = replace(
    SMOLVLM,
    model_class=Idefics3ForConditionalGeneration,
    image_processor_class=Idefics3ImageProcessorPil,
    processor=lambda config: {"processor_class": "Idefics3Processor", "image_seq_len": framed_tokens(config)},
)
INTERNVL = Family(
    model_class=InternVLForConditionalGeneration,
    image_processor_class=GotOcr2ImageProcessorPil,
    image_token="<IMG_CONTEXT>",
    banned=("<IMG_CONTEXT>", "<img>", "</img>"),
    text="language_model",
    vision=("vision_tower", "multi_modal_projector"),
    prepare=prepare_cut,
    embed=embed_cut,
    most_pixels=cut_most_pixels,
    shrink=cut_shrink,
    tile_tokens=lambda config: config.image_seq_length,
    processor=lambda config: {"processor_class": "InternVLProcessor", "image_seq_length": config.image_seq_length},
)
