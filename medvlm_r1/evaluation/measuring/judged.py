"""What a judge said of free answers, beside the rule: how often both agree, and how far beyond chance."""

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from scipy.stats import t as student

from medvlm_r1.evaluation.measuring.draws import SHARED
from medvlm_r1.evaluation.measuring.metrics import Measure, overall
from medvlm_r1.evaluation.measuring.share import share
from medvlm_r1.evaluation.samples import Sample


def judged(samples: Sequence[Sample]) -> dict[str, Any] | None:
    """The judge's numbers of one arm, None where it was not asked.

    ``right`` is the mean over modalities of the judge's verdicts, and of the rule's where there is none:
    no answer was read, or ``without_verdict``. ``rule`` is the same by the rule alone. ``agrees`` and
    ``kappa`` are over the answers that both judged; ``table`` counts who of the two called them right.
    """
    both = [s for s in samples if s.judged is not None]
    if not both:
        return None
    right, rule = overall(samples, Measure(_verdict, lambda _: None)), overall(samples)
    verdicts, rules = [bool(s.judged) for s in both], [s.correct for s in both]
    agrees = share([judge == by_rule for judge, by_rule in zip(verdicts, rules, strict=True)], both)
    cells = list(zip(verdicts, rules, strict=True))
    value, interval = kappa(verdicts, rules, [s.cluster for s in both], agrees["ci95"])
    return {
        "n": right["n"],
        "judged": len(both),
        "without_verdict": sum(s.answer is not None and s.judged is None for s in samples),
        "right": right["accuracy"],
        "right_ci95": right["ci95"],
        "rule": rule["accuracy"],
        "rule_ci95": rule["ci95"],
        "agrees": agrees["share"],
        "agrees_ci95": agrees["ci95"],
        "kappa": value,
        "kappa_ci95": interval,
        "table": {
            "both": cells.count((True, True)), "judge_only": cells.count((True, False)),
            "rule_only": cells.count((False, True)), "neither": cells.count((False, False)),
        },
    }  # fmt: skip


def _verdict(sample: Sample) -> float:
    return float(sample.correct if sample.judged is None else sample.judged)


def kappa(
    first: Sequence[bool], second: Sequence[bool], groups: Sequence[Hashable], agrees_ci95: Sequence[float] | None, draws: int = 4000, seed: int = 0
) -> tuple[float | None, list[float] | None]:
    """Cohen's kappa (1960): agreement beyond what two raters with these shares of "right" would have by chance; with its 95 % interval.

    The interval resamples whole groups; a draw in which kappa is not defined is left out. Where all draws
    are alike it is that of the agreement, ``agrees_ci95``, put into kappa's formula; else few groups stretch it as Student's
    quantile does. Without an interval of the agreement (fewer than three groups) there is none. (None, None) where both
    call all answers the same: chance leaves nothing to agree on.

    | both | first only | second only | neither | kappa |
    >>> first, second = [1] * 25 + [0] * 25, [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    >>> round(kappa(first, second, range(50), [0.5, 0.8])[0], 3)     # (0.7 - 0.5) / (1 - 0.5)
    0.4
    >>> kappa([1, 0], [1, 0], "ab", [0.5, 1.0]), kappa([1, 1], [1, 1], "ab", [0.3, 1.0])
    ((1.0, [0.0, 1.0]), (None, None))
    """
    group_of: dict[Hashable, int] = {}
    g_N = [group_of.setdefault(group, len(group_of)) for group in groups]
    counts_G4 = np.zeros((len(group_of), 4))  # answers, agreements, "right" of the first, of the second
    np.add.at(counts_G4, g_N, [[1.0, a == b, a, b] for a, b in zip(first, second, strict=True)])
    value = float(_kappas(counts_G4.sum(0)[None])[0])
    if np.isnan(value):
        return None, None
    size = len(group_of)
    blocks, _ = SHARED.blocks(size, draws, seed)
    drawn_D = np.concatenate([_kappas(weights_DG.astype(float) @ counts_G4) for weights_DG in blocks])
    low, high = map(float, np.nanquantile(drawn_D, [0.025, 0.975]))
    if low == high and agrees_ci95:
        by_chance = _by_chance(counts_G4.sum(0)[None])[0]
        low, high = (float((share - by_chance) / (1 - by_chance)) for share in agrees_ci95)
    elif low < high:
        stretch = math.sqrt(size / (size - 1)) * student.ppf(0.975, size - 1) / student.ppf(0.975, math.inf)
        low, high = (min(1.0, max(-1.0, value + stretch * (end - value))) for end in (low, high))
    return value, ([low, high] if agrees_ci95 else None)


def _kappas(counts_D4: np.ndarray) -> np.ndarray:
    by_chance_D = _by_chance(counts_D4)
    return np.divide(counts_D4[:, 1] / counts_D4[:, 0] - by_chance_D, 1 - by_chance_D, out=np.full(len(counts_D4), np.nan), where=by_chance_D < 1)


def _by_chance(counts_D4: np.ndarray) -> np.ndarray:
    first_D, second_D = counts_D4[:, 2] / counts_D4[:, 0], counts_D4[:, 3] / counts_D4[:, 0]
    return first_D * second_D + (1 - first_D) * (1 - second_D)
