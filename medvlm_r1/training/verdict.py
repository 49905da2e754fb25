"""What becomes of a run behind a step: is a checkpoint due, and is it the last one?

A function of the rows of metrics.jsonl up to that step, so that a resumed run is judged as an undisturbed one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from medvlm_r1.files import read_rows
from medvlm_r1.models.runs import TEST, best_of
from medvlm_r1.training.distributed import current
from medvlm_r1.training.grpo.meter import Stop, forgets
from medvlm_r1.training.held_out import HeldOut


class Planned(Protocol):
    """What a configuration says of its end."""

    @property
    def steps(self) -> int: ...
    @property
    def save_every(self) -> int: ...
    @property
    def stop(self) -> Stop: ...
    @property
    def held_out(self) -> HeldOut: ...


@dataclass(frozen=True)
class Verdict:
    """``saves``: a checkpoint is due; ``ends``: this was the last step; ``done``: there is nothing left to do, whenever it starts again.

    >>> Verdict(saves=True, ends=False, done=False).saves
    True
    """

    saves: bool
    ends: bool
    done: bool


def verdict(run_dir: Path, step: int, config: Planned, asked_to_stop: bool) -> Verdict:
    """Behind ``step`` steps; all ranks ask, and hear the same."""
    over, is_best = current().first(_looked, run_dir, step, config) if _looks(config) else (False, False)
    done = over or step == config.steps
    return Verdict(saves=asked_to_stop or done or is_best or step % config.save_every == 0, ends=asked_to_stop or done, done=done)


def is_over(run_dir: Path, steps: int, config: Planned) -> bool:
    """Does a run end behind its first ``steps`` steps, whatever remains? All ranks ask."""
    return bool(_looks(config) and current().first(_looked, run_dir, steps, config)[0])


def _looks(config: Planned) -> bool:
    return config.stop.kept is not None or bool(config.held_out.data)


def _looked(run_dir: Path, steps: int, config: Planned) -> list[bool]:
    """Is the run over, and was its last step the best?"""
    rows = [row for row in read_rows(run_dir / "metrics.jsonl") if row["step"] <= steps]
    best = best_of(rows)
    return [forgets(rows, config.stop) is not None or stale(rows, config.stop.patience) is not None, best is not None and best["step"] == steps]


def stale(rows: Sequence[Mapping[str, Any]], patience: int | None) -> Mapping[str, Any] | None:
    """The row of the best test, if as many as ``patience`` came after it and none was better.

    >>> rows = [{"step": n, TEST: accuracy} for n, accuracy in enumerate((0.4, 0.6, 0.5, 0.6), 1)]
    >>> stale(rows, 2)["step"], stale(rows, 3), stale(rows[:3], 2), stale(rows, None)
    (2, None, None, None)
    """
    best = best_of(rows)
    if patience is None or best is None:
        return None
    since = sum(row.get(TEST) is not None for row in rows if row["step"] > best["step"])
    return best if since >= patience else None
