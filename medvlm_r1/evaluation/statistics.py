"""Intervals and tests for small, clustered, paired samples. Pure functions.

Legend: G groups (patients), S strata (modalities), D bootstrap or permutation draws, N items.
Every random draw is seeded: the same input gives the same digits.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

_CELLS = 4_000_000  # draws x groups held at a time


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


def wilson(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927), for n independent items.

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
    about 20 groups the interval is too narrow; with one it has no width.

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
    if not len(values):
        raise ValueError("no values to average")
    sums_GS, counts_GS = _tables(np.asarray(values, float), groups, strata)
    value = float((sums_GS.sum(0) / counts_GS.sum(0)).mean())
    rng = np.random.default_rng(seed)
    chunk = max(1, _CELLS // len(sums_GS))
    sizes = [min(chunk, draws - start) for start in range(0, draws, chunk)]
    means_D = np.concatenate([_resampled(rng, size, sums_GS, counts_GS) for size in sizes])
    low, high = np.quantile(means_D, [0.025, 0.975])
    flipped_D = np.concatenate([_flipped(rng, size, sums_GS, counts_GS) for size in sizes])
    extreme = int((np.abs(flipped_D) >= abs(value) - 1e-12).sum())
    return Estimate(value, float(low), float(high), (1 + extreme) / (1 + draws))


def _tables(
    values_N: np.ndarray, groups: Sequence[Hashable], strata: Sequence[Hashable] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of values for each group in each stratum: all that the draws need."""
    group_of: dict[Hashable, int] = {}
    stratum_of: dict[Hashable, int] = {}
    g_N = [group_of.setdefault(g, len(group_of)) for g in groups]
    s_N = [stratum_of.setdefault(s, len(stratum_of)) for s in strata] if strata is not None else [0] * len(g_N)
    if not len(values_N) == len(g_N) == len(s_N):
        raise ValueError(f"{len(values_N)} values, {len(g_N)} groups, {len(s_N)} strata: one of each per item")
    sums_GS = np.zeros((len(group_of), max(1, len(stratum_of))))
    counts_GS = np.zeros_like(sums_GS)
    np.add.at(sums_GS, (g_N, s_N), values_N)
    np.add.at(counts_GS, (g_N, s_N), 1)
    return sums_GS, counts_GS


def _resampled(rng: np.random.Generator, draws: int, sums_GS: np.ndarray, counts_GS: np.ndarray) -> np.ndarray:
    """Draw as many groups as there are, with replacement: a ratio estimate in each stratum."""
    n = len(sums_GS)
    drawn_DG = rng.integers(0, n, size=(draws, n)) + n * np.arange(draws)[:, None]
    weights_DG = np.bincount(drawn_DG.ravel(), minlength=draws * n).reshape(draws, n).astype(float)
    counts_DS = weights_DG @ counts_GS
    # A draw may miss a very small stratum; it then averages over the others.
    means_DS = np.divide(weights_DG @ sums_GS, counts_DS, out=np.full_like(counts_DS, np.nan), where=counts_DS > 0)
    return np.nanmean(means_DS, axis=1)


def _flipped(rng: np.random.Generator, draws: int, sums_GS: np.ndarray, counts_GS: np.ndarray) -> np.ndarray:
    signs_DG = rng.integers(0, 2, size=(draws, len(sums_GS))) * 2.0 - 1
    return (signs_DG @ (sums_GS / counts_GS.sum(0))).mean(axis=1)


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


def minimum_detectable_difference(n: int, discordant: float, alpha: float = 0.05, power: float = 0.8) -> float:
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
    return min(1.0, math.sqrt(discordant) * (z_alpha * math.sqrt(n) + root) / (n + z_power**2))


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


def brier(confidences: Sequence[float], correct: Sequence[bool]) -> float:
    """Mean squared distance of the confidence from the outcome: 0 is perfect, 0.25 is always saying one half.

    >>> round(brier([0.9, 0.6], [True, False]), 3)      # (0.01 + 0.36) / 2
    0.185
    """
    gaps_N = np.asarray(confidences, float) - np.asarray(correct, float)
    return float((gaps_N**2).mean())


def expected_calibration_error(confidences: Sequence[float], correct: Sequence[bool], bins: int = 10) -> float:
    """Mean gap of confidence and accuracy over equal-width bins, weighted by their items (Guo et al. 1706.04599).

    A confidence on an edge belongs to the upper bin, 1.0 to the last.

    >>> round(expected_calibration_error([0.95, 0.95, 0.55, 0.55], [1, 1, 1, 0]), 3)    # (2 x 0.05 + 2 x 0.05) / 4
    0.05
    """
    confidences_N, correct_N = np.asarray(confidences, float), np.asarray(correct, float)
    bin_N = np.minimum((confidences_N * bins + 1e-9).astype(int), bins - 1)
    gaps_B = np.bincount(bin_N, confidences_N - correct_N, minlength=bins)
    return float(np.abs(gaps_B).sum() / len(confidences_N))
