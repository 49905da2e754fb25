"""Tiny models of kinds that have no family here: real classes, real processors, random weights."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForImageTextToText, GenerationConfig

from medvlm_r1.models import nano

TEXTS = ["Which plane is this?\nA) axial\nB) coronal\nThink first, then answer.<think>Ears.</think>\n<answer>B</answer>"] * 4
TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096}
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
PLAIN = {"size": {"height": 56, "width": 56}}
SQUARE = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}


def chat(image: str) -> str:
    """Turns as in ChatML, each picture as its own placeholder."""
    return (
        "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{% for part in turn.content %}"
        "{% if part.type == 'image' %}" + image + "{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


@dataclass(frozen=True)
class Other:
    """``config``: from the ids of special tokens by their names (and "vocabulary"); ``named``: what the tokenizer calls tokens; ``processor``: its settings."""

    config: Callable[[dict[str, int]], Any]
    images: tuple[str, dict[str, Any]]
    image: str
    named: dict[str, str] = field(default_factory=dict)
    processor: dict[str, Any] = field(default_factory=dict)
    name: str = ""


def _text(ids: dict[str, int], **more: Any) -> dict[str, Any]:
    return TEXT | {"vocab_size": ids["vocabulary"], "bos_token_id": None, "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]} | more


def llava_next(ids: dict[str, int]) -> Any:
    return transformers.LlavaNextConfig(
        text_config=_text(ids, model_type="llama"), vision_config=TOWER | {"model_type": "clip_vision_model", "image_size": 56, "patch_size": 14, "projection_dim": 32},
        image_token_index=ids["<image>"], image_grid_pinpoints=[[56, 112], [112, 56], [112, 112]], image_seq_length=16, vision_feature_layer=-1,
    )  # fmt: skip


def llava_onevision(ids: dict[str, int]) -> Any:
    return transformers.LlavaOnevisionConfig(
        text_config=_text(ids, model_type="qwen2"), vision_config=TOWER | {"model_type": "siglip_vision_model", "image_size": 56, "patch_size": 14, "vision_use_head": False},
        image_token_index=ids["<image>"], video_token_index=ids["<|video_pad|>"], image_grid_pinpoints=[[56, 112], [112, 56], [112, 112]], vision_feature_layer=-1,
    )  # fmt: skip


def mistral3(ids: dict[str, int]) -> Any:
    return transformers.Mistral3Config(
        text_config=_text(ids, model_type="mistral", head_dim=16), vision_config=TOWER | {"model_type": "pixtral", "image_size": 112, "patch_size": 14, "head_dim": 16},
        image_token_index=ids["[IMG]"], spatial_merge_size=2, vision_feature_layer=-1,
    )  # fmt: skip


def idefics2(ids: dict[str, int]) -> Any:
    return transformers.Idefics2Config(
        text_config=_text(ids, model_type="mistral", head_dim=16), vision_config=TOWER | {"image_size": 56, "patch_size": 14},
        perceiver_config={"resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 2, "resampler_head_dim": 16, "num_key_value_heads": 2, "hidden_size": 64},
        image_token_id=ids["<image>"],
    )  # fmt: skip


def paligemma(ids: dict[str, int]) -> Any:
    return transformers.PaliGemmaConfig(
        text_config=_text(ids, model_type="gemma2", head_dim=16, query_pre_attn_scalar=16), vision_config=TOWER | {"model_type": "siglip_vision_model", "image_size": 56, "patch_size": 14, "vision_use_head": False, "projection_dim": 64},
        image_token_index=ids["<image>"], projection_dim=64, hidden_size=64,
    )  # fmt: skip


def gemma4(ids: dict[str, int]) -> Any:
    text = _text(
        ids, head_dim=16, global_head_dim=16, sliding_window=8, layer_types=["sliding_attention", "full_attention"],
        vocab_size_per_layer_input=ids["vocabulary"], hidden_size_per_layer_input=8,
    )  # fmt: skip
    vision = TOWER | {"num_key_value_heads": 2, "head_dim": 16, "patch_size": 14, "pooling_kernel_size": 2, "position_embedding_size": 256}
    return transformers.Gemma4Config(
        text_config=text, vision_config=vision, image_token_id=ids["<image_soft_token>"], boi_token_id=ids["<start_of_image>"], eoi_token_id=ids["<end_of_image>"],
        video_token_id=ids["<|video_pad|>"], audio_token_id=ids["<audio>"],
    )  # fmt: skip


def qwen3_5(ids: dict[str, int]) -> Any:
    """One layer with a linear attention, one with a full one."""
    text = _text(
        ids, head_dim=32, linear_key_head_dim=16, linear_value_head_dim=16, linear_num_key_heads=2, linear_num_value_heads=4,
        layer_types=["linear_attention", "full_attention"],
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5, "mrope_section": [3, 3, 2], "mrope_interleaved": True},
    )  # fmt: skip
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 14, "out_hidden_size": 64, "num_position_embeddings": 64}
    return transformers.Qwen3_5Config(text_config=text, vision_config=vision, **_qwen(ids))


def glm(kind: Any) -> Callable[[dict[str, int]], Any]:
    def config(ids: dict[str, int]) -> Any:
        text = _text(ids, rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]})
        vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "image_size": 56, "out_hidden_size": 64}
        bounds = {f"{what}_{end}_token_id": ids[f"<|vision_{end}|>"] for what in ("image", "video") for end in ("start", "end")}
        return kind(text_config=text, vision_config=vision, image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"], **bounds)

    return config


def _qwen(ids: dict[str, int]) -> dict[str, int]:
    names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    return {f"{name}_token_id": ids[f"<|{token}|>"] for name, token in names.items()}


def vipllava(ids: dict[str, int]) -> Any:
    return transformers.VipLlavaConfig(
        text_config=_text(ids, model_type="llama"), vision_config=CLIP, image_token_index=ids["<image>"], image_seq_length=16, vision_feature_layer=[-1, -2],
    )  # fmt: skip


def deepseek(ids: dict[str, int]) -> Any:
    return transformers.DeepseekVLConfig(
        text_config=_text(ids, model_type="llama"), vision_config=SIGLIP, image_token_id=ids["<image>"],
    )  # fmt: skip


def video_llama(ids: dict[str, int]) -> Any:
    return transformers.VideoLlama3Config(
        text_config=_text(ids, model_type="qwen2"), vision_config=TOWER | {"patch_size": 14}, image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
    )  # fmt: skip


def minicpm(ids: dict[str, int]) -> Any:
    text = qwen3_5(ids).text_config.to_dict()
    return transformers.MiniCPMV4_6Config(
        text_config=text, vision_config=TOWER | {"image_size": 56, "patch_size": 14, "insert_layer_id": 1}, image_size=56, insert_layer_id=1,
        image_token_id=ids["<image>"], video_token_id=ids["<|video_pad|>"],
    )  # fmt: skip


def aya(ids: dict[str, int]) -> Any:
    return transformers.AyaVisionConfig(
        text_config=_text(ids, model_type="cohere2", head_dim=16, sliding_window=8, layer_types=["sliding_attention", "full_attention"]), vision_config=SIGLIP,
        image_token_index=ids["<|IMG_PATCH|>"], downsample_factor=2,
    )  # fmt: skip


CLIP = TOWER | {"model_type": "clip_vision_model", "image_size": 56, "patch_size": 14, "projection_dim": 32}
SIGLIP = TOWER | {"model_type": "siglip_vision_model", "image_size": 56, "patch_size": 14, "vision_use_head": False}
QWEN_NAMES = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "vision_bos_token": "<|vision_start|>", "vision_eos_token": "<|vision_end|>"}
OTHERS = {
    "llava_next": Other(
        llava_next, ("LlavaNextImageProcessorPil", SQUARE | {"image_grid_pinpoints": [[56, 112], [112, 56], [112, 112]]}), "<image>", {"image_token": "<image>"},
        {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}, "LlavaNextProcessor",
    ),
    "llava_onevision": Other(
        llava_onevision, ("LlavaOnevisionImageProcessorPil", PLAIN | {"image_grid_pinpoints": [[56, 112], [112, 56], [112, 112]]}), "<image>",
        {"image_token": "<image>", "video_token": "<|video_pad|>"}, {"num_image_tokens": 16, "vision_feature_select_strategy": "full"}, "LlavaOnevisionProcessor",
    ),
    "mistral3": Other(
        mistral3, ("PixtralImageProcessorPil", {"size": {"longest_edge": 112}, "patch_size": 14}), "[IMG]", {},
        {"patch_size": 14, "spatial_merge_size": 2, "image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}, "PixtralProcessor",
    ),
    "idefics2": Other(
        idefics2, ("Idefics2ImageProcessorPil", {"size": {"shortest_edge": 28, "longest_edge": 56}, "do_image_splitting": False}), "<image>",
        {"image_token": "<image>", "image_boundary_token": "<fake_token_around_image>", "end_of_utterance_token": "<end_of_utterance>"},
        {"image_seq_len": 4}, "Idefics2Processor",
    ),
    "gemma4": Other(
        gemma4, ("Gemma4ImageProcessorPil", {"patch_size": 14, "pooling_kernel_size": 2, "max_soft_tokens": 70}), "<image_soft_token>",
        {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>", "audio_token": "<audio>", "video_token": "<|video_pad|>",
         "boa_token": "<audio>", "eoa_token": "<audio>"}, {"image_seq_length": 4}, "Gemma4Processor",
    ),
    "qwen3_5": Other(
        qwen3_5, ("Qwen2VLImageProcessorPil", {"size": {"shortest_edge": 3136, "longest_edge": 112896}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}),
        "<|vision_start|><|image_pad|><|vision_end|>", QWEN_NAMES, {}, "Qwen3VLProcessor",
    ),
    "glm4v": Other(
        glm(transformers.Glm4vConfig), ("Glm4vImageProcessorPil", {"size": {"shortest_edge": 3136, "longest_edge": 112896}}),
        "<|vision_start|><|image_pad|><|vision_end|>", QWEN_NAMES, {}, "Glm4vProcessor",
    ),
    "glm46v": Other(
        glm(transformers.Glm46VConfig), ("Glm46VImageProcessorPil", {"size": {"shortest_edge": 3136, "longest_edge": 112896}}),
        "<|vision_start|><|image_pad|><|vision_end|>", QWEN_NAMES, {}, "Glm46VProcessor",
    ),
    "vipllava": Other(
        vipllava, ("CLIPImageProcessorPil", SQUARE), "<image>", {"image_token": "<image>"},
        {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}, "LlavaProcessor",
    ),
    "deepseek_vl": Other(
        deepseek, ("DeepseekVLImageProcessorPil", PLAIN), "<image>", {"image_token": "<image>"}, {"num_image_tokens": 16}, "DeepseekVLProcessor",
    ),
    "video_llama_3": Other(
        video_llama, ("VideoLlama3ImageProcessorPil", {"size": {"shortest_edge": 784, "longest_edge": 28224}}), "<|image_pad|>", QWEN_NAMES, {}, "VideoLlama3Processor",
    ),
    "minicpmv4_6": Other(
        minicpm, ("MiniCPMV4_6ImageProcessorPil", {"scale_resolution": 56, "patch_size": 14, "slice_mode": False}), "<image>",
        {"image_token": "<image>", "video_token": "<|video_pad|>", "image_start_token": "<img>", "image_end_token": "</img>", "slice_start_token": "<slice>",
         "slice_end_token": "</slice>", "image_id_start_token": "<image_id>", "image_id_end_token": "</image_id>"}, {}, "MiniCPMV4_6Processor",
    ),
    "aya_vision": Other(
        aya, ("GotOcr2ImageProcessorPil", PLAIN | {"crop_to_patches": False}), "<image>", {}, {"patch_size": 14, "img_size": 56, "downsample_factor": 2}, "AyaVisionProcessor",
    ),
    "paligemma": Other(paligemma, ("SiglipImageProcessorPil", PLAIN | {"image_seq_length": 16}), "<image>", {"image_token": "<image>", "bos_token": "<bos>"}, {}, "PaliGemmaProcessor"),
}  # fmt: skip
TOKENS = (
    "<image>",
    "<start_of_image>",
    "<end_of_image>",
    "<image_soft_token>",
    "<audio>",
    "<bos>",
    "[IMG]",
    "[IMG_BREAK]",
    "[IMG_END]",
    "<fake_token_around_image>",
    "<end_of_utterance>",
    "<img>",
    "</img>",
    "<slice>",
    "</slice>",
    "<image_id>",
    "</image_id>",
    "<|START_OF_IMG|>",
    "<|END_OF_IMG|>",
    "<|IMG_PATCH|>",
)


def write(kind: str, out: Path) -> Path:
    """The whole directory; returns it."""
    other, tokenizer = OTHERS[kind], nano.build_tokenizer(TEXTS)
    tokenizer.add_special_tokens({"extra_special_tokens": [*nano.SPECIAL[1:], *TOKENS]})
    tokenizer.chat_template = chat(other.image)
    ids = tokenizer.get_added_vocab() | {"vocabulary": -(-len(tokenizer) // 64) * 64}
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(other.config(ids)).float()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "tokenizer_config.json").write_text(
        json.dumps(json.loads((out / "tokenizer_config.json").read_text()) | {"model_specific_special_tokens": other.named})
    )
    images, settings = other.images
    getattr(transformers, images)(**settings).save_pretrained(out)
    (out / "processor_config.json").write_text(json.dumps(other.processor | {"processor_class": other.name}))
    return out
