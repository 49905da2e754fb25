"""Published models that can be planned without being here, each of which sees a picture at one size: their configurations' sizes, which transformers' own modules are counted by.

MedGemma is Gemma 3 (arXiv 2507.05201), whose 4B and 27B come to 4,300,079,472 and 27,432,406,640 parameters;
HuatuoGPT-Vision-7B is Qwen2-7B behind CLIP-L/14 of 336 px and a projector of two layers (arXiv 2406.19280), in the layout of the -hf repositories.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, Gemma3Config, LlavaConfig

SIGLIP = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16, "image_size": 896, "patch_size": 14,
    "vision_use_head": False,
}  # fmt: skip
CLIP = {
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336,
    "patch_size": 14, "projection_dim": 768,
}  # fmt: skip
QWEN2_7B = {
    "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
    "vocab_size": 152064, "max_position_embeddings": 32768,
}  # fmt: skip


def gemma3(hidden: int, mlp: int, layers: int, heads: int, kv_heads: int, head_size: int) -> Any:
    """Of these sizes; all others are the same in 4B and 27B."""
    text = {
        "hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "head_dim": head_size, "vocab_size": 262208, "sliding_window": 1024, "max_position_embeddings": 131072,
    }  # fmt: skip
    return Gemma3Config(text_config=text, vision_config=SIGLIP, mm_tokens_per_image=256)


def huatuo() -> Any:
    """The last layer but one of CLIP, without its class token."""
    return LlavaConfig(text_config=QWEN2_7B, vision_config=CLIP, image_seq_length=576, vision_feature_layer=-2, tie_word_embeddings=False)


PUBLISHED: dict[str, Callable[[], Any]] = {
    "google/medgemma-4b-it": partial(gemma3, 2560, 10240, 34, 8, 4, 256),
    "google/medgemma-27b-it": partial(gemma3, 5376, 21504, 62, 32, 16, 128),
    "FreedomIntelligence/HuatuoGPT-Vision-7B": huatuo,
}


def skeleton(name: str) -> Any:
    """The model without weights.

    >>> sum(p.numel() for p in skeleton("google/medgemma-4b-it").parameters())
    4300079472
    """
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(PUBLISHED[name]())
