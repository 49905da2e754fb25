"""Ranks as threads of one process: what they tell each other goes over a table. Starting processes costs seconds."""

import json
import threading
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from medvlm_r1.training import distributed


@dataclass
class Table:
    """Where ``size`` ranks lay down what they say."""

    size: int
    places: list[Any] = field(init=False)
    gate: threading.Barrier = field(init=False)

    def __post_init__(self):
        self.places, self.gate = [None] * self.size, threading.Barrier(self.size, timeout=180)

    def exchange(self, rank, value):
        self.places[rank] = value
        self.gate.wait()
        heard = list(self.places)
        self.gate.wait()  # nobody lays down the next before all have read
        return heard


@dataclass(frozen=True)
class Threads(distributed.World):
    """A rank of a world of threads."""

    table: Table | None = None

    def every(self, value):
        return [json.loads(text) for text in self.table.exchange(self.rank, json.dumps(value))]

    def reduce(self, tensor, how):
        heard = self.table.exchange(self.rank, tensor.clone())
        stacked = torch.stack(heard)
        return tensor.copy_(stacked.sum(0) if how == dist.ReduceOp.SUM else stacked.amax(0))


def run(size, work):
    """``work(world)`` on every rank; results by rank, or the first error."""
    table, results, errors = Table(size), [None] * size, []

    def start(rank):
        distributed._current.set(Threads(rank, size, table))
        try:
            results[rank] = work(distributed.current())
        except BaseException as error:
            errors.append(error)
            table.gate.abort()

    threads = [threading.Thread(target=start, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
