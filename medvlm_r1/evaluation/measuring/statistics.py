"""Intervals and tests for small, clustered, paired samples. Pure functions.

Legend: G groups (patients), S strata (modalities), D bootstrap or permutation draws, N items.
Every random draw is seeded: the same input gives the same digits.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from medvlm_r1.evaluation.measuring.draws import SHARED


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, and p against zero where a test was made.

    >>> Estimate(0.2, 0.15, 0.25, 0.001).ci95
    [0.15, 0.25]
    """

    value: float
    low: float
    high: float
    p: float | None = None

    @property
    def ci95(self) -> list[float]:
        return [self.low, self.high]


def wilson(successes: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927), for n independent items; a fraction where dependent ones count for less.

    | successes, n | low | high |
    >>> [round(x, 3) for x in wilson(704, 900)]     # 78.22 %, the paper's mean
    [0.754, 0.808]
    >>> [round(x, 3) for x in wilson(207, 300)]     # 69.0 %
    [0.636, 0.74]
    >>> [round(x, 3) for x in wilson(0, 10)]
    [0.0, 0.278]
    >>> wilson(0, 0)                                # nothing seen, nothing known
    (0.0, 1.0)
    """
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / n
    centre = rate + z * z / (2 * n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low, high = (centre - half) / scale, (centre + half) / scale
    return (0.0 if rate == 0 else max(0.0, low)), (1.0 if rate == 1 else min(1.0, high))


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar p: is 1 : 1 the odds among the items only one of two got right?

    | only first right | only second right | p |
    >>> mcnemar(0, 0)
    1.0
    >>> mcnemar(5, 0)           # 2 / 2**5
    0.0625
    >>> mcnemar(3, 1)           # 2 x (1 + 4) / 16
    0.625
    """
    n, smaller = only_first + only_second, min(only_first, only_second)
    term = tail = 1
    for i in range(smaller):
        term = term * (n - i) // (i + 1)
        tail += term
    return min(1.0, 2 * tail / 2**n)


def cluster_mean(
    values: Sequence[float],
    groups: Sequence[Hashable],
    strata: Sequence[Hashable] | None = None,
    draws: int = 4000,
    seed: int = 0,
) -> Estimate:
    """Mean over strata of the mean in each, with a percentile interval from resampling whole groups.

    Without ``strata`` it is the plain mean. Fed with differences of two models
    on the same items, it is their paired comparison; ``p`` is then that of
    flipping the sign of whole groups at random (both models equal, groups
    independent). Raises ValueError when there are no values. With fewer than
    about 20 groups the interval is too narrow; with one it has no width. A draw
    that misses a very small stratum averages over the others.

    | values, groups | mean | ci95 |
    >>> cluster_mean([1, 0, 1, 1], "aabb").value
    0.75
    >>> cluster_mean([1, 0, 1], "abc", strata=["ct", "ct", "mri"]).value    # (1/2 + 1) / 2
    0.75
    >>> cluster_mean([1.0] * 8, "abcdefgh").ci95
    [1.0, 1.0]
    >>> 0.005 < cluster_mean([1.0] * 8, "abcdefgh", draws=20000).p < 0.011       # 2 / 2**8 = 0.0078
    True
    """
    sums_GS, counts_GS, _ = _tables(values, groups, strata)
    value = float((sums_GS.sum(0) / counts_GS.sum(0)).mean())
    weights, signs = SHARED.blocks(len(sums_GS), draws, seed)
    means_D = np.concatenate([np.nanmean(_means(weights_DG, sums_GS, counts_GS), axis=1) for weights_DG in weights])
    low, high = np.quantile(means_D, [0.025, 0.975])
    shares_GS = sums_GS / counts_GS.sum(0)
    flipped_D = np.concatenate([(signs_DG.astype(float) @ shares_GS).mean(axis=1) for signs_DG in signs])
    extreme = int((np.abs(flipped_D) >= abs(value) - 1e-12).sum())
    return Estimate(value, float(low), float(high), (1 + extreme) / (1 + draws))


