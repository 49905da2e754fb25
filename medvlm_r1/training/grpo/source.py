"""Where the scored groups of a step come from: written while the trainer waits, or ahead of it by an engine with weights of its own.

The loop takes groups and tells of new weights; it never asks which source it has.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from medvlm_r1.errors import EngineError
from medvlm_r1.rollout.collect import ALONE, Sharing, packed, unpacked
from medvlm_r1.rollout.engine import Apart, Engine
from medvlm_r1.training.distributed import current
from medvlm_r1.types import RolloutGroup

Taken = tuple[list[RolloutGroup], dict[str, float]]
Ask = Callable[[int, Sharing], Taken]
"""A step, and who shares in its writing, to its scored groups and what is to be told of them."""


@dataclass(frozen=True)
class Rollouts:
    """Who writes the rollouts: this process, or vLLM ``servers`` (docs/scale.md).

    ``lag``: how many steps older than the policy the weights that wrote them may be; 0: the trainer waits.
    ``weights``: how servers get them: by "file", or by vLLM's own transfer, "nccl" (other GPUs) or "ipc" (the same). ``folder``: where
    that file lies, for servers and trainer alike; a folder of the run if it is empty. ``pause``: what becomes of completions under
    way then: a sync will "wait" for them, or "keep" them, to be ended by the new weights. ``concurrency``: requests at a time, a server.

    >>> Rollouts().engine, Rollouts("vllm", ("http://gpu01:8000",), lag=1).lag
    ('local', 1)
    """

    engine: str = "local"
    servers: tuple[str, ...] = field(default=(), metadata={"place": True})
    lag: int = 0
    weights: str = "file"
    folder: str = field(default="", metadata={"place": True})
    pause: str = "wait"
    concurrency: int = 64
    timeout_s: float = 600.0


class Source(Protocol):
    """A context manager; ``sync`` comes before the first ``take``."""

    def take(self, step: int) -> Taken:
        """A step's groups, no older than the source promises, and what is to be told of them."""
        ...

    def sync(self, policy: Any) -> None:
        """The weights have changed."""
        ...

    def __enter__(self) -> "Source": ...

    def __exit__(self, *_: object) -> None: ...


@dataclass
class Turns:
    """One after the other: a step is written when it is taken, by the weights that learn. All ranks share in it."""

    engine: Engine
    ask: Ask

    def take(self, step: int) -> Taken:
        """See Source.take."""
        return self.ask(step, current())

    def sync(self, policy: Any) -> None:
        """See Source.sync."""
        self.engine.sync(policy)

    def __enter__(self) -> "Turns":
        return self

    def __exit__(self, *_: object) -> None:
        return


class Ahead:
    """Keeps the next ``lag`` steps in flight while the policy learns; of many ranks the first asks, and tells the others.

    Step s is asked for as soon as the weights of step s - ``lag`` are with the engine, or those that the run begins or goes on
    with: no completion is older than ``lag`` steps. A run that is resumed keeps nothing of what was in flight. Its first
    ``lag`` + 1 steps are asked for again, from the same seeds, by the weights of the checkpoint: each resume is like the other, and fresher
    than the run without a break would have been.

    It tells ``lag``, the mean age of a step's completions in steps, and the seconds of the last sync.
    """

    def __init__(self, engine: Apart, ask: Ask, lag: int, steps: range) -> None:
        self.engine, self.ask, self.lag = engine, ask, lag
        self._next, self._stop = steps.start, steps.stop
        self._now = steps.start - 1  # steps that the newest weights have behind them, from the first sync on
        self._behind: dict[int, int] = {}  # the same of each version of the policy
        self._coming: dict[int, Future[Taken]] = {}
        self._threads, self._synced_s = ThreadPoolExecutor(lag + 1, thread_name_prefix="rollouts"), 0.0

    def sync(self, policy: Any) -> None:
        """See Source.sync. All ranks call it: where weights are cut among them, they are put together for it."""
        started = time.perf_counter()
        current().first(self.engine.sync, policy.whole())
        self._synced_s = time.perf_counter() - started
        self._now += 1
        self._behind[policy.version] = self._now
        while current().leads and self._next < min(self._now + self.lag + 1, self._stop):
            self._coming[self._next] = self._threads.submit(self.ask, self._next, ALONE)
            self._next += 1

    def take(self, step: int) -> Taken:
        """See Source.take. Raises what the asking raised."""
        rows, told = current().first(self._taken, step)
        groups = unpacked(rows)
        ages = [self._now - self._behind[rollout.completion.version] for group in groups for rollout in group.rollouts]
        if max(ages) > self.lag:
            raise EngineError(f'step {step + 1} has completions that are {max(ages)} steps old, and "rollout.lag" allows {self.lag}')
        return groups, told | {"lag": sum(ages) / len(ages), "seconds/sync": self._synced_s}

    def _taken(self, step: int) -> tuple[Any, dict[str, float]]:
        groups, told = self._coming.pop(step).result()
        return packed(groups), told

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(self, *_: object) -> None:
        if current().leads:
            self.engine.close()
        self._threads.shutdown(cancel_futures=True)


def sourced(engine: Engine, ask: Ask, lag: int, steps: range) -> Source:
    """The source for an engine, of the steps that are still to be done."""
    return Ahead(engine, ask, lag, steps) if isinstance(engine, Apart) else Turns(engine, ask)
