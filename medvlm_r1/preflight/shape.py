"""What of a model decides how much memory and time it takes, as numbers."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from medvlm_r1.models import fast_vlm
from medvlm_r1.models.adapt import part_of
from medvlm_r1.models.families import FAMILIES
from medvlm_r1.preflight import convolved


@dataclass(frozen=True)
class Tower:
    """What a picture goes through before the decoder: ``weights`` parameters, the projector's included; the blocks have layers, width, heads and an MLP.

    A patch is ``frames`` times ``patch_px`` pixels square, and ``merged`` of them become one token of the prompt. ``tile``: patches of the
    one size that it takes, 0 where it takes any; ``most_tiles`` of a picture, where the image budget does not say.
    Kept of a patch for the backward pass: ``kept`` vectors of the blocks' width, ``kept_mlp`` of the MLP's (on a CPU, on a GPU); of a token
    ``projected`` numbers. A tower of convolutions is one block without attention: its patches are the cells of its last map, and ``convolved``
    numbers are kept of a cell, projector and pixels included (preflight.convolved counts them).

    >>> tower = QWEN2_VL_2B.tower
    >>> tower.seen(401408), tower.patch_values
    ((2048, 512), 1176)
    >>> SIGLIP = Tower(419_797_744, 27, 1152, 16, 4304, patch_px=14, frames=1, tile=4096, merged=16, most_tiles=1)  # Gemma 3's, of 896 px
    >>> SIGLIP.seen(401408)
    (4096, 256)
    >>> CUT = Tower(0, 24, 1024, 16, 4096, patch_px=14, frames=1, tile=1024, merged=4)  # InternVL3's, of 448 px: two tiles and a thumbnail
    >>> CUT.seen(401408), CUT.seen(448**2)
    ((3072, 768), (1024, 256))
    """

    weights: int
    layers: int
    hidden: int
    heads: int
    mlp: int
    trains: bool = True
    patch_px: int = 14
    frames: int = 2
    merged: int = 4
    tile: int = 0
    most_tiles: int = 0
    kept: int = 11
    kept_mlp: tuple[int, int] = (3, 2)
    projected: int = 0
    convolved: int = 0

    @property
    def patch_values(self) -> int:
        """Numbers of a patch: colours, frames, height, width."""
        return 3 * self.frames * self.patch_px**2

    def seen(self, max_pixels: int) -> tuple[int, int]:
        """Patches and tokens of the largest picture of so many pixels. Where it is cut into tiles, it is seen whole once more."""
        if not self.tile:
            tokens = max_pixels // (self.merged * self.patch_px**2)
            return self.merged * tokens, tokens
        cut = max(1, max_pixels // (self.tile * self.patch_px**2))
        tiles = self.most_tiles or cut + (cut > 1)
        return tiles * self.tile, tiles * self.tile // self.merged

    @classmethod
    def of(cls, model: Any) -> "Tower":
        """That of a model of transformers, counted in its own modules; it may be on the meta device."""
        config, text = model.config, model.config.get_text_config()
        vision, family = getattr(config, "vision_config", text), FAMILIES.get(config.model_type)
        sees = {name: p for name, p in model.named_parameters() if part_of(name) == "vision"}
        if family and not (getattr(vision, "num_attention_heads", None) or getattr(vision, "num_heads", None)):
            trains, cells = any(p.requires_grad for p in sees.values()), family.tile_tokens(config)
            kept, side = convolved.kept(model, family, cells) // cells, fast_vlm.cell_px(config)
            return cls(sum(p.numel() for p in sees.values()), 1, vision.hidden_size, 0, 0, trains, side, frames=1, merged=1, tile=cells, convolved=kept)
        modules = {name: module for name, module in model.named_modules() if part_of(f"{name}.") == "vision"}
        width = getattr(vision, "embed_dim", None) or getattr(vision, "hidden_size", text.hidden_size)  # Qwen2-VL's hidden_size is what its tower hands on
        around = [part for name, part in modules.items() if isinstance(part, nn.Linear) and not {"layers", "layer", "blocks"} & set(name.split("."))]
        side, merge = _side(vision, "patch_size", 14), getattr(vision, "spatial_merge_size", None) or getattr(config, "spatial_merge_size", None)
        tile = 0 if merge else (_side(vision, "image_size", 0) // side) ** 2
        tokens = family.tile_tokens(config) if family else getattr(config, "mm_tokens_per_image", tile)
        cuts = [height * width for height, width in getattr(config, "image_grid_pinpoints", ())]
        return cls(
            weights=sum(p.numel() for p in sees.values()),
            layers=getattr(vision, "depth", None) or vision.num_hidden_layers,
            hidden=width,
            heads=getattr(vision, "num_attention_heads", None) or int(getattr(vision, "num_heads", 1)),
            mlp=getattr(vision, "intermediate_size", None) or int(width * getattr(vision, "mlp_ratio", 4)),
            trains=any(p.requires_grad for p in sees.values()),
            patch_px=side,
            frames=getattr(vision, "temporal_patch_size", 1),
            merged=int(merge**2 if merge else tile // tokens if tile and tokens else 1),
            tile=tile,
            most_tiles=0 if family else 1 if not cuts else max(cuts) // (tile * side**2) + 1,
            kept=8 + 3 * any("rotary" in name for name in modules) + 2 * any("lambda_" in name for name in sees),
            kept_mlp=_kept_mlp(vision, sees),
            projected=2 * sum(part.in_features for part in around),
        )


def _side(vision: Any, name: str, other: int) -> int:
    found = getattr(vision, name, None) or other
    return int(found[0] if isinstance(found, (list, tuple)) else found)


def _kept_mlp(vision: Any, parameters: Any) -> tuple[int, int]:
    """A quick GELU keeps its gate too, but where it is one kernel; a gated MLP its gate before and after, what goes up, and their product."""
    if any("gate_proj" in name for name in parameters):
        return 4, 4
    if getattr(vision, "hidden_act", "") != "quick_gelu":
        return 2, 2
    return (3, 2) if hasattr(vision, "depth") else (3, 3)


@dataclass(frozen=True)
class ModelShape:
    """What of a model decides how much memory it takes.

    ``kv_size`` is key-value heads times head size. ``trainable`` parameters have a gradient;
    ``adapters`` are those among them that a reference leaves out. ``query_size`` is that of all query heads, 0 where it is ``hidden``;
    ``norms_behind``: each half of a layer has a norm behind it, too; ``head_norms``: queries and keys have.

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
    tower: Tower
    adapters: int = 0
    shares_prompts: bool = True
    query_size: int = 0
    norms_behind: bool = False
    head_norms: bool = False

    @property
    def query(self) -> int:
        """Query heads times head size."""
        return self.query_size or self.hidden

    @classmethod
    def of(cls, model: Any, shares_prompts: bool = True) -> "ModelShape":
        """The shape of a model of transformers; it may be on the meta device, without weights. ``shares_prompts``: see Policy."""
        text = model.config.get_text_config()
        parameters = list(model.parameters())
        head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        layer, query = model.get_decoder().layers[0], text.num_attention_heads * head_size
        return cls(
            sum(p.numel() for p in parameters),
            sum(p.numel() for p in parameters if p.requires_grad),
            text.vocab_size,
            text.num_hidden_layers,
            text.hidden_size,
            text.num_attention_heads,
            (getattr(text, "num_key_value_heads", None) or text.num_attention_heads) * head_size,
            text.intermediate_size,
            Tower.of(model),
            sum(p.numel() for name, p in model.named_parameters() if ".lora_" in name),
            shares_prompts,
            query if query != text.hidden_size else 0,
            hasattr(layer, "pre_feedforward_layernorm"),
            hasattr(getattr(layer, "self_attn", None), "q_norm"),
        )


def qwen2_vl(hidden: int) -> Tower:
    """Qwen2-VL's tower before a decoder of this width: it hands on 1,536 numbers with 665,271,296 parameters, and has 5,121 more for each one more.

    >>> qwen2_vl(1536) == QWEN2_VL_2B.tower
    True
    """
    return Tower(665_271_296 + 5121 * (hidden - 1536), 32, 1280, 16, 5120, projected=2 * (5120 + 5120))


QWEN2_VL_2B = ModelShape(2_208_985_600, 2_208_985_600, 151_936, 28, 1536, 12, 256, 8960, qwen2_vl(1536))
QWEN2_VL_7B = ModelShape(8_291_375_616, 8_291_375_616, 152_064, 28, 3584, 28, 512, 18944, qwen2_vl(3584))
QWEN2_VL_72B = ModelShape(73_405_560_320, 73_405_560_320, 152_064, 80, 8192, 64, 1024, 29568, qwen2_vl(8192))
KNOWN = {
    "Qwen/Qwen2-VL-2B-Instruct": QWEN2_VL_2B,
    "Qwen/Qwen2-VL-7B-Instruct": QWEN2_VL_7B,
    "Qwen/Qwen2-VL-72B-Instruct": QWEN2_VL_72B,
}
