"""The embedded model: the true Qwen2-VL architecture at a few million parameters.

Small enough to train on a laptop's CPU, and the same code in every respect:
vision tower with 14-px patches merged 2x2, M-RoPE, grouped-query attention, and
a byte-level tokenizer with Qwen's special tokens, so that it takes any text.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

BASE_DIR = Path(__file__).parent / "nano_base"
IMAGE_PX = 84
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
# Words keep their leading space; letters and digits of one word stay together ("T2").
_SPLIT = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{N}]+| ?[^\s\p{L}\p{N}]+|[\r\n]+|\s+"
_CHAT = (
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n"
    "{% if turn.content is string %}{{ turn.content }}{% else %}{% for part in turn.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer(corpus: Iterable[str], vocab_size: int = 2048) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer whose merges come from ``corpus``; no text is out of vocabulary."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(corpus, trainer)
    core.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=list(SPECIAL[1:]),
        chat_template=_CHAT,
        clean_up_tokenization_spaces=False,
    )


def build_image_processor() -> Qwen2VLImageProcessorPil:
    """Qwen's processor with a budget of 84 x 84 px: 36 patches, 9 image tokens."""
    pixels = IMAGE_PX**2
    return Qwen2VLImageProcessorPil(size={"shortest_edge": pixels // 2, "longest_edge": pixels})


def build_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLConfig:
    """3 million parameters: 4 layers of width 192, vision 3 layers of width 128."""
    vocab_size = -(-len(tokenizer) // 64) * 64
    ids = {name: tokenizer.get_vocab()[f"<|{name}|>"] for name in ("vision_start", "vision_end", "image_pad", "video_pad")}
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": vocab_size, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4,
            "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 4096,
            "tie_word_embeddings": True, "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        },
        vision_config={"depth": 3, "embed_dim": 128, "hidden_size": 192, "num_heads": 4, "mlp_ratio": 4, "patch_size": 14},
        image_token_id=ids["image_pad"], video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"], vision_end_token_id=ids["vision_end"],
        tie_word_embeddings=True,
    )  # fmt: skip
    config.reasoning_template = "think"
    return config


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen2VLForConditionalGeneration:
    """Random weights, a pure function of the seed."""
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(build_config(tokenizer))
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model
