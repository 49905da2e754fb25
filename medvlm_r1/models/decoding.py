"""Attention while completions grow token by token: a prompt's keys and values once, each completion's own beside them.

The rows under way are a grid of P prompts by G completions, so that the G
queries of a prompt meet its keys in one product. A grid shrinks as rows end.
A layer with a window (models.sight) keeps all keys and values, and looks at those within.

Legend: P prompts, G completions of each, R = P·G rows; L longest prompt; C most
completion tokens; Q query heads, K key heads, S = Q/K queries a key head; D head size.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch

from medvlm_r1.models.decoder import Attention
from medvlm_r1.models.fused import fused
from medvlm_r1.models.sent import sent
from medvlm_r1.models.sight import of_layers
from medvlm_r1.models.tree import Rows

KeysValues = tuple[torch.Tensor, torch.Tensor]


class Cache(Protocol):
    """What decoding looks at: of each layer an attention that stores a new token's keys and values, then attends."""

    def attentions(self) -> list[Attention]:
        """Each layer's, for one pass."""
        ...


class Decoding:
    """Buffers that are written in place; ``attentions`` are what models.decoder wants of a layer, one token a row at a time.

    A pass looks at the places written so far. Where a step is captured, models.captured takes this one's part.
    """

    dtype: torch.dtype
    grid: tuple[int, int, int]  # P, G, K
    prompts: list[KeysValues]
    own: list[KeysValues]
    padding: torch.Tensor | None
    length: torch.Tensor  # (P·K, 1, 1), of each prompt
    t: int  # place of the next token

    def __init__(self, windows: tuple[int, ...] = ()) -> None:
        self.windows = windows

    def fill(self, prompts: Sequence[KeysValues], rows: Rows, group: int, max_tokens: int) -> None:
        """Start from ``prompts``: each layer's keys and values of all prompt tokens, flat: (T, K, D)."""
        key = prompts[0][0]
        # A CPU has no product of bfloat16 that keeps its sum in float32, which is what the training attention does.
        self.dtype = key.dtype if key.is_cuda else torch.float32
        self.t, self.grid = 0, (len(rows.lengths_N), group, key.shape[1])
        self.prompts = [(by_head(keys.to(self.dtype), rows), by_head(values.to(self.dtype), rows)) for keys, values in prompts]
        own = (math.prod(self.grid), max_tokens, key.shape[2])
        self.own = [(key.new_zeros(own, dtype=self.dtype), key.new_zeros(own, dtype=self.dtype)) for _ in prompts]
        padding = padding_of(rows, key.shape[1])
        self.padding = padding if bool(padding.any()) else None
        self.length = lengths_of(rows, key.shape[1])

    def attentions(self) -> list[Attention]:
        """Each layer's."""
        hidden = of_layers(self.windows, len(self.own), self._hidden)
        return [partial(self._attend, some, prompt, own) for some, prompt, own in zip(hidden, self.prompts, self.own, strict=True)]

    def _hidden(self, window: int) -> tuple[torch.Tensor | None, int]:
        """What of the prompts (P·K, 1, L) the next tokens do not see, None where they see all; and the first token of a completion that they do."""
        if not window:
            return self.padding, 0
        far = too_far(torch.arange(self.prompts[0][0].shape[1], device=self.length.device), self.length + self.t, window)
        return far if self.padding is None else far | self.padding, max(0, self.t + 1 - window)

    def _attend(
        self, hidden: tuple[torch.Tensor | None, int], prompt: KeysValues, own: KeysValues, q_RQD: torch.Tensor, k_RKD: torch.Tensor, v_RKD: torch.Tensor
    ) -> torch.Tensor:
        """Store the new keys and values, then attend: (R, Q·D)."""
        (prompt_keys, prompt_values), (hidden_L, first) = prompt, hidden
        keys, values = (self._stored(*pair)[:, first:] for pair in zip(own, (k_RKD, v_RKD), strict=True))
        q = self._gridded(q_RQD) * q_RQD.shape[2] ** -0.5
        q_prompt = q.view(len(prompt_keys), -1, q.shape[2])
        prompt_share, own_share = shares(product(q_prompt, prompt_keys.transpose(1, 2)), product(q, keys.transpose(1, 2)), hidden_L)
        out = torch.bmm(prompt_share.to(q.dtype), prompt_values).view_as(q) + torch.bmm(own_share.to(q.dtype), values)
        prompts, group, heads = self.grid
        return out.view(prompts, heads, group, -1).transpose(1, 2).reshape(len(q_RQD), -1).to(q_RQD.dtype)

    def _gridded(self, x_RND: torch.Tensor) -> torch.Tensor:
        """Heads of every row as (P·K·G, heads per key head, D)."""
        prompts, group, heads = self.grid
        by_head = x_RND.to(self.dtype).view(prompts, group, heads, -1).transpose(1, 2)
        return by_head.reshape(prompts * heads * group, -1, x_RND.shape[2])

    def _stored(self, store: torch.Tensor, new_RKD: torch.Tensor) -> torch.Tensor:
        """The new token in its place; all that is to be looked at."""
        store[:, self.t] = self._gridded(new_RKD)[:, 0]
        return store[:, : self.t + 1]

    def advance(self) -> None:
        """The next token's place."""
        self.t += 1

    def keep(self, prompts_P: torch.Tensor, completions_PG: torch.Tensor) -> None:
        """Shrink to these prompts and, of each, these completions."""
        _prompts, group, heads = self.grid
        each_head = torch.arange(heads, device=prompts_P.device)
        trunks = (prompts_P[:, None] * heads + each_head).flatten()
        rows = ((prompts_P[:, None, None] * heads + each_head[:, None]) * group + completions_PG[:, None]).flatten()
        self.grid = (completions_PG.shape[0], completions_PG.shape[1], heads)
        self.prompts = [(keys[trunks], values[trunks]) for keys, values in self.prompts]
        self.own = [(keys[rows], values[rows]) for keys, values in self.own]
        self.padding = None if self.padding is None else self.padding[trunks]
        self.length = self.length[trunks]


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Batched matrix product with its result in float32, whatever goes in."""
    return torch.bmm(a, b) if a.dtype == torch.float32 else torch.bmm(a, b, out_dtype=torch.float32)


def by_head(half_TKD: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Keys or values of all prompts, padded: (P·K, L, D)."""
    return rows.pad(half_TKD).transpose(1, 2).flatten(0, 1).contiguous()


