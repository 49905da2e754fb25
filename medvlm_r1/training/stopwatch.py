"""Seconds by phase: where a run's time goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up the wall time of named phases.

    >>> watch = Stopwatch()
    >>> with watch("rollout"):
    ...     pass
    >>> list(watch.seconds)
    ['rollout']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time a phase; phases must not overlap."""
        start = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    def lap(self) -> dict[str, float]:
        """The seconds since the last lap, as metrics."""
        taken = {f"seconds/{phase}": seconds for phase, seconds in self.seconds.items()}
        self.seconds = {}
        return taken
