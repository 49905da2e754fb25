"""Who attends to whom when the completions of a prompt share it: a tree of one trunk per group.

All tokens of a pass lie in one row: first every prompt, then every completion.
A prompt token sees its prompt up to itself; a completion token sees the whole
of its own prompt and its completion up to itself.

    prompts        completions
    p0 p0 p0 p1 p1 a0 a0 b0 c1 c1      a0, b0 continue p0; c1 continues p1

On a GPU this is one FlexAttention mask over the row. Elsewhere prompts and
completions are padded for the attention alone; nothing else ever sees padding.

Legend: T tokens; P prompts; R completions; L longest prompt; C longest
completion; Q query heads, K key heads, D head size; N rows of either kind.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from medvlm_r1.models.blocks import block_mask, visible
from medvlm_r1.models.sent import sent


@dataclass(frozen=True)
class Rows:
    """Rows of different lengths, one after another in a flat tensor, and the padded form of it.

    Lengths stay on the host, whatever the ``device`` of the rows: asked for one, a GPU would have to finish its work first.
    What is worked out from them is sent there once.

    >>> rows = Rows(torch.tensor([2, 1]))
    >>> rows.pad(torch.tensor([5, 6, 7])).tolist()
    [[5, 6], [7, 0]]
    >>> rows.flat(rows.pad(torch.tensor([5, 6, 7]))).tolist()
    [5, 6, 7]
    """

    lengths_N: torch.Tensor
    at_least: int = 0  # padded to no less
    device: torch.device = torch.device("cpu")

    @cached_property
    def longest(self) -> int:
        return max(self.at_least, int(self.lengths_N.max()) if len(self.lengths_N) else 0)

    @cached_property
    def total(self) -> int:
        return int(self.lengths_N.sum())

    @cached_property
    def mask(self) -> torch.Tensor:
        """(N, longest): where a token is."""
        return sent(self._mask, self.device)

    @cached_property
    def _mask(self) -> torch.Tensor:
        return torch.arange(self.longest) < self.lengths_N[:, None]

    @property
    def last_N(self) -> torch.Tensor:
        """The place of each row's last token, on the host."""
        return self.lengths_N.cumsum(0) - 1

    @cached_property
    def row_T(self) -> torch.Tensor:
        """The row of each token, on the host."""
        return torch.arange(len(self.lengths_N)).repeat_interleave(self.lengths_N)

    @cached_property
    def _cells_T(self) -> torch.Tensor | None:
        """Where each token lies in the padded form; None where nothing needs padding."""
        return None if self.total == len(self.lengths_N) * self.longest else sent(self._mask.flatten().nonzero()[:, 0], self.device)

    def pad(self, flat: torch.Tensor) -> torch.Tensor:
        """(T, …) to (N, longest, …), zeros where no token is."""
        padded = flat if self._cells_T is None else _Pad.apply(flat, self._cells_T, len(self.lengths_N) * self.longest)
        return padded.unflatten(0, (len(self.lengths_N), self.longest))

    def flat(self, padded: torch.Tensor) -> torch.Tensor:
        """The inverse: (N, longest, …) to (T, …)."""
        cells = padded.flatten(0, 1)
        return cells if self._cells_T is None else _Flat.apply(cells, self._cells_T)


class _Pad(torch.autograd.Function):
    """Each is the other's gradient: autograd's own would add into zeros, token by token."""

    @staticmethod
    def forward(ctx: Any, flat: torch.Tensor, cells_T: torch.Tensor, count: int) -> torch.Tensor:
        ctx.save_for_backward(cells_T)
        return flat.new_zeros(count, *flat.shape[1:]).index_copy_(0, cells_T, flat)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return grad.index_select(0, ctx.saved_tensors[0]), None, None


class _Flat(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cells: torch.Tensor, cells_T: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cells_T)
        ctx.count = len(cells)
        return cells.index_select(0, cells_T)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        [cells_T] = ctx.saved_tensors
        return grad.new_zeros(ctx.count, *grad.shape[1:]).index_copy_(0, cells_T, grad), None


