"""Who attends to whom when the completions of a prompt share it: a tree of one trunk per group.

All tokens of a pass lie in one row: first every prompt, then every completion.
A prompt token sees its prompt up to itself; a completion token sees the whole
of its own prompt and its completion up to itself.

    prompts        completions
    p0 p0 p0 p1 p1 a0 a0 b0 c1 c1      a0, b0 continue p0; c1 continues p1

Where a layer has a window (models.sight), what is too far back is not seen:
by the places in a completion and its own prompt, whatever lies between them in
the row. Where pictures are seen whole, their tokens see later ones of the same.

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
import torch._dynamo.config as dynamo
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from medvlm_r1.models.blocks import block_mask, visible
from medvlm_r1.models.sent import sent

GRAPHS = 64  # of FlexAttention in a process: four or eight a model


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
    def place_T(self) -> torch.Tensor:
        """The place of each token in its row, on the host."""
        return torch.arange(self.total) - (self.lengths_N.cumsum(0) - self.lengths_N)[self.row_T]

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
    windows: tuple[int, ...] = ()  # of each layer (models.sight)
    picture_T: torch.Tensor | None = None  # of each prompt token, on the host, where pictures are seen whole (models.sight)

    @staticmethod
    def of_prompts(prompts: Rows, windows: tuple[int, ...] = (), picture_T: torch.Tensor | None = None) -> "Tree":
        """Trunks without branches."""
        return Tree(prompts, Rows(prompts.lengths_N[:0], device=prompts.device), prompts.lengths_N[:0], windows, picture_T)

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
    def depth_T(self) -> torch.Tensor:
        """The place of each token in its prompt and completion, on the host."""
        before_R = self.prompts.lengths_N[self.prompt_of_R]
        return torch.cat([self.prompts.place_T, before_R[self.completions.row_T] + self.completions.place_T])

    @property
    def sees(self) -> torch.Tensor:
        """The whole mask (T, T) of the first layer, to look at and to test with."""
        at = torch.arange(self.total)
        picture_T = None if self.picture_T is None else self._padded_picture_T
        return visible(self.group_T, self.branch_T, self.depth_T, picture_T, self._window(0))(at, at, at[:, None], at)

    def _window(self, layer: int) -> int:
        """Of a layer; 0 where everything lies within."""
        window = self.windows[layer] if self.windows else 0
        return window if window < self._deepest else 0

    @cached_property
    def _deepest(self) -> int:
        return int(self.depth_T.max()) + 1

    @cached_property
    def _sizes(self) -> set[int]:
        """All that ``_window`` says."""
        return {self._window(layer) for layer in range(len(self.windows) or 1)}

    @cached_property
    def _padded_picture_T(self) -> torch.Tensor:
        """Of all tokens: completions are text."""
        assert self.picture_T is not None
        return F.pad(self.picture_T, (0, self.completions.total), value=-1)

    def attend(self, layer: int, q_TQD: torch.Tensor, k_TKD: torch.Tensor, v_TKD: torch.Tensor) -> torch.Tensor:
        """(T, Q·D)."""
        window = self._window(layer)
        return self.masked(q_TQD, k_TKD, v_TKD, _flex(), window) if q_TQD.is_cuda else self.padded(q_TQD, k_TKD, v_TKD, window)

    def masked(self, q_TQD: torch.Tensor, k_TKD: torch.Tensor, v_TKD: torch.Tensor, flex: Callable[..., torch.Tensor], window: int = 0) -> torch.Tensor:
        """All tokens in one call of FlexAttention, which skips the blocks that see nothing of each other."""
        q, k, v = (x.transpose(0, 1)[None] for x in (q_TQD, k_TKD, v_TKD))
        return flex(q, k, v, block_mask=self._blocks[window], enable_gqa=True)[0].transpose(0, 1).flatten(1)

    @cached_property
    def _blocks(self) -> dict[int, BlockMask]:
        """For each window."""
        prompts, completions, prompt_of = (x.tolist() for x in (self.prompts.lengths_N, self.completions.lengths_N, self.prompt_of_R))
        picture_T = None if self.picture_T is None else self._padded_picture_T
        return {window: block_mask(prompts, completions, prompt_of, self.prompts.device, window, picture_T) for window in self._sizes}

    def padded(self, q_TQD: torch.Tensor, k_TKD: torch.Tensor, v_TKD: torch.Tensor, window: int = 0) -> torch.Tensor:
        """Prompts first, then completions against both."""
        sizes = [self.prompts.total, self.completions.total]
        (qp, qc), (kp, kc), (vp, vc) = (x.split(sizes) for x in (q_TQD, k_TKD, v_TKD))
        q, k, v = (self.prompts.pad(x).transpose(1, 2) for x in (qp, kp, vp))
        # Padding is on the right: causal attention alone keeps it from real tokens.
        mask = self._prompt_masks[window]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
        prompts = self.prompts.flat(out.transpose(1, 2)).flatten(1)
        if not self.completions.total:
            return prompts
        own_q, own_k, own_v = (self.completions.pad(x).transpose(1, 2) for x in (qc, kc, vc))
        keys, values = (torch.cat([self._of_each_completion(x), own], 2) for x, own in ((k, own_k), (v, own_v)))
        out = F.scaled_dot_product_attention(own_q, keys, values, attn_mask=self._masks_R1CX[window], enable_gqa=True)
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
    def _prompt_masks(self) -> dict[int, torch.Tensor | None]:
        """For padded prompts and each window (P or 1, 1, L, L); None where each sees all before it."""
        width = torch.arange(self.prompts.longest, device=self.prompts.device)
        masks: dict[int, torch.Tensor | None] = {}
        for window in self._sizes:
            sees = (width <= width[:, None])[None]
            if self.picture_T is not None:
                picture_PL = self.prompts.pad(sent(self.picture_T + 1, self.prompts.device))
                sees = sees | ((picture_PL[:, None] == picture_PL[..., None]) & (picture_PL[:, None] > 0))
            if window:
                sees = sees & (width > width[:, None] - window)
            masks[window] = sees[:, None] if window or self.picture_T is not None else None
        return masks

    @cached_property
    def _masks_R1CX(self) -> dict[int, torch.Tensor]:
        """For padded completions over X = L + C keys and each window: the real tokens of the prompt, and the completion up to the query."""
        device, width = self.prompts.device, self.completions.longest
        prompt_R1L = self.prompts.mask[sent(self.prompt_of_R, device), None].expand(-1, width, -1)
        own_CC = torch.ones(width, width, dtype=torch.bool, device=device).tril()
        masks = {}
        for window in self._sizes:
            prompt_RCL, own = prompt_R1L, own_CC
            if window:
                depth_RC = sent(self.prompts.lengths_N[self.prompt_of_R, None] + torch.arange(width), device)
                prompt_RCL = prompt_RCL & (torch.arange(prompt_RCL.shape[2], device=device) > depth_RC[..., None] - window)
                own = own.triu(1 - window)
            masks[window] = torch.cat([prompt_RCL, own.expand(len(prompt_RCL), -1, -1)], 2)[:, None]
        return masks


@cache
def _flex() -> Callable[..., torch.Tensor]:
    """FlexAttention, compiled at its first use for any number of tokens.

    A type of numbers, a window, a gradient more is a graph more, and a process may hold several models: behind Dynamo's usual 8 it would run
    uncompiled, with all scores in memory.
    """
    dynamo.recompile_limit = max(dynamo.recompile_limit, GRAPHS)
    return torch.compile(flex_attention, dynamic=True)
