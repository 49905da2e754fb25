"""The text decoder, once: training, scoring, prefill and decoding all run ``run`` and ``through`` below.

transformers' modules hold the weights; that our layer computes what theirs does
is tested for every family. What differs between passes is handed in: who
attends to whom (``attend``: models.tree, models.decoding) and how the weights
lie (``Live`` where gradients flow, models.packed where few tokens do).

Legend: T tokens one after another, without padding; H hidden size; D head size;
Q query heads, K key heads; M width of the MLP; W tokens whose result is wanted; I image tokens; F layers that get features added.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from medvlm_r1.models import lora
from medvlm_r1.models.fused import fused
from medvlm_r1.models.norms import SANDWICH, Norms, computed, normed
from medvlm_r1.models.sight import FULL, WINDOW, kinds

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(layer number, q (T, Q, D), k (T, K, D), v (T, K, D)) to (T, Q·D)."""

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""The same of one layer."""

Through = Callable[[torch.Tensor, "Rotary", Attention, torch.Tensor | None], torch.Tensor]
"""``through`` of one layer."""


class Layer(Protocol):
    """A decoder layer's weights: two maps around the attention, each with its norms."""

    @property
    def heads(self) -> "Heads": ...

    def qkv(self, x_TH: torch.Tensor) -> torch.Tensor:
        """Normed and projected: (T, Q + 2K, D), queries first, then keys, then values."""
        ...

    def out(self, attended_TH: torch.Tensor) -> torch.Tensor: ...

    def mlp(self, x_TH: torch.Tensor) -> torch.Tensor:
        """Normed, through the gated MLP, and normed again where the layer has a norm there: (T, H)."""
        ...


@dataclass(frozen=True)
class Heads:
    """How many heads a decoder has.

    factor: of the queries, where scores are not divided by the root of the head size, as every attention here does.

    >>> from types import SimpleNamespace
    >>> Heads.of(SimpleNamespace(num_attention_heads=12, num_key_value_heads=2, hidden_size=1536))
    Heads(query=12, key=2, size=128, factor=1.0)
    """

    query: int
    key: int
    size: int
    factor: float = 1.0

    @staticmethod
    def of(config: Any) -> "Heads":
        """From a text configuration of transformers."""
        query = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // query
        return Heads(query, config.num_key_value_heads, size, (size / (getattr(config, "query_pre_attn_scalar", None) or size)) ** 0.5)


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
class Turns:
    """The rotary positions of all layers; those of one kind share theirs.

    >>> turns = Turns({"a": Rotary.of(torch.zeros(3, 2), torch.ones(3, 2))}, ("a", "a"))
    >>> len(turns), len(turns.at(torch.tensor([2]))), turns[0] is turns[1]
    (3, 1, True)
    """

    of_kind: dict[str, Rotary]
    kind_of_layer: tuple[str, ...]

    def at(self, places: torch.Tensor) -> "Turns":
        return Turns({kind: rotary.at(places) for kind, rotary in self.of_kind.items()}, self.kind_of_layer)

    def __getitem__(self, layer: int) -> Rotary:
        return self.of_kind[self.kind_of_layer[layer]]

    def __len__(self) -> int:
        return len(next(iter(self.of_kind.values())).cos_T1D)


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
    layers: Sequence[Through],
    x_TH: torch.Tensor,
    turns: Turns,
    attend: Attend,
    wanted: torch.Tensor | None = None,
    added: Added | None = None,
) -> torch.Tensor:
    """All layers: (T, H) to the ``wanted`` tokens' (W, H), before the last norm.

    Behind its attention the last layer works on the wanted tokens alone: nobody reads what the others would become.
    """
    for n, layer in enumerate(layers):
        if added is not None:
            x_TH = added.behind(n - 1, x_TH)
        x_TH = layer(x_TH, turns[n], partial(attend, n), wanted if n == len(layers) - 1 else None)
    return x_TH


def through(layer: Layer, x_TH: torch.Tensor, rotary: Rotary, attend: Attention, wanted: torch.Tensor | None) -> torch.Tensor:
    """One layer: (T, H) to (T, H), or to the ``wanted`` tokens' (W, H)."""
    x_TH, added_TH = halves(layer, x_TH, rotary, attend, wanted)
    return x_TH + added_TH


