"""What the systems of the paper's run agree on: the setting, the files of a run, and the model, which is made and never written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from costs import Dimensions, Step
from protocol import Work

TINY = Dimensions(layers=2, hidden=64, heads=2, kv_heads=1, mlp=96, vocabulary=1024, vision_layers=1, vision_width=64, vision_heads=2)


@dataclass(frozen=True)
class PaperSetting:
    """The paper's run: 300 steps of 4 prompts, each with one image and G = 4 completions.

    >>> PaperSetting().image_px
    (448, 448)
    >>> PaperSetting(image_tokens=512).image_px
    (448, 896)
    """

    image_tokens: int = 256
    group: int = 4
    completion: int = 150
    beta: float = 0.04
    steps: int = 300
    warmup: int = 1
    prompts: int = 4
    images: int = 600
    template: str = "paper-train"
    threads: int = 8
    micro_batch_tokens: int = 6144  # the recipe's: all 3,904 tokens of a step together
    save_every: int = 100
    checkpointing: bool = True
    tiny: bool = False

    @property
    def name(self) -> str:
        return "tiny" if self.tiny else "qwen2-vl-2b"

    @property
    def dtype(self) -> str:
        return "float32" if self.tiny else "bfloat16"

    @property
    def device(self) -> str:
        return "cpu" if self.tiny else "cuda"

    @property
    def dimensions(self) -> Dimensions:
        return TINY if self.tiny else Dimensions()

    @property
    def image_px(self) -> tuple[int, int]:
        """Height and width of a picture of exactly ``image_tokens``: 28 x 28 px each, as square as can be."""
        rows = max(n for n in range(1, int(self.image_tokens**0.5) + 1) if self.image_tokens % n == 0)
        return 28 * rows, 28 * (self.image_tokens // rows)

    def step(self, prompt_tokens: int) -> Step:
        return Step(self.prompts, self.group, prompt_tokens, self.completion, self.image_tokens)


@dataclass(frozen=True)
class PaperWork(Work):
    """The files of one run; ``model`` holds a tokenizer, a processor and a configuration, and no weights."""

    @property
    def setting(self) -> PaperSetting:
        return PaperSetting(**self.read("setting"))


def model_config(d: Dimensions, special: dict[str, int]) -> dict[str, Any]:
    """A Qwen2-VL of these dimensions as its config.json. ``special``: the tokenizer's ids by name.

    Time, height and width share a head's rotary pairs as in Qwen2-VL: 16, 24, 24 of 64.
    """
    pairs = d.hidden // d.heads // 2
    return {
        "model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"], "tie_word_embeddings": True,
        "text_config": {
            "model_type": "qwen2_vl_text", "vocab_size": d.vocabulary, "hidden_size": d.hidden, "intermediate_size": d.mlp,
            "num_hidden_layers": d.layers, "num_attention_heads": d.heads, "num_key_value_heads": d.kv_heads,
            "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "bos_token_id": None,
            "eos_token_id": special["<|im_end|>"], "pad_token_id": special["<|endoftext|>"],
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e6, "mrope_section": [pairs // 4, pairs * 3 // 8, pairs * 3 // 8],
            },
        },
        "vision_config": {
            "model_type": "qwen2_vl_vision", "depth": d.vision_layers, "embed_dim": d.vision_width, "hidden_size": d.hidden,
            "num_heads": d.vision_heads, "mlp_ratio": d.vision_mlp_ratio, "patch_size": d.patch,
            "temporal_patch_size": d.temporal, "spatial_merge_size": d.merge,
        },
        "image_token_id": special["<|image_pad|>"], "video_token_id": special["<|video_pad|>"],
        "vision_start_token_id": special["<|vision_start|>"], "vision_end_token_id": special["<|vision_end|>"],
    }  # fmt: skip


def new_model(folder: Path, setting: PaperSetting) -> Any:
    """The model of a folder's configuration with random weights, made where it will run: the same in every process."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig

    config = AutoConfig.from_pretrained(folder)
    torch.manual_seed(0)
    with torch.device(setting.device):
        model = AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, setting.dtype))
    text = config.text_config
    model.generation_config = GenerationConfig(eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id)
    return model


def reward(token_ids: list[int]) -> float:
    """Any number that differs between completions: random weights write tokens that no tokenizer knows, so texts do not.

    >>> reward([5, 700, 400])
    0.105
    """
    return sum(token_ids) % 1000 / 1000
