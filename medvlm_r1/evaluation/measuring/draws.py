"""The random draws behind p (signs) and kappa (weights): made once for G groups, kept in one byte each.

A report asks for some sixty of them over the same questions. What is drawn depends
on the number of groups alone, so all of them share their draws, and no digit differs
from drawing anew each time. Legend: G groups, D draws.
"""

from collections.abc import Iterable, Iterator

import numpy as np

Blocks = tuple[Iterable[np.ndarray], Iterable[np.ndarray]]

_PIECE = 4_000_000  # draws x groups; with _BLOCK it fixes the last digit of every interval, so neither is changed lightly
_BLOCK = 600_000  # a block's float64 copy stays in the processor's cache


class Draws:
    """Draws by number of groups, number of draws and seed; those longest not asked for make room.

    >>> weights, signs = Draws(max_bytes=1000).blocks(groups=3, draws=4, seed=0)
    >>> np.concatenate(weights).sum(axis=1).tolist()
    [3, 3, 3, 3]
    >>> np.unique(np.concatenate(signs)).tolist()
    [-1, 1]
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._kept: dict[tuple[int, int, int], Blocks] = {}

    def blocks(self, groups: int, draws: int, seed: int) -> Blocks:
        """Bootstrap weights and signs, (D, G) int8, each as blocks of some draws.

        A weight says how often a group is drawn when as many are drawn as there are,
        with replacement; a sign is 1 or -1. Read the weights to their end before the
        signs: too many to keep are made on the way, from one stream of random numbers.
        """
        key, size = (groups, draws, seed), _bytes(groups, draws)
        if size > self.max_bytes:
            return _drawn(*key)
        made = self._kept.pop(key, None)
        if made is None:
            weights, signs = _drawn(*key)
            made = tuple(weights), tuple(signs)
        while self.n_bytes + size > self.max_bytes:
            self._kept.pop(next(iter(self._kept)))
        self._kept[key] = made
        return made

    @property
    def n_bytes(self) -> int:
        return sum(_bytes(groups, draws) for groups, draws, _ in self._kept)


SHARED = Draws(max_bytes=256_000_000)  # three modalities and their union at 10,000 groups and 4,000 draws need 160 MB


def _bytes(groups: int, draws: int) -> int:
    return 2 * groups * draws


def _drawn(groups: int, draws: int, seed: int) -> tuple[Iterator[np.ndarray], Iterator[np.ndarray]]:
    rng = np.random.default_rng(seed)
    sizes = _block_sizes(groups, draws)
    return (_weights(rng, size, groups) for size in sizes), (_signs(rng, size, groups) for size in sizes)


def _block_sizes(groups: int, draws: int) -> list[int]:
    """Whole pieces, and inside them blocks of a multiple of 16 draws, a remainder joined to the last.

    A matrix product adds up in another order where rows are few or no multiple of 4, and the last digit moves.
    """
    piece, rows = max(1, _PIECE // groups), max(16, _BLOCK // groups // 16 * 16)
    sizes: list[int] = []
    for start in range(0, draws, piece):
        size = min(piece, draws - start)
        whole = max(1, size // rows) - 1
        sizes += [rows] * whole + [size - rows * whole]
    return sizes


def _weights(rng: np.random.Generator, draws: int, groups: int) -> np.ndarray:
    drawn_DG = rng.integers(0, groups, size=(draws, groups)) + groups * np.arange(draws)[:, None]
    weights_DG = np.bincount(drawn_DG.ravel(), minlength=draws * groups).reshape(draws, groups)
    # A byte holds 127, and 128 of one group have a chance below 1 in 10**200.
    return weights_DG.astype(np.int8)


def _signs(rng: np.random.Generator, draws: int, groups: int) -> np.ndarray:
    return (rng.integers(0, 2, size=(draws, groups)) * 2 - 1).astype(np.int8)
