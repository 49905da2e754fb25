"""A stage that was stopped goes on where it was: weights, the optimiser's two moments, and the step, in one file."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

Log = Callable[[dict[str, Any]], None]
MOMENTS = ("exp_avg", "exp_avg_sq")


def save(file: Path, named: Mapping[str, torch.Tensor], step: int, optimizer: torch.optim.Optimizer | None = None) -> None:
    """What ``named`` weights are after ``step`` steps; a file that is there is replaced at once or not at all."""
    tensors = {name: p.detach().contiguous() for name, p in named.items()}
    for name, p in named.items() if optimizer else ():
        tensors |= {f"{name}|{moment}": optimizer.state[p][moment] for moment in MOMENTS if p in optimizer.state}  # type: ignore[union-attr]
    partial = file.with_suffix(".partial")
    save_file(tensors, partial, metadata={"step": str(step)})
    partial.rename(file)


@torch.no_grad()
def load(file: Path, named: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer | None = None) -> int:
    """Take over what ``save`` wrote; returns the step, 0 where there is no file."""
    if not file.exists():
        return 0
    with safe_open(file, "pt") as stored:
        step = int(stored.metadata()["step"])
        for name, p in named.items():
            p.copy_(stored.get_tensor(name))
            if optimizer and step:
                moments = {moment: stored.get_tensor(f"{name}|{moment}") for moment in MOMENTS}
                optimizer.state[p] = {"step": torch.tensor(float(step)), **moments}
    return step


def telling(write: Log, every: int, clock: Callable[[], float] = time.monotonic) -> Log:
    """What hears of each step and passes every n-th on, and the last, with the seconds since the stage began and those that its further steps take.

    >>> told, now = [], iter([0.0, 10.0, 12.0, 14.0]).__next__  # ten seconds of preparation, and two a step
    >>> tell = telling(told.append, 2, now)
    >>> for step in range(3):
    ...     tell({"step": step, "of": 4})
    >>> told
    [{'step': 1, 'of': 4, 'seconds': 12.0, 'left': 4.0}]
    """
    began, first = clock(), list[tuple[int, float]]()

    def tell(row: dict[str, Any]) -> None:
        step, now = row["step"], clock()
        if not first:
            first.append((step, now))
        if (step + 1) % every and step + 1 < row["of"]:
            return
        pace = (now - first[0][1]) / max(1, step - first[0][0])
        write(row | {"seconds": round(now - began, 1), "left": round(pace * (row["of"] - step - 1), 1)})

    return tell


def line(row: Mapping[str, Any]) -> str:
    """A row for a person.

    >>> line({"stage": "mixed", "step": 24, "of": 300, "loss": 0.8162, "seconds": 37.9, "left": 430.0})
    'mixed: step 25 of 300, loss 0.816 · 38 s, about 7 min left'
    """
    left = f", about {row['left'] / 60:.0f} min left" if row["left"] >= 60 else ""
    return f"{row['stage']}: step {row['step'] + 1} of {row['of']}, loss {row['loss']:.3f} · {row['seconds']:.0f} s{left}"
