"""The text decoder, once: training, scoring, prefill and decoding all run ``run`` below.

transformers' modules hold the weights; that our layer computes what theirs does
is tested for every family. What differs between passes is handed in: who
attends to whom (``attend``: models.tree, models.decoding) and how the weights
lie (``Live`` where gradients flow, ``Packed`` where few tokens do).

Legend: T tokens one after another, without padding; H hidden size; D head size;
Q query heads, K key heads; M width of the MLP; W tokens whose result is wanted; I image tokens; F layers that get features added.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from medvlm_r1.models import lora
from medvlm_r1.models.fused import fused

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(layer number, q (T, Q, D), k (T, K, D), v (T, K, D)) to (T, Q·D)."""


class Layer(Protocol):
    """One decoder layer: two maps around the attention, each with its norm."""

    heads: "Heads"

    def qkv(self, x_TH: torch.Tensor) -> torch.Tensor:
        """Normed and projected: (T, Q + 2K, D), queries first, then keys, then values."""
        ...

    def out(self, attended_TH: torch.Tensor) -> torch.Tensor: ...

    def mlp(self, x_TH: torch.Tensor) -> torch.Tensor:
        """Normed and through the gated MLP: (T, H)."""
        ...


@dataclass(frozen=True)
class Heads:
    """How many heads a decoder has.

    >>> from types import SimpleNamespace
    >>> Heads.of(SimpleNamespace(num_attention_heads=12, num_key_value_heads=2, hidden_size=1536))
    Heads(query=12, key=2, size=128)
    """

    query: int
    key: int
    size: int

    @staticmethod
    def of(config: Any) -> "Heads":
        """From a text configuration of transformers."""
        query = config.num_attention_heads
        return Heads(query, config.num_key_value_heads, getattr(config, "head_dim", None) or config.hidden_size // query)


@dataclass(frozen=True)
class Rotary:
    """Rotary positions: every pair (d, d + D/2) of a head is turned by its position's angle (arXiv 2104.09864).

    cos_T1D, sin_T1D: as transformers gives them; the sines of the first half negated.

    >>> quarter = Rotary.of(torch.zeros(1, 2), torch.ones(1, 2))
    >>> quarter(torch.tensor([[[1.0, 2.0]]])).tolist()
    [[[-2.0, 1.0]]]
    """

    cos_T1D: torch.Tensor
    sin_T1D: torch.Tensor

    @staticmethod
    def of(cos_TD: torch.Tensor, sin_TD: torch.Tensor) -> "Rotary":
        first, second = sin_TD[:, None].chunk(2, -1)
        return Rotary(cos_TD[:, None], torch.cat([-first, second], -1))

    def at(self, places: torch.Tensor) -> "Rotary":
        return Rotary(self.cos_T1D[places], self.sin_T1D[places])

    def __call__(self, x_TND: torch.Tensor) -> torch.Tensor:
        turn = _Turn.apply if x_TND.requires_grad else _turn
        return turn(x_TND, self.cos_T1D, self.sin_T1D)


class _Turn(torch.autograd.Function):
    """The gradient of a turn is the turn back: a quarter of the time of what autograd would do on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, -sin), None, None


@fused
def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


@dataclass(frozen=True)
class Added:
    """What some tokens get added to their state behind each of the first layers (DeepStack, arXiv 2406.04334); never behind the last.

    places_I: those tokens; features_IFH: one row for each of F layers.
    """

    places_I: torch.Tensor
    features_IFH: torch.Tensor

    def behind(self, layer: int, x_TH: torch.Tensor) -> torch.Tensor:
        if not 0 <= layer < self.features_IFH.shape[1]:
            return x_TH
        return x_TH.index_add(0, self.places_I, self.features_IFH[:, layer])


def run(
    layers: Sequence[Layer],
    x_TH: torch.Tensor,
    rotary: Rotary,
    attend: Attend,
    wanted: torch.Tensor | None = None,
    added: Added | None = None,
) -> torch.Tensor:
    """All layers: (T, H) to the ``wanted`` tokens' (W, H), before the last norm.

    Behind its attention the last layer works on the wanted tokens alone: nobody reads what the others would become.
    """
    heads = layers[0].heads
    for n, layer in enumerate(layers):
        if added is not None:
            x_TH = added.behind(n - 1, x_TH)
        qk, v = layer.qkv(x_TH).split([heads.query + heads.key, heads.key], 1)
        q, k = rotary(qk).split([heads.query, heads.key], 1)
        attended = attend(n, q, k, v)
        if wanted is not None and n == len(layers) - 1:
            x_TH, attended = x_TH.index_select(0, wanted), attended.index_select(0, wanted)
        x_TH = x_TH + layer.out(attended)
        x_TH = x_TH + layer.mlp(x_TH)
    return x_TH


# ---------------------------------------------------------------- which layers of transformers these are

PARTS = {
    "": {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"},
    "self_attn": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "mlp": {"gate_proj", "up_proj", "down_proj", "act_fn"},
}
OPTIONAL = {"q_norm", "k_norm", "rotary_emb"}


def strange(text: Any) -> str | None:
    """What in a decoder of transformers ``run`` would not compute; None where it is of LLaMA's kind, with or without Qwen3's norms."""
    windows = ["sliding_attention"] if getattr(text.config, "sliding_window", None) else []
    if set(getattr(text.config, "layer_types", None) or windows) - {"full_attention"}:
        return "attention that does not see every earlier token"
    for layer in text.layers:
        for path, names in PARTS.items():
            module = layer.get_submodule(path)
            other = ({name for name, _ in module.named_children()} - OPTIONAL) ^ names
            if other:
                return f"{type(module).__name__} differs in {', '.join(sorted(other))}"
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            if not hasattr(norm, "variance_epsilon"):  # one that scales by 1 + weight calls it otherwise
                return f"{type(norm).__name__} is no RMSNorm of LLaMA's kind"
        if not math.isclose(layer.self_attn.scaling, layer.self_attn.head_dim**-0.5):
            return f"{type(layer.self_attn).__name__} scales its scores by {layer.self_attn.scaling}"
    return None


# ---------------------------------------------------------------- how the weights lie


@dataclass(frozen=True)
class Live:
    """A layer of transformers as it stands: gradients reach its weights, adapters on its matrices take part."""

    layer: Any
    heads: Heads

    def qkv(self, x_TH: torch.Tensor) -> torch.Tensor:
        attention, x_TH = self.layer.self_attn, self.layer.input_layernorm(x_TH)
        parts = [attention.q_proj, attention.k_proj, attention.v_proj]
        bias = None if parts[0].bias is None else torch.cat([part.bias for part in parts])
        flat = F.linear(x_TH, torch.cat([lora.base(part).weight for part in parts]), bias)
        if any(map(lora.is_adapted, parts)):  # on top of the same product: adapters at zero change no bit
            flat = flat + torch.cat([lora.added(part, x_TH) for part in parts], 1)
        return norm_heads(attention, self.heads, flat.unflatten(1, (-1, self.heads.size)))

    def out(self, attended_TH: torch.Tensor) -> torch.Tensor:
        return self.layer.self_attn.o_proj(attended_TH)

    def mlp(self, x_TH: torch.Tensor) -> torch.Tensor:
        mlp, x_TH = self.layer.mlp, self.layer.post_attention_layernorm(x_TH)
        return mlp.down_proj(gated(mlp.gate_proj(x_TH), mlp.up_proj(x_TH), mlp.act_fn))


def norm_heads(attention: Any, heads: Heads, qkv: torch.Tensor) -> torch.Tensor:
    """Qwen3 norms each query and key head; the others do not."""
    if not hasattr(attention, "q_norm"):
        return qkv
    q, k, v = qkv.split([heads.query, heads.key, heads.key], 1)
    return torch.cat([attention.q_norm(q), attention.k_norm(k), v], 1)


class Packed:
    """The same weights as four matrices, for a few tokens at a time and no gradients. ``load`` after they have changed."""

    def __init__(self, layer: Any, heads: Heads) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.attention, self.heads, self.act = attention, heads, mlp.act_fn
        self.norms = (layer.input_layernorm, layer.post_attention_layernorm)
        self._qkv = Matrix([attention.q_proj, attention.k_proj, attention.v_proj])
        self._out = Matrix([attention.o_proj])
        self._gate_up = Matrix([mlp.gate_proj, mlp.up_proj])
        self._down = Matrix([mlp.down_proj])

    def load(self, rows: int) -> None:
        for matrix in (self._qkv, self._out, self._gate_up, self._down):
            matrix.load(rows)

    def qkv(self, x_TH: torch.Tensor) -> torch.Tensor:
        return norm_heads(self.attention, self.heads, self._qkv(rms_norm(x_TH, self.norms[0])).unflatten(1, (-1, self.heads.size)))

    def out(self, attended_TH: torch.Tensor) -> torch.Tensor:
        return self._out(attended_TH)

    def mlp(self, x_TH: torch.Tensor) -> torch.Tensor:
        gate_TM, up_TM = self._gate_up(rms_norm(x_TH, self.norms[1])).chunk(2, 1)
        return self._down(gated(gate_TM, up_TM, self.act))


class Matrix:
    """Linear layers that share their input, as one product. What it multiplies by keeps its place in memory from load to load.

    On x86 oneDNN reorders the weight for products with few rows: a third faster.
    Adapters stay apart, two thin products for all of them: a bfloat16 matrix with a young adapter merged in is
    the matrix, since most of what was added is less than half the distance to its next number.
    """

    def __init__(self, parts: list[Any]) -> None:
        self.parts, self.weight_OI, self.bias_O, self.ordered = parts, None, None, None
        self.down_EI, self.up_OE = None, None  # E: the ranks of all adapters together

    def load(self, rows: int) -> None:
        """As the weights are now, for products with about so many rows."""
        self.weight_OI = _into(self.weight_OI, _joined([lora.base(part).weight for part in self.parts]))
        if self.parts[0].bias is not None:
            self.bias_O = _into(self.bias_O, _joined([part.bias for part in self.parts]))
        if any(map(lora.is_adapted, self.parts)):
            down, up = zip(*map(lora.low_rank, self.parts), strict=True)
            self.down_EI, self.up_OE = _into(self.down_EI, torch.cat(down)), _into(self.up_OE, torch.block_diag(*up))
        if self.weight_OI.is_cpu and _can_reorder(self.weight_OI.dtype):
            self.ordered = torch.ops.mkldnn._reorder_linear_weight(self.weight_OI.contiguous(), rows)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.ordered is None:
            y = F.linear(x, self.weight_OI, self.bias_O)
        else:
            y = torch.ops.mkldnn._linear_pointwise(x, self.ordered, self.bias_O, "none", [], "")
        return y if self.up_OE is None else y + F.linear(F.linear(x, self.down_EI), self.up_OE)


@cache
def _can_reorder(dtype: torch.dtype) -> bool:
    """Whether oneDNN is there and knows the type here: bfloat16 wants AVX-512, which many a laptop lacks."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _into(place: torch.Tensor | None, value: torch.Tensor) -> torch.Tensor:
    return value if place is None or place is value else place.copy_(value)


@fused
def gated(gate_TM: torch.Tensor, up_TM: torch.Tensor, act: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """The gate of a gated MLP (Shazeer 2020, arXiv 2002.05202)."""
    return act(gate_TM) * up_TM


def rms_norm(x: torch.Tensor, norm: Any) -> torch.Tensor:
    """What a norm module of transformers computes, in one call (Zhang and Sennrich 2019, arXiv 1910.07467)."""
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)