@dataclass(frozen=True)
class Tree:
    """The attention of one pass over prompts and completions. ``attend`` is what models.decoder wants.

    >>> tree = Tree(Rows(torch.tensor([2, 1])), Rows(torch.tensor([1, 2])), torch.tensor([0, 1]))
    >>> tree.sees.int().tolist()  # p0 p0 p1 a0 b1 b1
    [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0], [0, 0, 1, 0, 1, 0], [0, 0, 1, 0, 1, 1]]
    """

    prompts: Rows
    completions: Rows
    prompt_of_R: torch.Tensor  # on the host

    @staticmethod
    def of_prompts(prompts: Rows) -> "Tree":
        """Trunks without branches."""
        return Tree(prompts, Rows(prompts.lengths_N[:0], device=prompts.device), prompts.lengths_N[:0])

    @property
    def total(self) -> int:
        return self.prompts.total + self.completions.total

    @cached_property
    def group_T(self) -> torch.Tensor:
        """The prompt that each token belongs to, on the host."""
        return torch.cat([self.prompts.row_T, self.prompt_of_R[self.completions.row_T]])

    @cached_property
    def branch_T(self) -> torch.Tensor:
        """The completion that each token belongs to, on the host; -1 in a prompt."""
        return torch.cat([torch.full_like(self.prompts.row_T, -1), self.completions.row_T])

    @cached_property
    def sees(self) -> torch.Tensor:
        """The whole mask (T, T), to look at and to test with."""
        at = torch.arange(self.total)
        return visible(self.group_T, self.branch_T)(at, at, at[:, None], at)

    def attend(self, layer: int, q_TQD: torch.Tensor, k_TKD: torch.Tensor, v_TKD: torch.Tensor) -> torch.Tensor:
        """(T, Q·D)."""
        return self.masked(q_TQD, k_TKD, v_TKD, _flex()) if q_TQD.is_cuda else self.padded(q_TQD, k_TKD, v_TKD)

    def masked(self, q_TQD: torch.Tensor, k_TKD: torch.Tensor, v_TKD: torch.Tensor, flex: Callable[..., torch.Tensor]) -> torch.Tensor:
        """All tokens in one call of FlexAttention, which skips the blocks that see nothing of each other."""
        q, k, v = (x.transpose(0, 1)[None] for x in (q_TQD, k_TKD, v_TKD))
        return flex(q, k, v, block_mask=self._blocks, enable_gqa=True)[0].transpose(0, 1).flatten(1)

    @cached_property
    def _blocks(self) -> BlockMask:
        return block_mask(self.prompts.lengths_N.tolist(), self.completions.lengths_N.tolist(), self.prompt_of_R.tolist(), self.prompts.device)

    def padded(self, q_TQD: torch.Tensor, k_TKD: torch.Tensor, v_TKD: torch.Tensor) -> torch.Tensor:
        """Prompts first, then completions against both."""
        sizes = [self.prompts.total, self.completions.total]
        (qp, qc), (kp, kc), (vp, vc) = (x.split(sizes) for x in (q_TQD, k_TKD, v_TKD))
        q, k, v = (self.prompts.pad(x).transpose(1, 2) for x in (qp, kp, vp))
        # Padding is on the right: causal attention alone keeps it from real tokens.
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        prompts = self.prompts.flat(out.transpose(1, 2)).flatten(1)
        if not self.completions.total:
            return prompts
        own_q, own_k, own_v = (self.completions.pad(x).transpose(1, 2) for x in (qc, kc, vc))
        keys, values = (torch.cat([self._of_each_completion(x), own], 2) for x, own in ((k, own_k), (v, own_v)))
        out = F.scaled_dot_product_attention(own_q, keys, values, attn_mask=self._mask_R1CX, enable_gqa=True)
        return torch.cat([prompts, self.completions.flat(out.transpose(1, 2)).flatten(1)])

    @cached_property
    def _even(self) -> int:
        """Completions of each prompt where all have as many, in order; else 0."""
        prompts = len(self.prompts.lengths_N)
        group = len(self.prompt_of_R) // prompts
        in_order = torch.arange(prompts).repeat_interleave(group)
        return group if torch.equal(self.prompt_of_R, in_order) else 0

    def _of_each_completion(self, x_PKLD: torch.Tensor) -> torch.Tensor:
        """Each completion's prompt: (R, K, L, D). Groups of one size are expanded, whose gradient is a sum and no scatter."""
        if not self._even:
            return x_PKLD.index_select(0, sent(self.prompt_of_R, x_PKLD.device))
        return x_PKLD[:, None].expand(-1, self._even, -1, -1, -1).flatten(0, 1)

    @cached_property
    def _mask_R1CX(self) -> torch.Tensor:
        """For padded completions over X = L + C keys: the real tokens of the prompt, and the completion up to the query."""
        width = self.completions.longest
        own = torch.ones(width, width, dtype=torch.bool, device=self.prompts.device).tril()
        prompt_R1L = self.prompts.mask[sent(self.prompt_of_R, self.prompts.device), None]
        return torch.cat([prompt_R1L.expand(-1, width, -1), own.expand(len(prompt_R1L), -1, -1)], 2)[:, None]


@cache
def _flex() -> Callable[..., torch.Tensor]:
    """FlexAttention, compiled at its first use for any number of tokens."""
    return torch.compile(flex_attention, dynamic=True)
