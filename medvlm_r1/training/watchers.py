"""What looks at a run while it goes on, beside its own files: held-out questions, and other places for its numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from medvlm_r1.training.held_out import Test, untested


class Sink(Protocol):
    """A place for a run's numbers."""

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take those of ``step`` (from 1)."""
        ...

    def close(self) -> None:
        """No more will come; harmless when done twice."""
        ...


class Open(Protocol):
    """Opens a sink for the run in a folder, which goes on behind a step."""

    def __call__(self, run_dir: Path, resumed_step: int) -> Sink: ...


@dataclass(frozen=True)
class Watched:
    """A run's folder, and who looks: ``test`` is asked behind every step, and what it says goes to metrics.jsonl; ``sinks`` get all that goes there.

    >>> Watched(Path("runs/mine")).test(1, policy=None), Watched(Path("runs/mine")).sinks
    ({}, ())
    """

    folder: Path
    test: Test = untested
    sinks: Sequence[Open] = ()

    @classmethod
    def of(cls, run: "Path | Watched") -> "Watched":
        """A folder alone is a run that nobody watches.

        >>> Watched.of(Path("runs/mine")).folder
        PosixPath('runs/mine')
        """
        return run if isinstance(run, Watched) else cls(run)
