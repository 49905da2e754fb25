"""A tiny model directory of every family: real classes, real structure, random weights, pictures of several sizes.

All weights are noise, biases, norms and tables of positions too: a layer that forgets one of them gives other numbers.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    EfficientNetConfig,
    FastVlmConfig,
    Gemma3Config,
    GenerationConfig,
    Idefics3Config,
    InternVLConfig,
    LlavaConfig,
    Qwen2_5_VLConfig,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    SmolVLMConfig,
)

from medvlm_r1.models import nano
from medvlm_r1.models.families import FAMILIES, load_policy
from medvlm_r1.training import checkpoint
from medvlm_r1.types import Example

TEXTS = ["Which plane is this?\nA) axial\nB) coronal\nThink first, then answer.<think>Ears.</think>\n<answer>B</answer>"] * 4
SIZES = {"square": (84, 84), "tall": (252, 168), "wide": (112, 336)}  # rows, columns: within one window of 112 px, and over many
SMOLVLM_CHAT = (
    "<|im_start|>{% for turn in messages %}{{ turn.role | capitalize }}:{% for part in turn.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
INTERNVL_CHAT = (
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{% for part in turn.content %}"
    "{% if part.type == 'image' %}<IMG_CONTEXT>\n{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA_CHAT = (
    "<bos>{% for turn in messages %}<start_of_turn>{{ 'model' if turn.role == 'assistant' else turn.role }}\n{% for part in turn.content %}"
    "{% if part.type == 'image' %}<start_of_image>{% else %}{{ part.text | trim }}{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096}

TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def picture(reference: str) -> Image.Image:
    """Noise that depends on the reference alone, in the size that its name says."""
    size = SIZES[reference.split("-")[0]]
    return Image.fromarray(np.random.default_rng(sum(reference.encode())).integers(0, 255, (*size, 3), dtype=np.uint8))


def examples() -> list[Example]:
    """One image; one of another size; two of different sizes; three, of which one twice."""
    images = [("square-a",), ("tall-a",), ("wide-a", "square-a"), ("tall-b", "square-b", "tall-b")]
    options = ("axial", "coronal")
    question = "Which plane is this?"
    return [Example(f"q{n}", pictures, question, options, "axial", "mri", "plane", f"p{n}") for n, pictures in enumerate(images)]


@dataclass(frozen=True)
class Tiny:
    """One family's configuration, given a vocabulary; its processor; the special tokens and the chat template that are not Qwen's."""

    config: Any
    processor: Any
    tokens: tuple[str, ...] = ()
    chat_template: str | None = None


def qwen2_5(ids: dict[str, int]) -> Qwen2_5_VLConfig:
    """Vision layers 0 and 2 look through windows of 112 px, 1 and 3 see all, as every eighth does at full size."""
    return Qwen2_5_VLConfig(
        text_config=TEXT | ids["text"] | {"num_hidden_layers": 3, "rope_parameters": rope([2, 3, 3])},
        vision_config={
            "depth": 4, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64,
            "fullatt_block_indexes": [1, 3], "tokens_per_second": 2,
        },
        **ids["qwen"], tie_word_embeddings=True,
    )  # fmt: skip


def qwen3(ids: dict[str, int]) -> Qwen3VLConfig:
    """Heads wider than H / Q, and three layers of DeepStack as at full size."""
    return Qwen3VLConfig(
        text_config=TEXT | ids["text"] | {
            "num_hidden_layers": 5, "head_dim": 32, "rope_parameters": rope([6, 5, 5]) | {"mrope_interleaved": True},
        },
        vision_config={
            "depth": 4, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64,
            "deepstack_visual_indexes": [0, 1, 2],
        },
        **ids["qwen"], tie_word_embeddings=True,
    )  # fmt: skip


def smolvlm(kind: Any) -> Any:
    def config(ids: dict[str, int]) -> Any:
        """Tiles of 56 px are 16 patches and 4 tokens. SmolVLM's decoder is LLaMA's."""
        vision = TOWER | {"image_size": 56, "patch_size": 14}
        text = TEXT | ids["text"] | {"model_type": "llama", "num_hidden_layers": 3, "rms_norm_eps": 1e-5}
        return kind(text_config=text, vision_config=vision, scale_factor=2, image_token_id=ids["<image>"], tie_word_embeddings=False)

    return config


def internvl(ids: dict[str, int]) -> InternVLConfig:
    """InternVL3: Qwen2 behind a tower with a class token, whose patches are shuffled four to one."""
    return InternVLConfig(
        text_config=TEXT | ids["text"] | {"model_type": "qwen2", "num_hidden_layers": 3},
        vision_config=TOWER | {"image_size": [56, 56], "patch_size": [14, 14], "attention_bias": True},
        image_token_id=ids["<IMG_CONTEXT>"], image_seq_length=4, tie_word_embeddings=False,
    )  # fmt: skip


def llava(ids: dict[str, int]) -> LlavaConfig:
    """CLIP's last layer but one without its class token, and a LLaMA."""
    return LlavaConfig(
        text_config=TEXT | ids["text"] | {"model_type": "llama", "num_hidden_layers": 3},
        vision_config=TOWER | {"model_type": "clip_vision_model", "image_size": 56, "patch_size": 14, "projection_dim": 32},
        image_token_index=ids["<image>"], image_seq_length=16, vision_feature_layer=-2, tie_word_embeddings=False,
    )  # fmt: skip


