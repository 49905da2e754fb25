"""LLaVA: a picture at one size, its patches by CLIP or SigLIP, projected into a decoder of LLaMA's kind (arXiv 2310.03744).

HuatuoGPT-Vision and LLaVA-Med are of this kind, once converted to the layout of the ``-hf`` repositories.
"""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from medvlm_r1.models.family import Family, Pixels

IMAGE = "<image>"


def prepare(processor: Any, image: Image.Image, tile_tokens: int) -> Pixels:
    """Scaled and cut to the one size that the tower takes: what lies beyond a centred square is not seen."""
    tile = processor(images=[image], return_tensors="pt")["pixel_values"]
    return Pixels.of(tile, (1, 1, 1), IMAGE * tile_tokens)


def embed(model: Any, tiles: torch.Tensor, grid_N3: torch.Tensor) -> Sequence[torch.Tensor]:
    """Tower and projector, as transformers has them."""
    config = model.config
    seen = model.model.get_image_features(
        pixel_values=tiles, vision_feature_layer=config.vision_feature_layer, vision_feature_select_strategy=config.vision_feature_select_strategy
    )
    return [picture[:, None] for picture in seen.pooler_output]


def tokens(config: Any) -> int:
    """Of a picture: the tower's patches, and CLIP's class token where nobody drops it."""
    vision = config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    return int(patches + _class_tokens(vision) - (config.vision_feature_select_strategy == "default"))


def told(config: Any) -> dict[str, Any]:
    """What transformers' processor must know to write as many."""
    return {
        "processor_class": "LlavaProcessor",
        "patch_size": config.vision_config.patch_size,
        "num_additional_image_tokens": _class_tokens(config.vision_config),
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
    }


def _class_tokens(vision: Any) -> int:
    return int(vision.model_type.startswith("clip"))


def most_pixels(processor: Any) -> int:
    """Of what the tower sees."""
    size = getattr(processor, "crop_size", None) or processor.size
    return int(size["height"] * size["width"])


def shrink(processor: Any, max_pixels: int) -> None:
    """It sees one size and no other."""


LLAVA = Family(
    model_class=LlavaForConditionalGeneration,
    image_processor_class=CLIPImageProcessorPil,
    image_token=IMAGE,
    banned=(IMAGE,),
    text="language_model",
    vision=("vision_tower", "multi_modal_projector"),
    prepare=prepare,
    embed=embed,
    most_pixels=most_pixels,
    shrink=shrink,
    tile_tokens=tokens,
    processor=told,
)
