"""What GRPO costs on the base that speaks English: the recipe ``real``, four questions a step and eight rollouts each, as ``medvlm-r1 train`` runs it.

    .venv/bin/python benchmarks/real_grpo.py runs/real [--steps 100] [--threads 2] [--json FILE]

A process of its own, whose peak memory and processor time the kernel tells; seconds by part are those of metrics.jsonl.
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
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "_systems"))

from processes import commit, environ, hardware, say, write_json

PARTS = ("rollout", "reference", "update")
REPORTED = ("completion_length", "kl", "zero_variance_groups", "reward")


def measured(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The training, and what it took. SystemExit with its last words where it failed."""
    sets = [f"steps={args.steps}", f"save_every={args.steps}", *args.set]
    command = [
        sys.executable,
        "-m",
        "medvlm_r1",
        "train",
        args.recipe,
        "--model",
        str(args.base / "model"),
        "--data",
        str(args.base / "questions/reserve.jsonl"),
    ]
    command += ["--run-dir", str(folder / "run"), *(word for value in sets for word in ("--set", value))]
    started = time.monotonic()
    done = subprocess.run(command, env=environ(args.threads), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the training ended with code {done.returncode}:\n{done.stderr[-3000:]}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    rows = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return figures(rows) | {"whole_s": time.monotonic() - started, "cpu_s": used.ru_utime + used.ru_stime, "peak_bytes": used.ru_maxrss * 1024}


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of a step's seconds by part, without the first step where there are more; ``steps_100_s`` are as many of their mean.

    >>> found = figures([{"seconds/rollout": 9.0}, {"seconds/rollout": 1.0, "seconds/update": 3.0}, {"seconds/rollout": 2.0, "seconds/update": 4.0}])
    >>> found["step_s"], found["parts_s"], found["steps_100_s"]
    (5.0, {'rollout': 1.5, 'reference': 0.0, 'update': 3.5}, 500.0)
    """
    steps = [{part: row.get(f"seconds/{part}", 0.0) for part in PARTS} for row in rows]
    counted = steps[1:] or steps
    sums = [sum(step.values()) for step in counted]
    told = {key: statistics.mean(row[key] for row in rows) for key in REPORTED if all(row.get(key) is not None for row in rows)}
    parts = {part: statistics.median(step[part] for step in counted) for part in PARTS}
    return {"step_s": statistics.median(sums), "parts_s": parts, "steps_100_s": 100 * statistics.mean(sums), "steps": steps, "training": told}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path, metavar="RUN", help="what medvlm-r1 real-base has left")
    parser.add_argument("--recipe", default="real", help="real-looking has the contrast (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value of the recipe; may be repeated")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(args, Path(folder))
    result = {
        "setting": {"recipe": args.recipe, "steps": args.steps, "threads": args.threads, "set": args.set}, **found,
        "claim": {"steps_100_minutes_at_most": 40, "holds": found["steps_100_s"] <= 2400},
        "hardware": hardware(), "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "date": datetime.date.today().isoformat(), "commit": commit(), "command": shlex.join(["python", *(word.replace(str(args.base), "RUN") for word in sys.argv)]),
    }  # fmt: skip
    if args.json:
        write_json(args.json, result)
    parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in found["parts_s"].items())
    say(
        f"{found['step_s']:.1f} s a step ({parts}); 100 of them {found['steps_100_s'] / 60:.0f} minutes; peak {found['peak_bytes'] / 2**30:.2f} GiB; {found['cpu_s']:.0f} CPU s in all"
    )


if __name__ == "__main__":
    main()
