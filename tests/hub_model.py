"""A Qwen2-VL directory as the hub ships Qwen/Qwen2-VL-2B-Instruct, file by file, with random weights.

The flat ``config.json`` of 2024, two weight shards under the names of 2024, the
slow and the fast tokenizer files, the chat template that adds a system turn,
``min_pixels`` and ``max_pixels``, and a ``generation_config.json`` that makes
sampling greedy (top_k = 1). Only widths, depths and the vocabulary are smaller.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

TEXTS = [
    "You are a helpful assistant. system user assistant",
    "Which plane is this? A) axial B) coronal <think>The ears.</think> <answer>B</answer>",
    "Your task: 1. Think through the question step by step, enclose your reasoning process in <think>...</think> tags.",
] * 4
# Qwen2's own pattern: one digit at a time, line ends kept with what they follow.
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
    "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
CHAT_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Size:
    """Widths and depths; ``vocab`` None is what the tokenizer needs."""

    hidden: int = 64
    layers: int = 2
    mlp: int = 128
    heads: int = 4
    kv_heads: int = 2
    vision_depth: int = 2
    vision_width: int = 32
    vision_heads: int = 2
    mrope: tuple[int, int, int] = (2, 3, 3)
    vocab: int | None = None


FULL = Size(1536, 28, 8960, 12, 2, 32, 1280, 16, (16, 24, 24), 151936)


def write(out: Path, size: Size = Size(), dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Path:
    """Write the whole directory; returns it."""
    out.mkdir(parents=True)
    tokenizer = _tokenizer()
    tokenizer.save(str(out / "tokenizer.json"))
    tokenizer.model.save(str(out))
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL}
    config = _config(size, ids, -(-tokenizer.get_vocab_size() // 64) * 64)
    _json(out / "config.json", config)
    _json(out / "tokenizer_config.json", _tokenizer_config(ids))
    _json(out / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    _json(out / "generation_config.json", {
        "bos_token_id": ids["<|endoftext|>"], "pad_token_id": ids["<|endoftext|>"], "do_sample": True,
        "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]], "repetition_penalty": 1.0,
        "temperature": 0.01, "top_p": 0.001, "top_k": 1, "transformers_version": "4.37.0",
    })  # fmt: skip
    _json(out / "preprocessor_config.json", {
        "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor",
    })  # fmt: skip
    _weights(out, dtype, seed)
    return out


def write_manifest(folder: Path) -> Path:
    """Five questions about pictures of all kinds; returns the manifest."""
    random = np.random.default_rng(0)
    grey, wide = random.integers(0, 255, (60, 80), dtype=np.uint8), random.integers(0, 255, (40, 120, 3), dtype=np.uint8)
    Image.fromarray(wide).save(folder / "wide.png")
    Image.fromarray(grey).save(folder / "grey.jpg")
    Image.fromarray(grey.astype(np.uint16) * 200).save(folder / "deep.png")
    Image.fromarray(wide).convert("RGBA").save(folder / "clear.png")
    Image.fromarray(np.kron(grey, np.ones((15, 15), np.uint8))).save(folder / "large.png")  # 1200 x 900
    rows = [
        question("q1", ["wide.png"], "axial"),
        question("q2", ["grey.jpg"], "coronal"),
        question("q3", ["deep.png"], "axial", modality="ct"),
        question("q4", ["clear.png", "grey.jpg"], "coronal", modality="ct"),
        question("q5", ["large.png"], "axial", modality="ct"),
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "questions.jsonl"


def question(name: str, images: list[str], answer: str, **more: object) -> dict:
    """One line of a manifest."""
    text = "Which plane is this?"
    return {"id": name, "image": images, "question": text, "options": ["axial", "coronal"], "answer": answer, "modality": "mri"} | more


def _tokenizer() -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    core.add_special_tokens(list(SPECIAL))  # behind the vocabulary, as Qwen's stand
    return core


def _config(size: Size, ids: dict[str, int], vocab: int) -> dict:
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"], "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"], "image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"],
        "hidden_act": "silu", "hidden_size": size.hidden, "initializer_range": 0.02, "intermediate_size": size.mlp,
        "max_position_embeddings": 32768, "max_window_layers": size.layers, "model_type": "qwen2_vl",
        "num_attention_heads": size.heads, "num_hidden_layers": size.layers, "num_key_value_heads": size.kv_heads,
        "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True,
        "torch_dtype": "bfloat16", "transformers_version": "4.41.2", "use_cache": True, "use_sliding_window": False,
        "vision_config": {
            "depth": size.vision_depth, "embed_dim": size.vision_width, "mlp_ratio": 4, "num_heads": size.vision_heads, "in_chans": 3,
            "hidden_size": size.hidden, "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14, "temporal_patch_size": 2,
        },
        "rope_scaling": {"type": "mrope", "mrope_section": list(size.mrope)}, "vocab_size": size.vocab or vocab,
    }  # fmt: skip


def _tokenizer_config(ids: dict[str, int]) -> dict:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {
        "add_prefix_space": False, "added_tokens_decoder": {str(number): {"content": token, **flags} for token, number in ids.items()},
        "additional_special_tokens": list(SPECIAL[1:]), "bos_token": None, "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "padding_side": "left", "errors": "replace",
        "model_max_length": 32768, "pad_token": "<|endoftext|>", "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
    }  # fmt: skip


def _weights(out: Path, dtype: torch.dtype, seed: int) -> None:
    """Two shards and their index, under the names of 2024; no lm_head, which is tied."""
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    model = Qwen2VLForConditionalGeneration(Qwen2VLConfig.from_pretrained(out))
    torch.set_default_dtype(before)
    tensors = {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): value.contiguous()
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"
    }
    names = sorted(tensors)
    shards = {f"model-0000{n + 1}-of-00002.safetensors": names[n::2] for n in range(2)}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, out / file, metadata={"format": "pt"})
    index = {name: file for file, part in shards.items() for name in part}
    total = sum(value.numel() * value.element_size() for value in tensors.values())
    _json(out / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})


def _json(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")
