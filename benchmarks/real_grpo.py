"""What GRPO costs on the base that speaks English: the recipe ``real``, four questions a step and eight rollouts each, as ``medvlm-r1 train`` runs it.

    .venv/bin/python benchmarks/real_grpo.py runs/real [--steps 100] [--ranks 2] [--threads 1] [--json FILE]

Processes of their own, whose peak memory (of one) and processor time (of all) the kernel tells; a step's parts are those of the trainer, of the first
process, in seconds and in seconds of its processor time, all its threads together, which other work on the machine disturbs less.
"""

import argparse
import datetime
import json
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "_systems"))

from processes import commit, environ, hardware, say, write_json

PARTS = ("rollout", "reference", "update")
REPORTED = ("completion_length", "kl", "zero_variance_groups", "reward")


def inside(args: argparse.Namespace, run: Path) -> None:
    """The training, in the process that is measured."""
    from dataclasses import replace

    from medvlm_r1.config import override
    from medvlm_r1.launch import training
    from medvlm_r1.recipes.named import find
    from medvlm_r1.training.distributed import joined
    from medvlm_r1.training.grpo import trainer
    from medvlm_r1.training.stopwatch import Stopwatch

    class Both(Stopwatch):
        """The seconds of the wall, and those of the processor."""

        def __init__(self) -> None:
            super().__init__()
            self.cpu = Stopwatch(time.process_time)

        @contextmanager
        def __call__(self, phase: str) -> Iterator[None]:
            with super().__call__(phase), self.cpu(phase):
                yield

        def lap(self) -> dict[str, float]:
            return super().lap() | {f"cpu_{name}": seconds for name, seconds in self.cpu.lap().items()}

    trainer.Learner = partial(trainer.Learner, watch=Both())  # the trainer's own phases, with another watch
    config = replace(find(args.recipe, "grpo"), model=str(args.base / "model"), data=str(args.base / "questions/reserve.jsonl"))
    with joined():
        training.run(override(config, [f"steps={args.steps}", f"save_every={args.steps}", *args.set]), run)


def measured(args: argparse.Namespace, run: Path) -> dict[str, Any]:
    """What the training took. SystemExit with its last words where it failed."""
    started = time.monotonic()
    launched = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(args.ranks)] if args.ranks > 1 else []
    command = [sys.executable, *launched, __file__, *sys.argv[1:], "--inside", run]
    done = subprocess.run(command, env=environ(args.threads), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the training ended with code {done.returncode}:\n{done.stderr[-3000:]}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return figures(rows) | {"whole_s": time.monotonic() - started, "whole_cpu_s": used.ru_utime + used.ru_stime, "peak_bytes": used.ru_maxrss * 1024}


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of a step's seconds and of its parts', without the first step where there are more; ``steps_100_s`` are a hundred times their mean.

    >>> walls = ({"seconds/rollout": 9.0}, {"seconds/rollout": 1.0, "seconds/update": 3.0}, {"seconds/rollout": 2.0, "seconds/update": 4.0})
    >>> found = figures([wall | {"cpu_seconds/rollout": 1.0} for wall in walls])
    >>> found["step_s"], found["parts_s"], found["steps_100_s"], found["step_cpu_s"]
    (5.0, {'rollout': 1.5, 'reference': 0.0, 'update': 3.5}, 500.0, 1.0)
    """
    told: dict[str, Any] = {}
    for kind, key in (("s", "seconds"), ("cpu_s", "cpu_seconds")):
        steps = [{part: row.get(f"{key}/{part}", 0.0) for part in PARTS} for row in rows]
        counted = steps[1:] or steps
        sums = [sum(step.values()) for step in counted]
        parts = {part: statistics.median(step[part] for step in counted) for part in PARTS}
        told |= {f"step_{kind}": statistics.median(sums), f"parts_{kind}": parts, f"steps_100_{kind}": 100 * statistics.mean(sums), f"each_{kind}": steps}
    return told | {"training": {key: statistics.mean(row[key] for row in rows) for key in REPORTED if all(row.get(key) is not None for row in rows)}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path, metavar="RUN", help="what medvlm-r1 real-base has left")
    parser.add_argument("--recipe", default="real", help="real-looking has the contrast (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--ranks", type=int, default=1, help="processes that share a step's questions, as torchrun starts them")
    parser.add_argument("--threads", type=int, default=2, help="of each process")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value of the recipe; may be repeated")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        return inside(args, args.inside)
    with tempfile.TemporaryDirectory() as folder:
        found = measured(args, Path(folder) / "run")
    result = {
        "setting": {"recipe": args.recipe, "steps": args.steps, "ranks": args.ranks, "threads": args.threads, "set": args.set}, **found,
        "claim": {"steps_100_minutes_at_most": 40, "holds": found["steps_100_s"] <= 2400},
        "hardware": hardware(), "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "date": datetime.date.today().isoformat(), "commit": commit(), "command": shlex.join(["python", *(word.replace(str(args.base), "RUN") for word in sys.argv)]),
    }  # fmt: skip
    if args.json:
        write_json(args.json, result)
    parts = ", ".join(f"{part} {found['parts_s'][part]:.1f} / {found['parts_cpu_s'][part]:.1f}" for part in PARTS)
    say(f"seconds / CPU seconds a step: {found['step_s']:.1f} / {found['step_cpu_s']:.1f} ({parts})")
    say(f"100 steps: {found['steps_100_s'] / 60:.0f} minutes, {found['steps_100_cpu_s'] / 60:.0f} CPU minutes; peak {found['peak_bytes'] / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
