"""Seconds by phase: where a run's time goes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Stopwatch:
    """Adds up the time of named phases.

    On a GPU by events: a phase lasts from when the GPU comes to what was asked of it until it is done with it, while the
    host is ahead with the next. Nothing waits for that before ``lap``. Elsewhere it is the wall's time.

    >>> watch = Stopwatch(iter([0.0, 2.0, 5.0, 6.0]).__next__)
    >>> for phase in ("rollout", "rollout"):
    ...     with watch(phase):
    ...         pass
    >>> watch.lap(), watch.lap()
    ({'seconds/rollout': 3.0}, {})
    """

    def __init__(self, mark: Callable[[], Any] | None = None) -> None:
        self._mark = mark or (_event if torch.cuda.is_available() else time.perf_counter)
        self._spans: list[tuple[str, Any, Any]] = []

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time a phase; phases must not overlap."""
        start = self._mark()
        yield
        self._spans.append((phase, start, self._mark()))

    def lap(self) -> dict[str, float]:
        """The seconds since the last lap, as metrics."""
        taken: dict[str, float] = {}
        for phase, start, end in self._spans:
            name = f"seconds/{phase}"
            taken[name] = taken.get(name, 0.0) + (end - start if isinstance(end, float) else _between(start, end))
        self._spans = []
        return taken


def _event() -> Any:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(start: Any, end: Any) -> float:
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000
