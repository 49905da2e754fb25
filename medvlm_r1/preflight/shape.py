"""What of a model decides how much memory and time it takes, as numbers."""

from dataclasses import dataclass
from typing import Any

from medvlm_r1.models.adapt import TEXT_DECODERS
from medvlm_r1.models.families import FAMILIES


@dataclass(frozen=True)
class ModelShape:
    """What of a model decides how much memory it takes.

    ``kv_size`` is key-value heads times head size. ``trainable`` parameters have a gradient;
    ``adapters`` are those among them that a reference leaves out. ``query_size`` is that of all query heads, 0 where it is ``hidden``;
    ``norms_behind``: each half of a layer has a norm behind it, too; ``head_norms``: queries and keys have.
    What a processor makes of a picture are rows: patches, or tiles of ``tile_patches``, with ``patch_values`` numbers and ``patch_tokens`` tokens a patch.

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
    query_size: int = 0
    norms_behind: bool = False
    head_norms: bool = False
    tile_patches: int = 1
    patch_values: int = 3 * 2 * 14 * 14  # colours, frames, height, width of what Qwen2-VL's tower calls a patch
    patch_tokens: float = 0.25

    @property
    def query(self) -> int:
        """Query heads times head size."""
        return self.query_size or self.hidden

    @classmethod
    def of(cls, model: Any, shares_prompts: bool = True) -> "ModelShape":
        """The shape of a model of transformers; it may be on the meta device, without weights. ``shares_prompts``: see Policy."""
        text = model.config.get_text_config()
        vision = getattr(model.config, "vision_config", text)
        parameters = list(model.parameters())
        head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        layer, query = model.get_decoder().layers[0], text.num_attention_heads * head_size
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
            query if query != text.hidden_size else 0,
            hasattr(layer, "pre_feedforward_layernorm"),
            hasattr(getattr(layer, "self_attn", None), "q_norm"),
            *(patches_of(model.config) if shares_prompts else ()),
        )


def patches_of(config: Any) -> tuple[int, int, float]:
    """``tile_patches``, ``patch_values``, ``patch_tokens`` of a family's configuration.

    >>> from types import SimpleNamespace
    >>> patches_of(SimpleNamespace(model_type="gemma3", mm_tokens_per_image=256, vision_config=SimpleNamespace(image_size=896, patch_size=14)))
    (4096, 588, 0.0625)
    """
    vision, family = config.vision_config, FAMILIES[config.model_type]
    patch, size = (x[0] if isinstance(x, list | tuple) else x for x in (vision.patch_size, getattr(vision, "image_size", 0)))
    if not (tokens := family.tile_tokens(config)):
        return 1, 3 * vision.temporal_patch_size * patch**2, 1 / vision.spatial_merge_size**2
    patches = (size // patch) ** 2
    return patches, 3 * patch**2, tokens / patches


QWEN2_VL_2B = ModelShape(2_208_985_600, 2_208_985_600, 151_936, 28, 1536, 12, 256, 8960, 32, 1280, 16, 5120)
QWEN2_VL_7B = ModelShape(8_291_375_616, 8_291_375_616, 152_064, 28, 3584, 28, 512, 18944, 32, 1280, 16, 5120)
QWEN2_VL_72B = ModelShape(73_405_560_320, 73_405_560_320, 152_064, 80, 8192, 64, 1024, 29568, 32, 1280, 16, 5120)
KNOWN = {
    "Qwen/Qwen2-VL-2B-Instruct": QWEN2_VL_2B,
    "Qwen/Qwen2-VL-7B-Instruct": QWEN2_VL_7B,
    "Qwen/Qwen2-VL-72B-Instruct": QWEN2_VL_72B,
}
