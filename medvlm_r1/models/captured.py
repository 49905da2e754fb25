"""Attention of a decode step that is captured as a CUDA graph: whatever is read or written keeps its place from batch to batch.

What takes time there is the number of kernels. So a layer's queries, keys and values lie in one buffer, and a new token's heads go
to their places in one copy; the shares of prompt and completion are one tensor, of which the products read parts.

Legend: as models.decoding; N = Q + 2K heads of a token, X = L + C places.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from medvlm_r1.models.decoder import Attention
from medvlm_r1.models.decoding import KeysValues, by_head, lengths_of, padding_of, product, too_far
from medvlm_r1.models.fused import fused
from medvlm_r1.models.sight import of_layers
from medvlm_r1.models.tree import Rows

ALIGNED = 8  # elements: a row that begins at a multiple of 16 bytes is what a GPU's products want


@dataclass(frozen=True)
class Sizes:
    """P, G, L, C and how many heads of which size.

    >>> Sizes(prompts=2, group=4, room=256, tokens=16, queries=12, keys=2, head=128).parts
    [96, 1024, 256, 1024, 256]
    """

    prompts: int
    group: int
    room: int
    tokens: int
    queries: int
    keys: int
    head: int

    @property
    def parts(self) -> list[int]:
        """Rows of D numbers: of queries; keys of prompts, of completions; values likewise."""
        trunk, own = self.prompts * self.keys * self.room, self.prompts * self.keys * self.group * self.tokens
        return [self.prompts * self.group * self.queries, trunk, own, trunk, own]

    def places(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Where each head of each row's token goes, and by how much further with every token: (R, N) twice.

        >>> place, pace = Sizes(prompts=1, group=2, room=8, tokens=8, queries=2, keys=1, head=4).places()
        >>> place.tolist(), pace.tolist()  # of each row two queries, a key, a value
        ([[0, 1, 12, 36], [2, 3, 20, 44]], [[0, 0, 1, 1], [0, 0, 1, 1]])
        """
        share = self.queries // self.keys
        row_PGK = torch.arange(self.prompts * self.keys * self.group).view(self.prompts, self.keys, self.group).transpose(1, 2)
        queries = row_PGK[..., None] * share + torch.arange(share)
        own = row_PGK * self.tokens
        place = torch.cat([queries.flatten(2), own + sum(self.parts[:2]), own + sum(self.parts[:4])], 2)
        pace = torch.cat([torch.zeros_like(queries).flatten(2), torch.ones_like(own), torch.ones_like(own)], 2)
        return place.flatten(0, 1), pace.flatten(0, 1)


