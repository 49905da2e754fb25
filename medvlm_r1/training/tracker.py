"""What a run leaves behind while it goes: metrics.jsonl, rollouts.jsonl, TensorBoard events and other sinks, a progress bar.

Steps count from 1: row N is written after the N-th update, and the checkpoint
of step N follows it. A run resumed at step N first drops every later row, so
that its files are what an uninterrupted run would have written.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from medvlm_r1.console import notice, stderr
from medvlm_r1.errors import install
from medvlm_r1.files import JsonLines
from medvlm_r1.models.runs import TEST
from medvlm_r1.training.watchers import Open, Sink
from medvlm_r1.types import RolloutGroup
from medvlm_r1.wording import percent


class Tracker:
    """Writes each step's metrics to every place at once; a context manager.

    metrics.jsonl gets one row a step, at once; TensorBoard, and each of ``sinks``, the numbers among
    them. On a terminal a bar shows the progress; elsewhere one line every
    ``every`` steps does, and one for every step that was skipped or tested. Metrics that it shows: ``reward``, its parts
    as ``reward/format`` …, ``kl``, ``completion_length`` (tokens), ``skipped_steps`` (of the run, up to now).

    ``resumed_step`` is the step of the checkpoint that the run goes on from;
    a new run (0) starts an empty metrics.jsonl. Raises RunError where the folder
    cannot be written or the disk is full; every row written before stays whole.
    """

    def __init__(
        self,
        run_dir: Path,
        total_steps: int,
        resumed_step: int = 0,
        console: Console | None = None,
        every: int = 10,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total_steps, self.resumed_step, self.every = total_steps, resumed_step, every
        self._console, self._clock = console or stderr(), clock
        self._rows = JsonLines(Path(run_dir) / "metrics.jsonl", resumed_step)
        self.sinks: list[Sink] = _open_events(Path(run_dir), resumed_step, self._console)
        self._progress = Progress(BarColumn(bar_width=20), TextColumn("{task.description}", markup=False), console=self._console)
        self._bar = self._progress.add_task("waiting for the first step", total=total_steps, completed=resumed_step)
        self._started_s, self._skipped = clock(), 0.0

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record ``step`` (from 1). Values that are not finite become null in metrics.jsonl."""
        self._rows.append([{"step": step, **metrics}])
        for sink in self.sinks:
            sink.add(step, metrics)
        step_s = (self._clock() - self._started_s) / max(step - self.resumed_step, 1)
        line = status_line(step, self.total_steps, metrics, step_s * (self.total_steps - step))
        self._progress.update(self._bar, completed=step, description=line)
        is_due = step % self.every == 0 or step in (self.resumed_step + 1, self.total_steps)
        skipped, self._skipped = self._skipped, metrics.get("skipped_steps", 0.0)
        if not self._console.is_terminal and (is_due or self._skipped > skipped or TEST in metrics):
            notice(line, self._console)

    def close(self) -> None:
        """Take the bar down and close the files; harmless when done twice."""
        if self._console.is_terminal:
            self._progress.stop()  # elsewhere it would print an empty line
        self._rows.close()
        for sink in self.sinks:
            sink.close()

    def __enter__(self) -> "Tracker":
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def tracked(run_dir: Path, total_steps: int, resumed_step: int, also: Sequence[Open]) -> Tracker:
    """A tracker with further sinks."""
    tracker = Tracker(run_dir, total_steps, resumed_step)
    tracker.sinks += [opened(run_dir, resumed_step) for opened in also]
    return tracker


class RolloutLog:
    """Appends every rollout to rollouts.jsonl; a context manager.

    A row: {"step": 1, "id": "mri-00017", "completion": "<think>…", "rewards": {"format": 1.0, "accuracy": 0.0},
    "reward": 1.0, "advantage": -0.7, "tokens": 23, "finished": true}. The rows of a step are written all or none.
    Raises RunError as ``Tracker`` does.
    """

    def __init__(self, run_dir: Path, resumed_step: int = 0):
        self._rows = JsonLines(Path(run_dir) / "rollouts.jsonl", resumed_step)

    def log(self, step: int, groups_P: Sequence[RolloutGroup], advantages_PG: Sequence[Sequence[float]]) -> None:
        """Record the P groups of ``step`` (from 1) with the advantage of each of their rollouts."""
        self._rows.append(
            {
                "step": step,
                "id": group.prompt.example.id,
                "completion": rollout.completion.text,
                "rewards": rollout.rewards,
                "reward": rollout.reward,
                "advantage": float(advantage),
                "tokens": len(rollout.completion.token_ids),
                "finished": rollout.completion.finished,
            }
            for group, advantages_G in zip(groups_P, advantages_PG, strict=True)
            for rollout, advantage in zip(group.rollouts, advantages_G, strict=True)
        )

    def close(self) -> None:
        """Close the file; harmless when done twice."""
        self._rows.close()

    def __enter__(self) -> "RolloutLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def status_line(step: int, total_steps: int, metrics: Mapping[str, float], left_s: float) -> str:
    """One line about a step, the time left first: a narrow terminal cuts the end. What is not among the metrics is left out.

    >>> status_line(12, 75, {"reward": 1.42, "reward/format": 0.95, "reward/accuracy": 0.47, "kl": 0.0123}, 65)
    'step 12/75 · 1:05 left · reward 1.420 (format 0.950, accuracy 0.470) · kl 0.0123'
    >>> status_line(75, 75, {"completion_length": 22.6}, 0)
    'step 75/75 · 0:00 left · 23 tokens'
    >>> status_line(75, 75, {"completion_length": 22.6, "skipped_steps": 2, "test/accuracy": 0.61}, 0)
    'step 75/75 · 0:00 left · 23 tokens · held out 61.0 % right · 2 steps skipped, not finite'
    """
    minutes, seconds = divmod(round(left_s), 60)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
    parts = [f"step {step}/{total_steps}", f"{clock} left"]
    if "reward" in metrics:
        pieces = ", ".join(f"{key[7:]} {value:.3f}" for key, value in metrics.items() if key.startswith("reward/"))
        parts.append(f"reward {metrics['reward']:.3f}" + f" ({pieces})" * bool(pieces))
    if "kl" in metrics:
        parts.append(f"kl {metrics['kl']:.4f}")
    if "completion_length" in metrics:
        parts.append(f"{metrics['completion_length']:.0f} tokens")
    if TEST in metrics:
        parts.append(f"held out {percent(metrics[TEST])} % right")
    if skipped := metrics.get("skipped_steps"):
        parts.append(f"{skipped} step{'s' * (skipped > 1)} skipped, not finite")
    return " · ".join(parts)


def _open_events(run_dir: Path, resumed_step: int, console: Console) -> list[Sink]:
    try:
        from medvlm_r1.training.events import EventFile  # its TensorBoard may be missing
    except ImportError as error:
        reason = f"TensorBoard is missing ({error}): metrics.jsonl is written, events are not; {install('tensorboard')}"
        notice(reason, console)
        return []
    return [EventFile(run_dir, resumed_step)]
