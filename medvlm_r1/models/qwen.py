"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: an image is as many patches as it needs, and positions count time, height and width.

Legend: L tokens of a prompt; T tokens; N images; I tokens of one image; H hidden size; D head size;
F an image token's embedding, then what DeepStack adds behind each of the first layers.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from transformers import (
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen3VLForConditionalGeneration,
)
from transformers.vision_utils import get_vision_position_ids

from medvlm_r1.models import vision
from medvlm_r1.models.family import Family, Grid, Pixels
from medvlm_r1.models.sent import sent

IMAGE_TOKEN = "<|image_pad|>"


def image_tokens(grid_thw: Grid, merge: int) -> int:
    """Tokens the language model sees for one image.

    >>> image_tokens((1, 6, 6), merge=2)
    9
    """
    t, h, w = grid_thw
    return t * h * w // merge**2


def prepare(processor: Any, image: Image.Image, tile_tokens: int) -> Pixels:
    """The patches of one picture; the grid tells how many tokens they become."""
    out = processor(images=[image], return_tensors="pt")
    t, h, w = out["image_grid_thw"][0].tolist()
    grid = (t, h, w)
    return Pixels.of(out["pixel_values"], grid, IMAGE_TOKEN * image_tokens(grid, processor.merge_size))


def mrope(ids: Sequence[int], image_id: int, grids: Sequence[Grid], merge: int) -> torch.Tensor:
    """Multimodal rotary positions (3, L) of one prompt (Qwen2-VL, arXiv 2409.12191, 2.1).

    Text advances all three together; an image's tokens share the time position
    and count rows and columns; text after it goes on from the largest. Qwen2.5-VL
    spaces the frames of a video by seconds; a still image has one.

    >>> mrope([1, 9, 9, 9, 9, 2], image_id=9, grids=[(1, 4, 4)], merge=2).tolist()
    [[0, 1, 1, 1, 1, 3], [0, 1, 1, 2, 2, 3], [0, 1, 2, 1, 2, 3]]
    """
    columns: list[torch.Tensor] = []
    position, n, images = 0, 0, iter(grids)
    places = [m for m, token in enumerate(ids) if token == image_id]
    while n < len(ids):
        if ids[n] == image_id:
            t, h, w = next(images)
            block = torch.stack(torch.meshgrid(torch.arange(t), torch.arange(h // merge), torch.arange(w // merge), indexing="ij"))
            columns.append(block.reshape(3, -1) + position)
            n, position = n + t * h * w // merge**2, position + max(h, w) // merge
        else:
            text = next((m for m in places if m > n), len(ids)) - n
            columns.append((torch.arange(text) + position).expand(3, -1))
            n, position = n + text, position + text
    return torch.cat(columns, 1)


def mixed(text: Any, positions_3T: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines (T, D), in the model's own way of mixing time, height and width."""
    cos, sin = text.rotary_emb(next(text.parameters()), positions_3T[:, None])
    return cos[0], sin[0]


def embed_batched(model: Any, patches: torch.Tensor, grid_N3: torch.Tensor) -> Sequence[torch.Tensor]:
    """Through models.vision, whose attention is told where the images lie; transformers takes them for one."""
    return _embed(model, patches, grid_N3, cu_seqlens=_whole(patches), image_runs=vision.runs(grid_N3.prod(1).tolist()))


def embed_windowed(model: Any, patches: torch.Tensor, grid_N3: torch.Tensor) -> Sequence[torch.Tensor]:
    """The same, with windows."""
    visual = model.model.visual
    side = visual.window_size // visual.patch_size // visual.spatial_merge_size
    order, sizes = vision.windows(grid_N3, visual.spatial_merge_size, side)
    end = _whole(patches)
    where = {"cu_seqlens": end, "cu_window_seqlens": end, "window_index": sent(order, patches.device)}
    runs = {"image_runs": vision.runs(grid_N3.prod(1).tolist()), "window_runs": vision.runs(sizes)}
    return _embed(model, patches, grid_N3, **where, **runs)


def _whole(patches: torch.Tensor) -> torch.Tensor:
    """One run of patches. On the host, where transformers reads it three times a block; from a GPU that is a wait each."""
    return torch.tensor([0, len(patches)], dtype=torch.int32)


def _embed(model: Any, patches: torch.Tensor, grid_N3: torch.Tensor, **how: Any) -> Sequence[torch.Tensor]:
    visual = model.model.visual
    if not hasattr(visual, "pos_embed"):  # else places are looked up on the device too, from the grid
        how["position_ids"] = sent(get_vision_position_ids(grid_N3, visual.spatial_merge_size), patches.device)
    out = visual(patches, grid_thw=sent(grid_N3, patches.device) if hasattr(visual, "pos_embed") else grid_N3, **how)
    features_IFH = torch.stack([out.pooler_output, *(getattr(out, "deepstack_features", None) or ())], 1)
    return features_IFH.split((grid_N3.prod(1) // visual.spatial_merge_size**2).tolist())


def batch_attention(model: Any) -> None:
    """Batched image attention, patches as a matrix product, small operations as one kernel."""
    model.model.visual.set_attn_implementation(vision.NAME)
    vision.patch_embed_as_matmul(model.model.visual)
    vision.fuse_small(model.model.visual)


def batch_windows(model: Any) -> None:
    """The same, and the layers with windows are marked."""
    batch_attention(model)
    for n, block in enumerate(model.model.visual.blocks):
        block.attn.windowed = n not in model.model.visual.fullatt_block_indexes


def most_pixels(processor: Any) -> int:
    """The name says edge, and it is an area."""
    return processor.size["longest_edge"]


def fitted(processor: Any, image: Image.Image, grid_thw: Grid) -> Image.Image:
    """The picture at the size of its patches: libraries resize a little differently, and none of them has to."""
    _, h, w = grid_thw
    return image.convert("RGB").resize((w * processor.patch_size, h * processor.patch_size), Image.Resampling.BICUBIC)


def shrink(processor: Any, max_pixels: int) -> None:
    """Down to this area; pictures keep their shape."""
    processor.size = {**dict(processor.size), "longest_edge": max_pixels}


QWEN2_VL = Family(
    model_class=Qwen2VLForConditionalGeneration,
    image_processor_class=Qwen2VLImageProcessorPil,
    image_token=IMAGE_TOKEN,
    banned=(IMAGE_TOKEN, "<|video_pad|>", "<|vision_pad|>", "<|vision_start|>", "<|vision_end|>"),
    text="language_model",
    vision=("visual",),
    prepare=prepare,
    embed=embed_batched,
    most_pixels=most_pixels,
    shrink=shrink,
    positions=mrope,
    rotary=mixed,
    adapt=batch_attention,
    fitted=fitted,
)
QWEN2_5_VL = replace(QWEN2_VL, model_class=Qwen2_5_VLForConditionalGeneration, embed=embed_windowed, adapt=batch_windows)
QWEN3_VL = replace(QWEN2_VL, model_class=Qwen3VLForConditionalGeneration)
