"""Keys and values of rows that come and go: each row keeps its slot until it ends.

The rows under way are always the first of the slots, so that one pass is one product over them. The buffers grow with what
is asked of them and are given back when nobody asks.

Legend: A rows under way; M places of a slot; W places looked at; T tokens of a prompt; Q query heads, K key heads, D head size.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F

from medvlm_r1.models.decoder import Attention
from medvlm_r1.models.decoding import KeysValues, too_far
from medvlm_r1.models.sight import of_layers

LEAST_SLOTS, LEAST_PLACES = 8, 256


class Slots:
    """``attentions`` are what models.decoder wants of a layer, one token a row at a time.

    >>> slots, half = Slots(), torch.ones(3, 1, 4)
    >>> slots.join([(half, half)], copies=2)
    >>> slots.active, slots.length_A.tolist()
    (2, [3, 3])
    >>> slots.leave(0); slots.active
    1
    """

    keys: list[torch.Tensor]  # of each layer: (slots, K, M, D)
    values: list[torch.Tensor]

    def __init__(self, windows: tuple[int, ...] = ()) -> None:
        self.active, self.windows = 0, windows  # of each layer, how far it looks (models.sight)
        self.clear()

    def clear(self) -> None:
        """Give the memory back; no row is under way any more."""
        self.active = 0
        self.keys, self.values, self._length = [], [], torch.zeros(0, dtype=torch.long)

    @property
    def length_A(self) -> torch.Tensor:
        """The tokens of each row so far."""
        return self._length[: self.active]

    def join(self, layers: Sequence[KeysValues], copies: int) -> None:
        """``copies`` rows more that begin with one prompt: each layer's keys and values of it, (T, K, D)."""
        length, first = len(layers[0][0]), self.active
        self._make_room(layers[0][0], len(layers), first + copies, length + 1)
        for store, half in zip((*self.keys, *self.values), (*(k for k, _ in layers), *(v for _, v in layers)), strict=True):
            store[first : first + copies, :, :length] = half.transpose(0, 1).to(store.dtype)
        self._length[first : first + copies] = length
        self.active += copies

    def leave(self, row: int) -> None:
        """The last row takes the place of this one."""
        last = self.active - 1
        if row != last:
            length = int(self._length[last])
            for store in (*self.keys, *self.values):
                store[row, :, :length] = store[last, :, :length]
            self._length[row] = self._length[last]
        self.active = last

    def step(self) -> None:
        """Make ready for one token more of every row: what a pass needs once for all layers."""
        longest = int(self.length_A.max())
        self._make_room(self.keys[0][0, 0], len(self.keys), self.active, longest + 1)
        self._rows_A = torch.arange(self.active, device=self._length.device)
        self._at_A = self.length_A.clone()
        self._width = longest + 1
        self._sees = of_layers(self.windows, len(self.keys), self._seen)
        self.length_A.add_(1)

    def attentions(self) -> list[Attention]:
        """Each layer's."""
        return [partial(self._attend, *layer) for layer in zip(self._sees, self.keys, self.values, strict=True)]

    def _seen(self, window: int) -> torch.Tensor:
        """(A, 1, 1, W): what each row's next token sees."""
        places, at_A1 = torch.arange(self._width, device=self._length.device), self._at_A[:, None]
        seen = places <= at_A1
        return (seen & ~too_far(places, at_A1, window) if window else seen)[:, None, None]

    def _attend(
        self, sees: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, q_AQD: torch.Tensor, k_AKD: torch.Tensor, v_AKD: torch.Tensor
    ) -> torch.Tensor:
        """Store the new keys and values, then attend: (A, Q·D)."""
        keys[self._rows_A, :, self._at_A] = k_AKD.to(keys.dtype)
        values[self._rows_A, :, self._at_A] = v_AKD.to(keys.dtype)
        rows, heads, size = q_AQD.shape
        q = q_AQD.to(keys.dtype).view(rows, keys.shape[1], -1, size)  # heads that share a key as queries of one product
        seen_keys, seen_values = (store[: self.active, :, : self._width] for store in (keys, values))
        return F.scaled_dot_product_attention(q, seen_keys, seen_values, attn_mask=sees).reshape(rows, heads * size).to(q_AQD.dtype)

    def _make_room(self, like: torch.Tensor, n_layers: int, slots: int, places: int) -> None:
        """Buffers of at least so many slots and places; ``like`` has the type, and its last two sizes are those of heads."""
        old = self.keys[0].shape if self.keys else (0, like.shape[-2], 0, like.shape[-1])
        if slots <= old[0] and places <= old[2]:
            return
        shape = (_doubled(max(old[0], LEAST_SLOTS), slots), old[1], _doubled(max(old[2], LEAST_PLACES), places), old[3])
        # A CPU has no product of bfloat16 that keeps its sum in float32, which is what the training attention does.
        dtype = like.dtype if like.is_cuda else torch.float32
        both = [[torch.zeros(shape, dtype=dtype, device=like.device) for _ in range(n_layers)] for _ in range(2)]
        length = torch.zeros(shape[0], dtype=torch.long, device=like.device)
        length[: len(self._length)] = self._length
        for stores, grown in zip((self.keys, self.values), both, strict=True):  # nothing changes before there is room for all
            for before, after in zip(stores, grown, strict=False):
                after[: old[0], :, : old[2]] = before
            stores[:] = grown
        self._length = length


def _doubled(size: int, least: int) -> int:
    """
    >>> _doubled(8, 5), _doubled(8, 9), _doubled(8, 33)
    (8, 16, 64)
    """
    while size < least:
        size *= 2
    return size
