"""Which examples belong to which step, a pure function, so that resuming needs no state; and which of them go through the model together."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def batch_indices(count: int, size: int, step: int, seed: int) -> list[int]:
    """Rows of step number ``step`` (from 0); every epoch is a fresh permutation.

    Rows that do not fill a last step sit that epoch out; a step larger than the data wraps around.

    >>> [batch_indices(5, 2, step, seed=0) for step in range(3)]
    [[2, 4], [3, 0], [1, 4]]
    """
    steps = max(1, count // size)
    order = np.random.default_rng([seed, step // steps]).permutation(count)
    first = step % steps * size
    return [int(order[place % count]) for place in range(first, first + size)]


def batch(rows: Sequence[T], size: int, step: int, seed: int) -> list[T]:
    """The examples of one step."""
    return [rows[index] for index in batch_indices(len(rows), size, step, seed)]


def micro_batches(tokens_P: Sequence[int], live_P: Sequence[int], budget: int) -> Iterator[list[int]]:
    """The live groups' indices, whole groups together while their tokens fit the budget.

    >>> list(micro_batches([400, 300, 500, 2000, 100], live_P=[0, 1, 3, 4], budget=1000))
    [[0, 1], [3], [4]]
    """
    part: list[int] = []
    for p in live_P:
        if part and sum(tokens_P[q] for q in part) + tokens_P[p] > budget:
            yield part
            part = []
        part.append(p)
    if part:
        yield part