def cluster_gap(
    values: Sequence[float],
    groups: Sequence[Hashable],
    strata: Sequence[Hashable],
    stratum: Hashable,
    draws: int = 4000,
    seed: int = 0,
) -> Estimate:
    """Mean in one stratum minus the mean over the means of the others; the interval resamples whole groups.

    A group that stands in several strata moves as one. A draw without any item of
    the stratum, or of all others, says nothing and is left out. Raises ValueError
    where the stratum, or every other, is missing.

    | values, strata, stratum | gap |
    >>> cluster_gap([1, 1, 1, 0, 0, 0], "abcdef", ["mri", "mri", "ct", "ct", "xray", "xray"], "mri").value  # 1 - (1/2 + 0) / 2
    0.75
    """
    sums_GS, counts_GS, names = _tables(values, groups, strata)
    if stratum not in names or len(names) < 2:
        raise ValueError(f"a gap is between {stratum!r} and others; there are {names}")
    own = names.index(stratum)

    def gap(means_DS: np.ndarray) -> np.ndarray:
        others_DS = np.delete(means_DS, own, axis=1)
        seen_D = (~np.isnan(others_DS)).sum(axis=1)
        return means_DS[:, own] - np.nansum(others_DS, axis=1) / np.where(seen_D, seen_D, np.nan)

    weights, _ = SHARED.blocks(len(sums_GS), draws, seed)
    gaps_D = np.concatenate([gap(_means(weights_DG, sums_GS, counts_GS)) for weights_DG in weights])
    low, high = np.nanquantile(gaps_D, [0.025, 0.975])
    return Estimate(float(gap((sums_GS.sum(0) / counts_GS.sum(0))[None])[0]), float(low), float(high))


def cluster_share(
    parts: Sequence[float],
    wholes: Sequence[float],
    groups: Sequence[Hashable],
    strata: Sequence[Hashable],
    draws: int = 4000,
    seed: int = 0,
) -> Estimate:
    """What share the mean of ``parts`` is of the mean of ``wholes``, both means over strata; the interval resamples whole groups.

    Below 0 it is 0, above 1 it is 1, and so it is in a draw whose whole is not above 0. Raises ValueError where the whole is not above 0.

    | parts, wholes | share |
    >>> cluster_share([0.5, 0.0], [1.0, 1.0], "ab", "xx").value
    0.25
    """
    parts_GS, counts_GS, _ = _tables(parts, groups, strata)
    wholes_GS, _, _ = _tables(wholes, groups, strata)
    part, whole = ((sums_GS.sum(0) / counts_GS.sum(0)).mean() for sums_GS in (parts_GS, wholes_GS))
    if whole <= 0:
        raise ValueError(f"a share of {whole:g} is not defined")
    shares = []
    for weights_DG in SHARED.blocks(len(counts_GS), draws, seed)[0]:
        part_D, whole_D = (np.nanmean(_means(weights_DG, sums_GS, counts_GS), axis=1) for sums_GS in (parts_GS, wholes_GS))
        shares.append(np.where(whole_D > 0, part_D / np.where(whole_D > 0, whole_D, 1), 1.0).clip(0, 1))
    low, high = np.quantile(np.concatenate(shares), [0.025, 0.975])
    return Estimate(float(np.clip(part / whole, 0, 1)), float(low), float(high))


def design_effect(values: Sequence[float], groups: Sequence[Hashable]) -> float:
    """How many times the variance of the mean exceeds that of as many independent items (Kish 1965); at least 1.

    n items are worth n / design effect independent ones.

    | values, groups | design effect |
    >>> design_effect([1, 0, 0, 1, 1, 0], "abcdef")
    1.0
    >>> design_effect([1, 1, 0, 0, 1, 1, 0, 0], "aabbccdd")         # every item stands there twice
    2.0
    """
    sums_GS, counts_GS, _ = _tables(values, groups, None)
    mean = sums_GS.sum() / counts_GS.sum()
    alone = float(((np.asarray(values, float) - mean) ** 2).sum())
    together = float(((sums_GS - mean * counts_GS) ** 2).sum())
    return max(1.0, together / alone) if alone else 1.0


