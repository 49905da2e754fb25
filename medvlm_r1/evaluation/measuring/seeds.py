"""A claim about training has two sources of chance: the questions that were asked, and the seeds that were trained.

Legend: S seeds (trainings), N questions, G groups (patients).
"""

import math
from collections import Counter
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
    means_S = by_seed(values_SN, strata)
    of_seeds = float(np.var(means_S, ddof=1)) / n_seeds
    of_patients, freedom = _of_patients(table_SN.mean(0).tolist(), groups, strata)
    value, variance = float(np.mean(means_S)), of_seeds + of_patients
    if variance == 0:  # nothing varied: there is no p to tell
        return Estimate(value, value, value)
    degrees = variance**2 / (of_seeds**2 / (n_seeds - 1) + of_patients**2 / freedom)
    half = float(student.ppf(0.975, degrees)) * math.sqrt(variance)
    return Estimate(value, value - half, value + half, float(2 * student.sf(abs(value) / math.sqrt(variance), degrees)))


def by_seed(values_SN: Sequence[Sequence[float]], strata: Sequence[Hashable]) -> list[float]:
    """(S,): each seed's mean over the means of strata.

    >>> by_seed([[1, 1, 0], [0, 1, 1]], ["mri", "mri", "ct"])
    [0.5, 0.75]
    """
    counts = Counter(strata)
    weights_N = np.array([1 / (counts[stratum] * len(counts)) for stratum in strata])
    return [float(mean) for mean in np.asarray(values_SN, float) @ weights_N]


def _of_patients(values_N: Sequence[float], groups: Sequence[Hashable], strata: Sequence[Hashable]) -> tuple[float, float]:
    """Variance of the mean of the strata's means, by what each patient adds to it (linearised, Kish 1965), and its degrees of freedom.

    As in ``clusters``, patients who were asked unequally often count for fewer. With less than three in a stratum, where nobody knows
    how much they differ there, all are taken together.
    """
    table = Table.of(values_N, groups, strata)
    weights_S = np.full(len(table.strata), 1 / len(table.strata))
    found = table.spread(weights_S)
    if not math.isnan(found.variance):
        return found.variance, found.freedom
    parts_G = table.parts_GS @ weights_S
    return float(parts_G @ parts_G) * len(parts_G) / (len(parts_G) - 1), len(parts_G) - 1