def gemma3(ids: dict[str, int]) -> Gemma3Config:
    """Layers that see 24 tokens, fewer than any prompt has and more than a picture, around one that sees all; scores that are divided by no head's root."""
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    turns = {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}, "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}}
    return Gemma3Config(
        text_config=TEXT | ids["text"] | {
            "num_hidden_layers": 3, "head_dim": 32, "sliding_window": 24, "layer_types": kinds, "query_pre_attn_scalar": 24, "rope_parameters": turns,
        },
        vision_config=TOWER | {"image_size": 112, "patch_size": 14}, mm_tokens_per_image=16, image_token_index=ids["<image_soft_token>"],
        boi_token_index=ids["<start_of_image>"], eoi_token_index=ids["<end_of_image>"], tie_word_embeddings=True,
    )  # fmt: skip


def fast_vlm(ids: dict[str, int]) -> FastVlmConfig:
    """Convolutions that halve 32 px three times, with batch norms and a squeeze-and-excite each: 16 cells. The decoder is LLaMA's."""
    blocks = {
        "in_channels": [32, 16],
        "out_channels": [16, 24],
        "kernel_sizes": [3, 5],
        "strides": [2, 2],
        "expand_ratios": [1, 2],
        "num_block_repeats": [1, 2],
    }
    vision = EfficientNetConfig(**blocks, width_coefficient=0.25, depth_coefficient=1.0, hidden_dim=320, image_size=32, hidden_size=320)
    return FastVlmConfig(
        text_config=TEXT | ids["text"] | {"model_type": "llama", "num_hidden_layers": 3}, vision_config=vision.to_dict(),
        image_token_index=ids["<image>"], image_seq_length=16, tie_word_embeddings=True,
    )  # fmt: skip


def rope(sections: list[int]) -> dict:
    return {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}