def halves(layer: Layer, x_TH: torch.Tensor, rotary: Rotary, attend: Attention, wanted: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """One layer but for its last sum: the state behind the attention, and what the MLP adds to it."""
    heads = layer.heads
    qk, v = layer.qkv(x_TH).split([heads.query + heads.key, heads.key], 1)
    q, k = rotary(qk).split([heads.query, heads.key], 1)
    attended = attend(q, k, v)
    if wanted is not None:
        x_TH, attended = x_TH.index_select(0, wanted), attended.index_select(0, wanted)
    x_TH = (x_TH + layer.out(attended)).to(x_TH.dtype)
    return x_TH, layer.mlp(x_TH)


def make_callable(model: Any, text: Any) -> None:
    """Gives a model of transformers what our passes call: ``within`` on the whole of it, ``through`` on each decoder layer.

    These are the places for what takes hold of a module as it is called: hooks, compilation, activation checkpoints,
    FSDP2's ``register_fsdp_forward_method``. The modules' own ``forward`` stays transformers'. A deep copy's are its own.
    """
    if not hasattr(model, "within"):
        model.within = MethodType(_within, model)
    for layer in text.layers:
        if not hasattr(layer, "through"):
            layer.through = MethodType(_through, layer)


def _within(_model: Any, work: Callable[..., Any], *args: Any) -> Any:
    return work(*args)


def _through(layer: Any, x_TH: torch.Tensor, rotary: Rotary, attend: Attention, wanted: torch.Tensor | None) -> torch.Tensor:
    return through(Live(layer), x_TH, rotary, attend, wanted)


# ---------------------------------------------------------------- which layers of transformers these are

PARTS = {
    "": {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"},
    "self_attn": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "mlp": {"gate_proj", "up_proj", "down_proj", "act_fn"},
}
OPTIONAL = {"q_norm", "k_norm", "rotary_emb"}
UNUSUAL = ("attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention")


def strange(text: Any) -> str | None:
    """What in a decoder of transformers ``run`` would not compute; None where it is of LLaMA's kind or of Gemma's."""
    if other := sorted(set(kinds(text.config)) - {FULL, WINDOW}):
        return f"its attention is {other[0]}"
    if unusual := next((f"{name} = {value}" for name in UNUSUAL if (value := getattr(text.config, name, None))), None):
        return unusual
    for layer in text.layers:
        for path, names in PARTS.items():
            module = layer.get_submodule(path)
            other = sorted(({name for name, _ in module.named_children()} - OPTIONAL) ^ names)
            if other and set(other) != SANDWICH:
                return f"{type(module).__name__} differs in {', '.join(other)}"
        for norm in Norms.of(layer):
            if not (norm is None or computed(norm)):
                return f"{type(norm).__name__} is no RMSNorm of LLaMA's kind or of Gemma's"
        heads, scaling = Heads.of(text.config), layer.self_attn.scaling
        if not math.isclose(scaling, heads.factor * heads.size**-0.5):
            return f"{type(layer.self_attn).__name__} scales its scores by {scaling}"
    return None


# ---------------------------------------------------------------- how the weights lie


@dataclass(frozen=True)
class Live:
    """A layer of transformers as it stands: gradients reach its weights, adapters on its matrices take part."""

    layer: Any

    @property
    def heads(self) -> Heads:
        return Heads.of(self.layer.self_attn.config)

    def qkv(self, x_TH: torch.Tensor) -> torch.Tensor:
        attention, x_TH = self.layer.self_attn, normed(x_TH, Norms.of(self.layer).before_attention)
        parts = [attention.q_proj, attention.k_proj, attention.v_proj]
        bias = None if parts[0].bias is None else torch.cat([part.bias for part in parts])
        flat = F.linear(x_TH, torch.cat([lora.base(part).weight for part in parts]), bias)
        if any(map(lora.is_adapted, parts)):  # on top of the same product: adapters at zero change no bit
            flat = flat + torch.cat([lora.added(part, x_TH) for part in parts], 1)
        return norm_heads(attention, self.heads, flat.unflatten(1, (-1, self.heads.size)))

    def out(self, attended_TH: torch.Tensor) -> torch.Tensor:
        return normed(self.layer.self_attn.o_proj(attended_TH), Norms.of(self.layer).behind_attention)

    def mlp(self, x_TH: torch.Tensor) -> torch.Tensor:
        mlp, norms = self.layer.mlp, Norms.of(self.layer)
        x_TH = normed(x_TH, norms.before_mlp)
        return normed(mlp.down_proj(gated(mlp.gate_proj(x_TH), mlp.up_proj(x_TH), mlp.act_fn)), norms.behind_mlp)


def norm_heads(attention: Any, heads: Heads, qkv: torch.Tensor) -> torch.Tensor:
    """Qwen3 and Gemma 3 norm each query and key head; the others do not."""
    has_norms = hasattr(attention, "q_norm")
    if not has_norms and heads.factor == 1:
        return qkv
    q, k, v = qkv.split([heads.query, heads.key, heads.key], 1)
    if has_norms:
        q, k = attention.q_norm(q), attention.k_norm(k)
    return torch.cat([q if heads.factor == 1 else q * heads.factor, k, v], 1)


@fused
def gated(gate_TM: torch.Tensor, up_TM: torch.Tensor, act: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """The gate of a gated MLP (Shazeer 2020, arXiv 2002.05202)."""
    return act(gate_TM) * up_TM
