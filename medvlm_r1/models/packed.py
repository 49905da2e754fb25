"""The decoder's weights as four matrices a layer, for a few tokens at a time and no gradients."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

from medvlm_r1.models import lora
from medvlm_r1.models.decoder import Attention, Heads, Layer, Rotary, gated, halves, norm_heads
from medvlm_r1.models.norms import Norms, rms_norm

WIDE = 2**23  # elements of a head from which its own order in memory is worth a copy: half the time with 8 rows, two thirds with 32


class Packed:
    """One layer. ``load`` after its weights have changed."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.attention, self.heads, self.act = attention, Heads.of(attention.config), mlp.act_fn
        self.norms = Norms.of(layer)
        self._qkv = Matrix([attention.q_proj, attention.k_proj, attention.v_proj])
        self._out = Matrix([attention.o_proj])
        self._gate_up = Matrix([mlp.gate_proj, mlp.up_proj])
        self._down = Matrix([mlp.down_proj])

    def __call__(self, x_TH: torch.Tensor, added_TH: torch.Tensor, rotary: Rotary, attend: Attention) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``further``. On a GPU compiled as a whole: so many small kernels take longer to launch than to run."""
        return (_compiled() if x_TH.is_cuda else further)(self, x_TH, added_TH, rotary, attend)

    def load(self, rows: int) -> None:
        for matrix in (self._qkv, self._out, self._gate_up, self._down):
            matrix.load(rows)

    def qkv(self, x_TH: torch.Tensor) -> torch.Tensor:
        return norm_heads(self.attention, self.heads, self._qkv(rms_norm(x_TH, self.norms.before_attention)).unflatten(1, (-1, self.heads.size)))

    def out(self, attended_TH: torch.Tensor) -> torch.Tensor:
        # Wide, so that a compiler adds it to the state where that is normed, not in the product, for which it would copy the state first.
        return rms_norm(self._out(attended_TH), self.norms.behind_attention).float()

    def mlp(self, x_TH: torch.Tensor) -> torch.Tensor:
        gate_TM, up_TM = self._gate_up(rms_norm(x_TH, self.norms.before_mlp)).chunk(2, 1)
        return rms_norm(self._down(gated(gate_TM, up_TM, self.act)), self.norms.behind_mlp)


class Matrix:
    """Linear layers that share their input, as one product. What it multiplies by keeps its place in memory from load to load.

    On x86 oneDNN reorders the weight for products with few rows: a third faster. In float32 that copy has the adapters merged in.
    Elsewhere they stay apart, two thin products for all of them: a bfloat16 matrix with a young adapter merged in is
    the matrix, since most of what was added is less than half the distance to its next number.
    """

    def __init__(self, parts: list[Any]) -> None:
        self.parts = parts
        self.weight_OI: torch.Tensor | None = None
        self.bias_O: torch.Tensor | None = None
        self.ordered: torch.Tensor | None = None
        self.down_EI: torch.Tensor | None = None  # E: the ranks of all adapters together
        self.up_OE: torch.Tensor | None = None

    def load(self, rows: int) -> None:
        """As the weights are now, for products with about so many rows."""
        if self.parts[0].bias is not None:
            self.bias_O = _into(self.bias_O, _joined([part.bias for part in self.parts]))
        weights = [lora.base(part).weight for part in self.parts]
        is_reordered = weights[0].is_cpu and _can_reorder(weights[0].dtype)
        if is_reordered and weights[0].dtype == torch.float32:
            weights = [lora.merged(part) for part in self.parts]
        elif any(map(lora.is_adapted, self.parts)):
            down, up = zip(*map(lora.low_rank, self.parts), strict=True)
            self.down_EI, self.up_OE = _into(self.down_EI, torch.cat(down)), _into(self.up_OE, torch.block_diag(*up))
        if is_reordered:
            self.ordered = torch.ops.mkldnn._reorder_linear_weight(_joined(weights).contiguous(), rows)
        else:
            self.weight_OI = _into(self.weight_OI, _joined(weights))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.ordered is None:
            assert self.weight_OI is not None, "load first"
            y = F.linear(x, self.weight_OI, self.bias_O)
        else:
            y = torch.ops.mkldnn._linear_pointwise(_rounded_up(x), self.ordered, self.bias_O, "none", [], "")[: len(x)]
        if self.down_EI is None or self.up_OE is None:
            return y
        return y + F.linear(F.linear(x, self.down_EI), self.up_OE)


def for_few(head: Any, rows: int) -> Any:
    """The head as its weights are now, for products with about so many rows; itself where a copy in another order is not worth it."""
    if not (head.weight.is_cpu and _can_reorder(head.weight.dtype) and head.weight.numel() >= WIDE):
        return head
    matrix = Matrix([head])
    matrix.load(rows)
    return matrix


def further(layer: Layer, x_TH: torch.Tensor, added_TH: torch.Tensor, rotary: Rotary, attend: Attention) -> tuple[torch.Tensor, torch.Tensor]:
    """One layer, which begins with the last sum of the one before: the state, and what is still to be added to it.

    So a sum and the norm of it are one kernel wherever a layer is compiled alone.
    """
    return halves(layer, x_TH + added_TH, rotary, attend, None)


@cache
def _compiled() -> Callable[[Layer, torch.Tensor, torch.Tensor, Rotary, Attention], tuple[torch.Tensor, torch.Tensor]]:
    """One layer for all of them: their weights and caches are handed in. Without a compiler (no Triton) as it stands."""
    return torch.compile(further) if torch.utils._triton.has_triton() else further


def rows_for(rows: int) -> int:
    """How many rows oneDNN is given for so many: few numbers, since it keeps half a megabyte of code for each that it meets, up to 1,024 of them.

    One row stays one: it is the only number whose sums oneDNN orders otherwise.

    >>> [rows_for(n) for n in (1, 2, 7, 8, 9, 17, 33, 64)]
    [1, 2, 7, 8, 10, 20, 40, 64]
    """
    step = 1 << max(0, rows.bit_length() - 3)
    return -(-rows // step) * step


def _rounded_up(x: torch.Tensor) -> torch.Tensor:
    more = rows_for(len(x)) - len(x)
    return F.pad(x, (0, 0, 0, more)) if more else x


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