def padding_of(rows: Rows, key_heads: int) -> torch.Tensor:
    """(P·K, 1, L): where a prompt has no token."""
    return ~rows.mask.repeat_interleave(key_heads, 0)[:, None]


def lengths_of(rows: Rows, key_heads: int) -> torch.Tensor:
    """(P·K, 1, 1): how many tokens each prompt has."""
    return sent(rows.lengths_N.repeat_interleave(key_heads)[:, None, None], rows.device)


def too_far(keys: torch.Tensor, query: torch.Tensor, window: int) -> torch.Tensor:
    """Which places a token does not see any more, by its own place.

    >>> too_far(torch.arange(5), torch.tensor([5]), window=3).tolist()  # it sees itself and the two before it
    [True, True, True, False, False]
    """
    return keys <= query - window


@fused
def shares(prompt_scores: torch.Tensor, own_scores: torch.Tensor, padding: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax over the prompt's scores (P·K, G·S, L) and the completions' own (P·K·G, S, C) together.

    >>> p, o = shares(torch.zeros(1, 1, 2), torch.zeros(1, 1, 1), None)
    >>> [round(x, 3) for x in p.flatten().tolist() + o.flatten().tolist()]
    [0.333, 0.333, 0.333]
    """
    if padding is not None:
        prompt_scores = prompt_scores.masked_fill(padding, -torch.inf)
    own = own_scores.view(*prompt_scores.shape[:2], -1)
    share = torch.cat([prompt_scores, own], -1).softmax(-1)
    prompt_share, own_share = share.split([prompt_scores.shape[-1], own.shape[-1]], -1)
    return prompt_share, own_share.reshape(own_scores.shape)
