"""Two ranks of one thread against one process of two threads: the same steps of the embedded model, in turns.

    .venv/bin/python benchmarks/ranks.py [--rounds 3] [--steps 8] [--no-cut] [--json FILE]

The embedded model's own recipe (8 questions x 8). What counts is the step: rollout, reference and update as metrics.jsonl has them of rank 0,
medians over a run's steps but the first two; the ratio is taken within a round, since the machine's hours differ.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "_systems"))

from processes import commit, hardware

ROOT = Path(__file__).resolve().parents[1]
FORMS = {
    "one process, two threads": (2, []),
    "two ranks, whole replicas": (1, []),
    "two ranks, cut weights": (1, ["devices.shard=true"]),
}


def seconds(form: str, steps: int, work: Path) -> dict[str, float]:
    """The median step of a short run, and of each of its phases."""
    threads, more = FORMS[form]
    values = [f"steps={steps}", "save_every=1000", *more]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if threads == 1 else []
    words = ["-m", "medvlm_r1", "train", "nano", "--run-dir", str(work), *(word for value in values for word in ("--set", value))]
    shutil.rmtree(work, ignore_errors=True)
    there = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *torchrun, *words], env=there, check=True, capture_output=True)
    rows = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()][2:]
    phases = [{key.removeprefix("seconds/"): value for key, value in row.items() if key.startswith("seconds/")} for row in rows]
    phases = [each | {"step": sum(each.values())} for each in phases]
    return {name: round(statistics.median(each.get(name, 0.0) for each in phases), 4) for name in phases[0]}


def main() -> int:
    """Prints a line a round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--no-cut", action="store_true", help="whole replicas alone")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    first, *others = list(FORMS)[: 2 if given.no_cut else 3]
    rounds: list[dict[str, dict[str, float]]] = []
    for n in range(given.rounds):
        rounds.append({form: seconds(form, given.steps, ROOT / "runs/bench/ranks") for form in (first, *others)})
        for form, taken in rounds[-1].items():
            print(f"round {n + 1}, {form}: " + ", ".join(f"{name} {value:.3f} s" for name, value in taken.items()), flush=True)
    ratios = {form: round(statistics.median(each[first]["step"] / each[form]["step"] for each in rounds), 2) for form in others}
    print("times as fast as one process: " + ", ".join(f"{form} {ratio}" for form, ratio in ratios.items()))
    if given.json:
        result: dict[str, Any] = {"rounds": rounds, "ratio": ratios, "hardware": hardware(), "commit": commit(), "load": os.getloadavg()}
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
