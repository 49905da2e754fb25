"""Gemma 3, and MedGemma on it: a picture at one size, SigLIP's patches averaged to 256 tokens, which see each other in both directions (arXiv 2503.19786).

Its decoder's four norms, windows and scores are read from its layers and configuration (models.norms, models.sight, models.decoder).
"""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import Gemma3ForConditionalGeneration
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from medvlm_r1.models.family import Family, Pixels
from medvlm_r1.models.llava import most_pixels, shrink

START, SOFT, END = "<start_of_image>", "<image_soft_token>", "<end_of_image>"


def prepare(processor: Any, image: Image.Image, tile_tokens: int) -> Pixels:
    """The whole picture as a square, its sides stretched; no crops of it beside it, which is how the model is published."""
    tile = processor(images=[image], do_pan_and_scan=False, return_tensors="pt")["pixel_values"]
    return Pixels.of(tile, (1, 1, 1), f"\n\n{START}{SOFT * tile_tokens}{END}\n\n")


def embed(model: Any, tiles: torch.Tensor, grid_N3: torch.Tensor) -> Sequence[torch.Tensor]:
    """Tower and projector, as transformers has them; they are not scaled as text is."""
    seen = model.model.get_image_features(pixel_values=tiles, return_dict=True).pooler_output
    return [picture[:, None] for picture in seen]


def by_kind(text: Any, positions_3T: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines (T, D): layers with a window turn faster than those without."""
    cos, sin = text.rotary_emb(next(text.parameters()), positions_3T[:1], kind)
    return cos[0], sin[0]


GEMMA3 = Family(
    model_class=Gemma3ForConditionalGeneration,
    image_processor_class=Gemma3ImageProcessorPil,
    image_token=SOFT,
    banned=(SOFT, START, END),
    text="language_model",
    vision=("vision_tower", "multi_modal_projector"),
    prepare=prepare,
    embed=embed,
    most_pixels=most_pixels,
    shrink=shrink,
    rotary=by_kind,
    tile_tokens=lambda config: config.mm_tokens_per_image,
    processor=lambda config: {"processor_class": "Gemma3Processor", "image_seq_length": config.mm_tokens_per_image},
    placeholder=START,
    whole_pictures=True,
)