class Captured:
    """``attentions`` are what models.decoder wants of a layer, one token a row at a time; all C places are looked at, those to come masked."""

    sizes: Sizes
    padding: torch.Tensor
    length: torch.Tensor  # (P·K, 1, 1), of each prompt
    at: torch.Tensor  # place of the next token, on the device

    def __init__(self, queries: int, windows: tuple[int, ...] = ()) -> None:
        self.queries, self.windows = queries, windows  # heads; how far each layer looks (models.sight)
        self.layers: list[torch.Tensor] = []  # each (rows, D), cut as ``Sizes.parts``

    def fill(self, prompts: Sequence[KeysValues], rows: Rows, group: int, max_tokens: int) -> None:
        """Start from ``prompts``: each layer's keys and values of all prompt tokens, flat: (T, K, D)."""
        key = prompts[0][0]
        if not self.layers:
            tokens = -(-max_tokens // ALIGNED) * ALIGNED
            self._make(key, Sizes(len(rows.lengths_N), group, rows.longest, tokens, self.queries, *key.shape[1:]), len(prompts))
        self.padding.copy_(padding_of(rows, key.shape[1]))
        self.length.copy_(lengths_of(rows, key.shape[1]))
        self.at.zero_()
        for layer, halves in zip(self.layers, prompts, strict=True):
            _queries, *parts = layer.split(self.sizes.parts)
            for trunk, own, half in zip(parts[::2], parts[1::2], halves, strict=True):
                trunk.copy_(by_head(half.to(layer.dtype), rows).flatten(0, 1))
                own.zero_()  # of the last batch: nothing times a number that is none would be none

    def _make(self, key: torch.Tensor, sizes: Sizes, layers: int) -> None:
        self.sizes, device = sizes, key.device
        dtype = key.dtype if key.is_cuda else torch.float32  # as in models.decoding
        self.layers = [torch.zeros(sum(sizes.parts), sizes.head, dtype=dtype, device=device) for _ in range(layers)]
        self.at = torch.zeros(1, dtype=torch.long, device=device)
        self.padding = torch.zeros(sizes.prompts * sizes.keys, 1, sizes.room, dtype=torch.bool, device=device)
        self.length = torch.zeros(sizes.prompts * sizes.keys, 1, 1, dtype=torch.long, device=device)
        self.places_C, self.places_L = (torch.arange(count, device=device) for count in (sizes.tokens, sizes.room))
        self.place_RN, self.pace_RN = (x.to(device) for x in sizes.places())
        self.scale_N1 = torch.ones(sizes.queries + 2 * sizes.keys, 1, device=device)
        self.scale_N1[: sizes.queries] = sizes.head**-0.5

    def attentions(self) -> list[Attention]:
        """Each layer's. No number of a layer is in it, so that one compiled layer serves all."""
        place_RN, hidden = self.place_RN + self.pace_RN * self.at, of_layers(self.windows, len(self.layers), self._hidden)
        return [partial(self._attend, layer, place_RN, some) for layer, some in zip(self.layers, hidden, strict=True)]

    def _hidden(self, window: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What of the prompts (P·K, 1, L), and of the completions (C,), the next tokens do not see."""
        later_C = self.places_C > self.at
        if not window:
            return self.padding, later_C
        return self.padding | too_far(self.places_L, self.length + self.at, window), later_C | too_far(self.places_C, self.at, window)

    def _attend(
        self,
        layer: torch.Tensor,
        place_RN: torch.Tensor,
        hidden: tuple[torch.Tensor, torch.Tensor],
        q_RQD: torch.Tensor,
        k_RKD: torch.Tensor,
        v_RKD: torch.Tensor,
    ) -> torch.Tensor:
        """Store the new token's heads, then attend: (R, Q·D)."""
        s = self.sizes
        new = (torch.cat([q_RQD, k_RKD, v_RKD], 1) * self.scale_N1).to(layer.dtype)
        layer = layer.index_put_((place_RN,), new)
        q, prompt_keys, keys, prompt_values, values = layer.split(s.parts)
        trunks, rows, share = s.prompts * s.keys, s.prompts * s.keys * s.group, s.queries // s.keys
        prompt_scores = product(q.view(trunks, -1, s.head), prompt_keys.view(trunks, s.room, s.head).transpose(1, 2))
        own_scores = product(q.view(rows, share, s.head), keys.view(rows, s.tokens, s.head).transpose(1, 2))
        both = shares(prompt_scores, own_scores, *hidden, layer.dtype)
        width = s.room + s.tokens
        # Strided by hand: a compiler would make two tensors of two slices, by two kernels.
        prompt_share = both.as_strided((trunks, s.group * share, s.room), (s.group * share * width, width, 1))
        own_share = both.as_strided((rows, share, s.tokens), (share * width, width, 1), s.room)
        out = torch.bmm(prompt_share, prompt_values.view(trunks, s.room, s.head)).view(rows, share, s.head)
        out = out + torch.bmm(own_share, values.view(rows, s.tokens, s.head))
        return out.view(s.prompts, s.keys, s.group, -1).transpose(1, 2).reshape(len(q_RQD), -1).to(q_RQD.dtype)

    def advance(self) -> None:
        """The next token's place; a part of the captured step."""
        self.at.add_(1)


@fused
def shares(prompt_scores: torch.Tensor, own_scores: torch.Tensor, padding: torch.Tensor, later_C: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Softmax over the prompt's scores (P·K, G·S, L) and the completions' own (P·K·G, S, C) together: (P·K, G·S, X).

    >>> shares(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2), torch.tensor([[[False, True]]]), torch.tensor([False, True]), torch.float32)
    tensor([[[0.5000, 0.0000, 0.5000, 0.0000]]])
    """
    own = own_scores.masked_fill(later_C, -torch.inf).view(*prompt_scores.shape[:2], -1)
    return torch.cat([prompt_scores.masked_fill(padding, -torch.inf), own], -1).softmax(-1).to(dtype)
