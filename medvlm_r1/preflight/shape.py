"""What of a model decides how much memory and time it takes, as numbers."""

from dataclasses import dataclass
from typing import Any

from medvlm_r1.models.adapt import TEXT_DECODERS


@dataclass(frozen=True)
class ModelShape:
    """What of a model decides how much memory it takes.

    ``kv_size`` is key-value heads times head size. ``trainable`` parameters have a gradient;
    ``adapters`` are those among them that a reference leaves out.

    >>> QWEN2_VL_2B.parameters, QWEN2_VL_2B.layers
    (2208985600, 28)
    """

    parameters: int
    trainable: int
    vocabulary: int
    layers: int
    hidden: int
    heads: int
    kv_size: int
    mlp: int
    vision_layers: int
    vision_hidden: int
    vision_heads: int
    vision_mlp: int
    vision_trains: bool = True
    adapters: int = 0
    shares_prompts: bool = True

    @classmethod
    def of(cls, model: Any, shares_prompts: bool = True) -> "ModelShape":
        """The shape of a model of transformers; it may be on the meta device, without weights. ``shares_prompts``: see Policy."""
        text = model.config.get_text_config()
        vision = getattr(model.config, "vision_config", text)
        parameters = list(model.parameters())
        head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        width = getattr(vision, "embed_dim", None) or getattr(vision, "hidden_size", text.hidden_size)  # Qwen2-VL's hidden_size is what its tower hands on
        return cls(
            sum(p.numel() for p in parameters),
            sum(p.numel() for p in parameters if p.requires_grad),
            text.vocab_size,
            text.num_hidden_layers,
            text.hidden_size,
            text.num_attention_heads,
            (getattr(text, "num_key_value_heads", None) or text.num_attention_heads) * head_size,
            text.intermediate_size,
            getattr(vision, "depth", None) or vision.num_hidden_layers,
            width,
            getattr(vision, "num_attention_heads", None) or int(getattr(vision, "num_heads", 1)),
            getattr(vision, "intermediate_size", None) or int(width * getattr(vision, "mlp_ratio", 4)),
            any(p.requires_grad for name, p in model.model.named_parameters() if name.split(".")[0] not in TEXT_DECODERS),
            sum(p.numel() for name, p in model.named_parameters() if ".lora_" in name),
            shares_prompts,
        )


QWEN2_VL_2B = ModelShape(2_208_985_600, 2_208_985_600, 151_936, 28, 1536, 12, 256, 8960, 32, 1280, 16, 5120)
QWEN2_VL_7B = ModelShape(8_291_375_616, 8_291_375_616, 152_064, 28, 3584, 28, 512, 18944, 32, 1280, 16, 5120)
QWEN2_VL_72B = ModelShape(73_405_560_320, 73_405_560_320, 152_064, 80, 8192, 64, 1024, 29568, 32, 1280, 16, 5120)
KNOWN = {
    "Qwen/Qwen2-VL-2B-Instruct": QWEN2_VL_2B,
    "Qwen/Qwen2-VL-7B-Instruct": QWEN2_VL_7B,
    "Qwen/Qwen2-VL-72B-Instruct": QWEN2_VL_72B,
}
