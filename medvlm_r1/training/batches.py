"""Which examples belong to which step: a pure function, so that resuming needs no state."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def batch_indices(count: int, size: int, step: int, seed: int) -> list[int]:
    """Rows of step number ``step`` (from 0): every epoch is a fresh permutation, no row is left out.

    >>> [batch_indices(5, 2, step, seed=0) for step in range(3)]
    [[2, 4], [3, 0], [1, 2]]
    """
    places = range(step * size, (step + 1) * size)
    return [int(_order(count, place // count, seed)[place % count]) for place in places]


def batch(rows: Sequence[T], size: int, step: int, seed: int) -> list[T]:
    """The examples of one step."""
    return [rows[index] for index in batch_indices(len(rows), size, step, seed)]


def _order(count: int, epoch: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)
