"""A run's checkpoints by name: RUN@best, RUN@last, RUN@40.

The best is that of the step behind which most held-out questions were answered right, as metrics.jsonl says; nothing else keeps it,
so that nothing can contradict it.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medvlm_r1.errors import ModelError
from medvlm_r1.files import read_rows

TEST = "test/accuracy"  # of the rows behind whose steps the held-out questions were asked


def checkpoints(run_dir: Path) -> list[Path]:
    """All whole checkpoints of a run, oldest first."""
    found = [path for path in (run_dir / "checkpoints").glob("step-*") if path.name.removeprefix("step-").isdecimal()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def best_of(rows: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The row of the best test, the first of equals; None where nothing was tested.

    >>> best_of([{"step": 1}, {"step": 2, TEST: 0.5}, {"step": 4, TEST: 0.6}, {"step": 6, TEST: 0.6}])["step"]
    4
    >>> best_of([{"step": 1}]) is None
    True
    """
    tested = [row for row in rows if row.get(TEST) is not None]
    return max(tested, key=lambda row: row[TEST]) if tested else None


def best(run_dir: Path) -> Path | None:
    """The checkpoint that did best on the held-out questions; None where none of those that are there was tested."""
    there = {path.name: path for path in checkpoints(run_dir)}
    row = best_of(row for row in read_rows(run_dir / "metrics.jsonl") if f"step-{row['step']}" in there)
    return there[f"step-{row['step']}"] if row else None


def named(model: str) -> Path | None:
    """The checkpoint that RUN@best, RUN@last or RUN@40 means; None for names of another form. Raises ModelError where there is no such."""
    run, at, which = model.rpartition("@")
    if not at or not (Path(run) / "checkpoints").is_dir():
        return None
    there = checkpoints(Path(run))
    if not there:
        raise ModelError(f'"{model}": {run} has saved no checkpoint yet')
    last = f"{run}@last is {there[-1].name}"
    if which == "best":
        if found := best(Path(run)):
            return found
        raise ModelError(f'"{model}": no checkpoint of {run} was asked held-out questions; train with --test-during DATA, or take another ({last})')
    found = there[-1] if which == "last" else next((path for path in there if path.name == f"step-{which}"), None)
    if found is None:
        raise ModelError(f'"{model}": {run} has no checkpoint of the name "{which}"; write best, last or the number of a step ({last})')
    return found
