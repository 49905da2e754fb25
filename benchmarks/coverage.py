"""Do intervals hold the truth, and thresholds their promise, with few patients? By simulation, seeded.

Patients have 1 to 9 questions each, in one modality or in each of three. Each patient has a probability of its own
from a beta distribution, so that its questions are as alike as the intra-class correlation says. The functions are the product's.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medvlm_r1.evaluation.measuring.calibration import CONFIDENCE, FEWEST_FOR_THRESHOLD, STARTS, threshold_for
from medvlm_r1.evaluation.measuring.clusters import cluster_mean, cluster_rate, design_effect, few
from medvlm_r1.evaluation.measuring.statistics import Estimate

PATIENTS, ALIKE, RATES = (3, 5, 10, 20, 50, 300), (0.1, 0.3, 0.5, 0.7, 0.9), (0.55, 0.9)
GAIN, LOSS = 0.3, 0.1  # shares of questions that only the second, only the first model gets right


@dataclass(frozen=True)
class Drawn:
    """One simulated evaluation: value, patient and modality of each question."""

    values: np.ndarray
    groups: np.ndarray
    strata: np.ndarray


def drawn(rng: np.random.Generator, patients: int, strata: int, alike: float, shares: Sequence[tuple[float, float]]) -> Drawn:
    """Questions of (value, probability) ``shares``; the patients of a modality are its own."""
    group_N = np.repeat(np.arange(patients * strata), rng.integers(1, 10, patients * strata))
    pull = np.array([share for _, share in shares]) * (1 / alike - 1)
    odds_GK = rng.gamma(pull, 1, (patients * strata, len(shares))) + 1e-300
    steps_NK = (odds_GK / odds_GK.sum(1, keepdims=True)).cumsum(1)[group_N]
    kind_N = (rng.random((len(group_N), 1)) > steps_NK).sum(1).clip(0, len(shares) - 1)
    return Drawn(np.array([value for value, _ in shares])[kind_N], group_N, group_N % strata)


def rate_covered(rng: np.random.Generator, patients: int, strata: int, alike: float, runs: int) -> float:
    """Share of simulated accuracies whose interval holds the truth: the lower of the two over RATES."""
    return min(_covered(rng, (patients, strata, alike, runs), ((1.0, rate), (0.0, 1 - rate)), rate, cluster_rate) for rate in RATES)


def difference_covered(rng: np.random.Generator, patients: int, strata: int, alike: float, runs: int) -> float:
    """The same of paired differences."""
    shares = ((1.0, GAIN), (-1.0, LOSS), (0.0, 1 - GAIN - LOSS))
    return _covered(rng, (patients, strata, alike, runs), shares, GAIN - LOSS, lambda *told: cluster_mean(*told, draws=1))


def _covered(
    rng: np.random.Generator,
    setting: tuple[int, int, float, int],
    shares: Sequence[tuple[float, float]],
    truth: float,
    measure: Callable[[Any, Any, Any], Estimate],
) -> float:
    patients, strata, alike, runs = setting
    hits = 0
    for _ in range(runs):
        one = drawn(rng, patients, strata, alike, shares)
        found = measure(one.values, one.groups.tolist(), one.strata.tolist())
        hits += found.low - 1e-9 <= truth <= found.high + 1e-9
    return hits / runs


def invented(rng: np.random.Generator, patients: int, alike: float, wanted: float, runs: int) -> float:
    """How often a threshold is found although the error is a hair above the wanted one at every confidence; patients of 20 questions, 5 of 300."""
    if patients < FEWEST_FOR_THRESHOLD:
        return 0.0  # none is looked for
    size = 20 if patients < 300 else 5
    group_N = np.repeat(np.arange(patients), size)
    pull = (1 / alike - 1) * np.array([wanted + 1e-9, 1 - wanted])
    found = 0
    for _ in range(runs):
        correct_N = rng.random(len(group_N)) >= rng.beta(*pull, patients)[group_N]
        design = design_effect(correct_N, group_N.tolist()) * few(patients, (1 - CONFIDENCE) / STARTS)
        found += threshold_for(rng.random(len(group_N)), correct_N, wanted, design) is not None
    return found / runs


def measure(runs: int, patients: Sequence[int] = PATIENTS, alike: Sequence[float] = ALIKE) -> dict[str, Any]:
    """number -> patients -> intra-class correlation -> share."""
    rng = np.random.default_rng(0)
    numbers: dict[str, Callable[[int, float], float]] = {
        "accuracy, one modality": lambda g, a: rate_covered(rng, g, 1, a, runs),
        "accuracy, mean of three": lambda g, a: rate_covered(rng, g, 3, a, runs),
        "difference, one modality": lambda g, a: difference_covered(rng, g, 1, a, runs),
        "difference, mean of three": lambda g, a: difference_covered(rng, g, 3, a, runs),
        "threshold invented": lambda g, a: max(invented(rng, g, a, wanted, runs // 2) for wanted in (0.1, 0.2)),
    }
    return {name: {str(g): {str(a): one(g, a) for a in alike} for g in patients} for name, one in numbers.items()}


def table(found: dict[str, Any]) -> str:
    """Markdown: lowest and highest over the correlations."""
    columns = list(next(iter(found.values())))
    lines = ["| in per cent, over intra-class correlations | " + " | ".join(columns) + " patients |", "|---" * (len(columns) + 1) + "|"]
    for name, rows in found.items():
        cells = [f"{100 * min(row.values()):.0f}–{100 * max(row.values()):.0f}" for row in rows.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Run it, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="simulated evaluations for each cell")
    parser.add_argument("--json", type=Path, help="write every cell")
    args = parser.parse_args(argv)
    started = time.monotonic()
    found = measure(args.runs)
    print(table(found))
    facts = {"command": f"benchmarks/coverage.py --runs {args.runs}", "hardware": f"{platform.machine()}, {os.cpu_count()} CPU cores", "numpy": np.__version__}
    if args.json:
        args.json.write_text(json.dumps(facts | {"seconds": round(time.monotonic() - started, 1), "covered": found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
