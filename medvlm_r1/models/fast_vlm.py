"""FastVLM: a picture at one size through convolutions, whose last map's cells are its tokens (arXiv 2412.13303).

The tower is whatever transformers builds of ``vision_config`` that gives a map (pictures, channels, rows, columns): its own EfficientNet, which needs
no other library, or Apple's FastViT, which is timm's. LLaVA cannot carry one: it takes a tower's output for a row of patches.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import isqrt
from typing import Any

import torch
from transformers import FastVlmForConditionalGeneration

from medvlm_r1.models.llava import LLAVA

FASTVIT_PX = 64  # a cell of FastViT-HD, whose configuration says no size


def embed(model: Any, tiles: torch.Tensor, grid_N3: torch.Tensor) -> Sequence[torch.Tensor]:
    """Tower and projector, as transformers has them."""
    seen = model.model.get_image_features(pixel_values=tiles, return_dict=True).pooler_output
    return [picture[:, None] for picture in seen]


def told(config: Any) -> dict[str, Any]:
    """What transformers' processor, which is LLaVA's, must know to write as many tokens as the map has cells."""
    return {"processor_class": "LlavaProcessor", "patch_size": cell_px(config), "num_additional_image_tokens": 0, "vision_feature_select_strategy": "full"}


def cell_px(config: Any) -> int:
    """Pixels along the side of the square that becomes one token: all strides of the tower together.

    >>> from types import SimpleNamespace
    >>> cell_px(SimpleNamespace(image_seq_length=36, vision_config=SimpleNamespace(image_size=192)))
    32
    >>> cell_px(SimpleNamespace(image_seq_length=256, vision_config=SimpleNamespace(architecture="fastvit_mci3")))
    64
    """
    size = getattr(config.vision_config, "image_size", None)
    return size // isqrt(config.image_seq_length) if isinstance(size, int) else FASTVIT_PX


FAST_VLM = replace(
    LLAVA,
    model_class=FastVlmForConditionalGeneration,
    embed=embed,
    tile_tokens=lambda config: config.image_seq_length,
    processor=told,
)