ROWS = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
SMOLVLM_TOKENS = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *ROWS)
QWEN_PIXELS = {"shortest_edge": 56 * 56, "longest_edge": 336 * 336}
SMALL_TILES = {"size": {"longest_edge": 168}, "max_image_size": {"longest_edge": 56}}
TINY = {
    "qwen2_5_vl": Tiny(qwen2_5, Qwen2VLImageProcessorPil(size=QWEN_PIXELS)),
    "qwen3_vl": Tiny(qwen3, Qwen2VLImageProcessorPil(size=QWEN_PIXELS, patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3)),
    "smolvlm": Tiny(smolvlm(SmolVLMConfig), FAMILIES["smolvlm"].image_processor_class(**SMALL_TILES), SMOLVLM_TOKENS, SMOLVLM_CHAT),
    "idefics3": Tiny(smolvlm(Idefics3Config), FAMILIES["idefics3"].image_processor_class(**SMALL_TILES), SMOLVLM_TOKENS, SMOLVLM_CHAT),
    "internvl": Tiny(
        internvl,
        FAMILIES["internvl"].image_processor_class(size={"height": 56, "width": 56}, max_patches=6),
        ("<img>", "</img>", "<IMG_CONTEXT>"),
        INTERNVL_CHAT,
    ),
    "llava": Tiny(
        llava,
        FAMILIES["llava"].image_processor_class(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}),
        ("<image>",),
        INTERNVL_CHAT.replace("<IMG_CONTEXT>", "<image>"),
    ),
    "gemma3": Tiny(
        gemma3,
        FAMILIES["gemma3"].image_processor_class(size={"height": 112, "width": 112}),
        ("<image_soft_token>", "<start_of_image>", "<end_of_image>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        GEMMA_CHAT,
    ),
    "fast_vlm": Tiny(
        fast_vlm,
        FAMILIES["fast_vlm"].image_processor_class(size={"height": 32, "width": 32}, do_center_crop=False),
        ("<image>",),
        INTERNVL_CHAT.replace("<IMG_CONTEXT>", "<image>"),
    ),
}


def write(kind: str, out: Path) -> Path:
    """The whole directory; returns it."""
    tiny, tokenizer = TINY[kind], nano.build_tokenizer(TEXTS)
    tokenizer.add_special_tokens({"extra_special_tokens": [*nano.SPECIAL[1:], *tiny.tokens]})
    tokenizer.chat_template = tiny.chat_template or tokenizer.chat_template
    names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    ids = {
        "text": {"vocab_size": -(-len(tokenizer) // 64) * 64} | ends,
        "qwen": {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in names.items()},
        **{token: tokenizer.convert_tokens_to_ids(token) for token in tiny.tokens},
    }
    torch.manual_seed(0)
    model = FAMILIES[kind].model_class(tiny.config(ids))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape))
        for norm in (part for part in model.modules() if isinstance(part, torch.nn.BatchNorm2d)):
            norm.running_mean.normal_(std=0.1)
            norm.running_var.uniform_(0.5, 2.0)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    for part in (model, tokenizer, tiny.processor):
        part.save_pretrained(out)
    return out


NAMED = {
    "internvl": {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>", "video_token": "<|video_pad|>",
    },
    "gemma3": {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"},
}  # fmt: skip


def checkpoint_of(kind: str, folder: Path) -> Path:
    """A checkpoint of ours whose tokenizer says, as a hub's does, what its special tokens are for: any path loads it."""
    checkpoint.save_model(load_policy(str(write(kind, folder / "hub")), picture), out := folder / "step-1")
    file = out / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_specific_special_tokens": NAMED.get(kind, {})}))
    return out


def inputs(policy: Any, prompt_ids: list[int], references: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """What transformers' own processor hands to its model beside the ids."""
    pixels = [policy.encoder.pixels(reference) for reference in references]
    patches = torch.cat([image.patches for image in pixels])
    kind = policy.model.config.model_type
    if kind.startswith("qwen"):
        ids = torch.tensor([prompt_ids])
        grid = torch.tensor([image.grid_thw for image in pixels])
        return {"pixel_values": patches, "image_grid_thw": grid, "mm_token_type_ids": (ids == policy.encoder.image_id).int()}
    if kind == "gemma3":
        return {"pixel_values": patches, "token_type_ids": (torch.tensor([prompt_ids]) == policy.encoder.image_id).long()}
    return {"pixel_values": patches if kind in ("internvl", "llava", "fast_vlm") else patches[None]}
