"""A claim about training has two sources of chance: the questions that were asked, and the seeds that were trained.

Legend: S seeds (trainings), N questions, G groups (patients).
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np
from scipy.stats import t as student

from medvlm_r1.evaluation.measuring.clusters import Table
from medvlm_r1.evaluation.measuring.statistics import Estimate


def over_seeds(values_SN: Sequence[Sequence[float]], groups: Sequence[Hashable], strata: Sequence[Hashable]) -> Estimate:
    """Mean over seeds, and over the means of strata, with an interval that holds for other seeds and other patients at once.

    The variances of the mean between seeds and between patients add up (each contains what is neither's own, so that the sum is a
    little too large, never too small); the quantile is Student's, its degrees of freedom Welch and Satterthwaite's (Biometrics 2, 110, 1946).
    Fed with differences of two methods on the same questions, seed by seed, it is their paired comparison, and ``p`` is that of no
    difference. Raises ValueError for fewer than two seeds or two patients: they show no variance.

    | values of 2 seeds, 4 patients | mean | half width |
    >>> alike = over_seeds([[1, 0, 1, 0], [1, 0, 1, 0]], "abcd", "xxxx")        # patients: 1/12, 3 degrees; seeds: 0
    >>> alike.value, round(alike.high - alike.value, 3)                          # 3.182 x 0.289
    (0.5, 0.919)
    >>> apart = over_seeds([[1, 1, 1, 1], [0, 0, 0, 0]], "abcd", "xxxx")        # patients: 0; seeds: 1/4, 1 degree
    >>> apart.value, round(apart.high - apart.value, 2)                          # 12.71 x 0.5
    (0.5, 6.35)
    """
    table_SN = np.asarray(values_SN, float)
    n_seeds, n_groups = len(table_SN), len(set(groups))
    if n_seeds < 2 or n_groups < 2:
        raise ValueError(f"{n_seeds} seed(s) and {n_groups} patient(s) show no variance; two of each are the least")
    weights_N = _weights(strata)
    by_seed = table_SN @ weights_N
    of_seeds = float(by_seed.var(ddof=1)) / n_seeds
    of_patients, freedom = _of_patients(table_SN.mean(0).tolist(), groups, strata)
    value, variance = float(by_seed.mean()), of_seeds + of_patients
    if variance == 0:  # nothing varied: there is no p to tell
        return Estimate(value, value, value)
    degrees = variance**2 / (of_seeds**2 / (n_seeds - 1) + of_patients**2 / freedom)
    half = float(student.ppf(0.975, degrees)) * math.sqrt(variance)
    return Estimate(value, value - half, value + half, float(2 * student.sf(abs(value) / math.sqrt(variance), degrees)))


def _weights(strata: Sequence[Hashable]) -> np.ndarray:
    """(N,), so that the weighted sum is the mean of the strata's means."""
    counts: dict[Hashable, int] = defaultdict(int)
    for stratum in strata:
        counts[stratum] += 1
    return np.array([1 / (counts[stratum] * len(counts)) for stratum in strata])


def _of_patients(values_N: Sequence[float], groups: Sequence[Hashable], strata: Sequence[Hashable]) -> tuple[float, float]:
    """Variance of the mean of the strata's means, by what each patient adds to it (linearised, Kish 1965), and its degrees of freedom.

    As in ``clusters``, patients who were asked unequally often count for fewer. With less than three in a stratum, where nobody knows
    how much they differ there, all are taken together.
    """
    table = Table.of(values_N, groups, strata)
    found = table.spread(np.full(len(table.strata), 1 / len(table.strata)))
    if not math.isnan(found.variance):
        return found.variance, found.freedom
    values: dict[Hashable, list[float]] = defaultdict(list)
    for value, stratum in zip(values_N, strata, strict=True):
        values[stratum].append(float(value))
    means = {stratum: sum(of) / len(of) for stratum, of in values.items()}
    parts: dict[Hashable, float] = defaultdict(float)
    for value, group, stratum, weight in zip(values_N, groups, strata, _weights(strata), strict=True):
        parts[group] += float(weight) * (float(value) - means[stratum])
    return len(parts) / (len(parts) - 1) * sum(part**2 for part in parts.values()), len(parts) - 1