def _tables(values: Sequence[float], groups: Sequence[Hashable], strata: Sequence[Hashable] | None) -> tuple[np.ndarray, np.ndarray, list[Hashable]]:
    """Sum and number of values for each group in each stratum, all that the draws need; and the strata's names."""
    if not len(values):
        raise ValueError("no values to average")
    group_of: dict[Hashable, int] = {}
    stratum_of: dict[Hashable, int] = {}
    g_N = [group_of.setdefault(g, len(group_of)) for g in groups]
    s_N = [stratum_of.setdefault(s, len(stratum_of)) for s in strata] if strata is not None else [0] * len(g_N)
    if not len(values) == len(g_N) == len(s_N):
        raise ValueError(f"{len(values)} values, {len(g_N)} groups, {len(s_N)} strata: one of each per item")
    sums_GS = np.zeros((len(group_of), max(1, len(stratum_of))))
    counts_GS = np.zeros_like(sums_GS)
    np.add.at(sums_GS, (g_N, s_N), np.asarray(values, float))
    np.add.at(counts_GS, (g_N, s_N), 1)
    return sums_GS, counts_GS, list(stratum_of)


def _means(weights_DG: np.ndarray, sums_GS: np.ndarray, counts_GS: np.ndarray) -> np.ndarray:
    """A ratio estimate in each stratum, draw by draw; NaN where a draw misses a very small stratum."""
    weights_DG = weights_DG.astype(float)
    counts_DS = weights_DG @ counts_GS
    return np.divide(weights_DG @ sums_GS, counts_DS, out=np.full_like(counts_DS, np.nan), where=counts_DS > 0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: compare each with alpha, and the family-wise error stays below it.

    >>> holm([0.01, 0.04, 0.03])        # 3 x 0.01, then 2 x 0.03, then never below it
    [0.03, 0.06, 0.06]
    >>> holm([])
    []
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def minimum_detectable_difference(n: float, discordant: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest difference of accuracy that n paired items find with this power (Connor 1987).

    ``discordant`` is the share of items that only one of the two models gets right.

    | items | discordant | difference |
    >>> round(minimum_detectable_difference(300, 0.3), 3)
    0.088
    >>> round(minimum_detectable_difference(900, 0.3), 3)
    0.051
    """
    z_alpha, z_power = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)
    if n + z_power**2 <= z_alpha**2:
        return 1.0  # so few items that no difference is found
    root = z_power * math.sqrt(n + z_power**2 - z_alpha**2)
    return math.sqrt(discordant) * (z_alpha * math.sqrt(n) + root) / (n + z_power**2)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased chance that k of n completions hold a right one (Chen et al. 2107.03374).

    | n | correct | k | pass@k |
    >>> pass_at_k(8, 2, 1)
    0.25
    >>> round(pass_at_k(4, 1, 2), 3)        # 1 - C(3, 2) / C(4, 2)
    0.5
    >>> pass_at_k(4, 3, 2)
    1.0
    """
    if not 0 <= correct <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {n} completions with {correct} right is not defined")
    return 1 - math.comb(n - correct, k) / math.comb(n, k)


def maj_at_k(answers: Sequence[str | None], gold: str) -> float:
    """1 when the most frequent answer is right, a share of it in a tie; unread answers have no vote.

    >>> maj_at_k(["A", "B", "A", None], "A"), maj_at_k(["A", "B"], "A"), maj_at_k([None, None], "A")
    (1.0, 0.5, 0.0)
    """
    votes = [a for a in answers if a is not None]
    most = max((votes.count(a) for a in set(votes)), default=0)
    winners = {a for a in votes if votes.count(a) == most}
    return float(gold in winners) / len(winners) if winners else 0.0
