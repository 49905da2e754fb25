"""Means of dependent items: questions of one patient (a group) in modalities (strata), with intervals that hold from three patients on. Pure.

A mean over strata is linear in what each group adds to it, so its variance is the sum of the
squares of these parts: the groups move as wholes, each stratum for itself (Taylor linearisation, as in
surveys). Few groups know their own spread badly: quantiles are Student's, with as many degrees of
freedom as the groups give (Satterthwaite 1946), unequal groups counting for fewer. ``benchmarks/coverage.py``
measures what that is worth. Legend: N items, G groups, S strata, D draws.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.stats import t as student

from medvlm_r1.evaluation.measuring.draws import SHARED
from medvlm_r1.evaluation.measuring.statistics import Estimate, wilson
from medvlm_r1.intervals import score_interval

FEWEST = 3  # groups in every stratum; below, nobody knows how much patients differ, and there is no interval
ENUMERATED = 12  # groups whose signs are flipped in every way; more are flipped at random
_NORMAL = 1.959964
_NONE = (math.nan, math.nan)


@dataclass(frozen=True)
class Spread:
    """The variance of a mean, the degrees of freedom of it, and how many equal groups there would be; ``nan`` where that cannot be known.

    >>> round(Spread(variance=0.01, freedom=4.0, groups=5.0).quantile, 3)
    2.776
    """

    variance: float
    freedom: float
    groups: float

    @property
    def quantile(self) -> float:
        """Student's, of 97.5 %."""
        return float(student.ppf(0.975, self.freedom))


@dataclass(frozen=True)
class Table:
    """Sum and number of values for each group in each stratum, the values' own squared deviations, and the strata's names.

    >>> Table.of([1.0, 0.0, 1.0], "aab", ["ct", "ct", "mri"]).means_S.tolist()
    [0.5, 1.0]
    """

    sums_GS: np.ndarray
    counts_GS: np.ndarray
    alone_S: np.ndarray
    strata: list[Hashable]

    @classmethod
    def of(cls, values: Sequence[float], groups: Sequence[Hashable], strata: Sequence[Hashable] | None = None) -> "Table":
        """Raises ValueError where there are no values, or not a group and a stratum for each."""
        if not len(values):
            raise ValueError("no values to average")
        group_of: dict[Hashable, int] = {}
        stratum_of: dict[Hashable, int] = {}
        g_N = [group_of.setdefault(g, len(group_of)) for g in groups]
        s_N = [stratum_of.setdefault(s, len(stratum_of)) for s in strata] if strata is not None else [0] * len(g_N)
        if not len(values) == len(g_N) == len(s_N):
            raise ValueError(f"{len(values)} values, {len(g_N)} groups, {len(s_N)} strata: one of each per item")
        sums_GS = np.zeros((len(group_of), max(1, len(stratum_of))))
        counts_GS, squares_S = np.zeros_like(sums_GS), np.zeros(sums_GS.shape[1])
        np.add.at(sums_GS, (g_N, s_N), np.asarray(values, float))
        np.add.at(counts_GS, (g_N, s_N), 1)
        np.add.at(squares_S, s_N, np.asarray(values, float) ** 2)
        alone_S = np.maximum(0.0, squares_S - sums_GS.sum(0) ** 2 / counts_GS.sum(0))
        return cls(sums_GS, counts_GS, alone_S, list(stratum_of))

    @property
    def means_S(self) -> np.ndarray:
        return np.asarray(self.sums_GS.sum(0) / self.counts_GS.sum(0))

    @property
    def parts_GS(self) -> np.ndarray:
        """What each group adds to the deviation of each stratum's mean."""
        return np.asarray((self.sums_GS - self.means_S * self.counts_GS) / self.counts_GS.sum(0))

    @property
    def is_single(self) -> bool:
        """Whether every item is a group of its own."""
        return bool((self.counts_GS.sum(1) == 1).all())

    @property
    def pots(self) -> list[tuple[list[int], float]]:
        """Strata that share groups, and how many equal groups there would be in them; [] where a stratum has too few."""
        here_GS = self.counts_GS > 0
        if (here_GS.sum(0) < FEWEST).any():
            return []
        loads_GS = self.counts_GS / self.counts_GS.sum(0)
        loads = [(pot, loads_GS[:, pot].sum(1)) for pot in _pots(here_GS)]
        return [(pot, max(1.5, float(loads_G.sum() ** 2 / (loads_G**2).sum()))) for pot, loads_G in loads]

    def spread(self, weights_S: np.ndarray) -> Spread:
        """The spread of the weighted sum of the strata's means; strata that share groups are one pot."""
        pots, parts_GS = self.pots, self.parts_GS
        if not pots:
            return Spread(math.nan, math.nan, math.nan)
        variances = [float(((parts_GS[:, pot] @ weights_S[pot]) ** 2).sum()) * groups / (groups - 1) for pot, groups in pots]
        variance, below = sum(variances), sum(v * v / (groups - 1) for v, (_, groups) in zip(variances, pots, strict=True))
        whole = sum(groups for _, groups in pots)
        return Spread(variance, variance**2 / below if below > 0 else whole - len(pots), whole)


def _pots(here_GS: np.ndarray) -> list[list[int]]:
    """Strata that are linked by a group that stands in both."""
    linked_SS = (here_GS.T.astype(float) @ here_GS) > 0
    pots: list[list[int]] = []
    for s in range(here_GS.shape[1]):
        joined = [pot for pot in pots if any(linked_SS[s, other] for other in pot)]
        pots = [pot for pot in pots if pot not in joined] + [sorted([s, *(other for pot in joined for other in pot)])]
    return pots


def cluster_rate(values: Sequence[float], groups: Sequence[Hashable], strata: Sequence[Hashable] | None = None) -> Estimate:
    """Mean over strata of shares from 0 to 1, with Wilson's interval for as many items as have its variance, and Student's quantile.

    Items of one stratum that are groups of their own have Wilson's own interval. Where nothing varies the groups
    count, not the items. Without three groups in every stratum there is no interval. Raises ValueError when there are no values.

    | values, groups | interval |
    >>> [round(x, 3) for x in cluster_rate([1, 1, 1, 0], "abcd").ci95] == [round(x, 3) for x in wilson(3, 4)]
    True
    >>> [round(x, 3) for x in cluster_rate([1] * 300, [i % 5 for i in range(300)]).ci95]       # 5 / (5 + 2.776²), not 98.7
    [0.393, 1.0]
    >>> print(cluster_rate([1] * 300, [0] * 300).ci95)
    None
    """
    table = Table.of(values, groups, strata)
    weights_S = np.full(len(table.means_S), 1 / len(table.means_S))
    value = float(table.means_S @ weights_S)
    if len(table.means_S) == 1 and table.is_single:
        return Estimate(value, *(wilson(value * len(values), len(values)) if len(values) >= FEWEST else _NONE))
    found = table.spread(weights_S)
    if math.isnan(found.variance):
        return Estimate(value, *_NONE)
    variance = max(found.variance, float(weights_S**2 @ (table.alone_S / table.counts_GS.sum(0) ** 2)))
    most = value * (1 - value)
    items = most / variance if variance > 0 and most > 0 else found.groups
    doubt = 1 / len(table.counts_GS)  # by chance few patients look more alike than they are: a little of the weight is on their number
    return Estimate(value, *score_interval(value, 1 / ((1 - doubt) / items + doubt / min(items, found.groups)), found.quantile))


def cluster_mean(values: Sequence[float], groups: Sequence[Hashable], strata: Sequence[Hashable] | None = None, draws: int = 4000, seed: int = 0) -> Estimate:
    """Mean over strata of differences from -1 to 1, with an interval, and p of flipping the sign of whole groups (both models equal, groups independent).

    Up to twelve groups are flipped in every way, so that p is exact; with five it cannot fall below 2 / 2**5 = 0.0625.
    The interval is Student's, and never without width: G groups that agree leave t² / (G + t²) on either side, as a score interval does
    (Tango 1998), and all others at least 1.96² / (G + 1.96²). Without three groups in every stratum there is none. Raises ValueError when there are no values.

    | values, groups | mean | interval | p |
    >>> cluster_mean([1, 0, 1], "abc", strata=["ct", "ct", "mri"]).value    # (1/2 + 1) / 2
    0.75
    >>> [round(x, 3) for x in cluster_mean([1.0] * 8, "abcdefgh").ci95]     # 8 / (8 + 2.365²)
    [0.589, 1.0]
    >>> cluster_mean([1.0] * 8, "abcdefgh").p                               # 2 / 2**8
    0.0078125
    """
    table = Table.of(values, groups, strata)
    weights_S = np.full(len(table.means_S), 1 / len(table.means_S))
    found = _difference(table, weights_S, float(np.abs(np.asarray(values, float)).max()))
    return Estimate(found.value, found.low, found.high, _p_of_flips(table, weights_S, draws, seed))


def cluster_gap(values: Sequence[float], groups: Sequence[Hashable], strata: Sequence[Hashable], stratum: Hashable) -> Estimate:
    """Mean in one stratum minus the mean over the means of the others, with the interval of ``cluster_mean``.

    A group that stands in several strata moves as one. Raises ValueError where the stratum, or every other, is missing.

    | values, strata, stratum | gap |
    >>> cluster_gap([1, 1, 1, 0, 0, 0], "abcdef", ["mri", "mri", "ct", "ct", "xray", "xray"], "mri").value  # 1 - (1/2 + 0) / 2
    0.75
    """
    table = Table.of(values, groups, strata)
    if stratum not in table.strata or len(table.strata) < 2:
        raise ValueError(f"a gap is between {stratum!r} and others; there are {table.strata}")
    weights_S = np.array([1.0 if name == stratum else -1 / (len(table.strata) - 1) for name in table.strata])
    return _difference(table, weights_S, float(np.abs(np.asarray(values, float)).max()))


def _difference(table: Table, weights_S: np.ndarray, largest: float) -> Estimate:
    value, found, scale = float(table.means_S @ weights_S), table.spread(weights_S), max(1.0, largest)
    if math.isnan(found.variance):
        return Estimate(value, *_NONE)
    half = _half(found, scale)
    return Estimate(value, max(-scale, value - half), min(scale, value + half))


def _half(found: Spread, scale: float = 1.0) -> float:
    square = found.quantile**2 if found.variance == 0 else _NORMAL**2
    return max(found.quantile * math.sqrt(found.variance), scale * square / (found.groups + square))


def _p_of_flips(table: Table, weights_S: np.ndarray, draws: int, seed: int) -> float:
    parts_G = (table.sums_GS / table.counts_GS.sum(0)) @ weights_S
    least = abs(float(parts_G.sum())) - 1e-12
    if len(parts_G) <= ENUMERATED:
        return float((np.abs(np.array(list(product((1.0, -1.0), repeat=len(parts_G)))) @ parts_G) >= least).mean())
    blocks = SHARED.blocks(len(parts_G), draws, seed)[1]
    extreme = sum(int((np.abs(signs_DG.astype(float) @ parts_G) >= least).sum()) for signs_DG in blocks)
    return (1 + extreme) / (1 + draws)


def cluster_share(parts: Sequence[float], wholes: Sequence[float], groups: Sequence[Hashable], strata: Sequence[Hashable]) -> Estimate:
    """What share the mean of ``parts`` is of the mean of ``wholes``, from 0 to 1, with Fieller's interval (1954): the shares that fit.

    A share r fits where part - r x whole may be 0; a whole that may be 0 itself leaves room up to 1. Raises ValueError where the whole is not above 0.

    | parts, wholes | share |
    >>> cluster_share([0.5, 0.0], [1.0, 1.0], "ab", "xx").value
    0.25
    """
    table, of = Table.of(wholes, groups, strata), Table.of(parts, groups, strata)
    weights_S = np.full(len(table.means_S), 1 / len(table.means_S))
    part, whole = float(of.means_S @ weights_S), float(table.means_S @ weights_S)
    if whole <= 0:
        raise ValueError(f"a share of {whole:g} is not defined")
    value = min(1.0, max(0.0, part / whole))
    if not table.pots:
        return Estimate(value, *_NONE)
    shares_R = np.linspace(0, 1, 1001)
    variances_PR, freedoms_P1 = [], np.array([[n_groups - 1] for _, n_groups in table.pots])
    for pot, n_groups in table.pots:
        parts_G, wholes_G = (side.parts_GS[:, pot] @ weights_S[pot] for side in (of, table))
        square_R = parts_G @ parts_G - 2 * shares_R * (parts_G @ wholes_G) + shares_R**2 * (wholes_G @ wholes_G)
        variances_PR.append(np.maximum(0.0, square_R) * n_groups / (n_groups - 1))
    variance_R, below_R = np.sum(variances_PR, axis=0), (np.array(variances_PR) ** 2 / freedoms_P1).sum(0)
    freedom_R = np.where(below_R > 0, variance_R**2 / np.where(below_R > 0, below_R, 1), freedoms_P1.sum())
    least = _NORMAL**2 / (sum(n_groups for _, n_groups in table.pots) + _NORMAL**2)
    fits = shares_R[np.abs(part - shares_R * whole) <= np.maximum(student.ppf(0.975, freedom_R) * np.sqrt(variance_R), least)].tolist()
    return Estimate(value, min([*fits, value]), max([*fits, value]))


def few(groups: int, tail: float) -> float:
    """How much more a few groups must be divided by, since they know their own spread badly (Korn and Graubard 1998): (Student's / normal quantile)².

    >>> [round(few(groups, 0.025), 2) for groups in (3, 20, 300)]
    [4.82, 1.14, 1.01]
    """
    return float(student.ppf(tail, max(groups - 1, 1)) / student.ppf(tail, math.inf)) ** 2


def design_effect(values: Sequence[float], groups: Sequence[Hashable]) -> float:
    """How many times the variance of the mean exceeds that of as many independent items (Kish 1965); at least 1.

    n items are worth n / design effect independent ones. Where nothing varies a group is worth one item.

    | values, groups | design effect |
    >>> design_effect([1, 0, 0, 1, 1, 0], "abcdef")
    1.0
    >>> round(design_effect([1, 1, 0, 0, 1, 1, 0, 0], "aabbccdd"), 3)       # every item stands there twice; four groups: x 4/3
    2.667
    >>> design_effect([1, 1, 1, 1], "aabb")
    2.0
    """
    table = Table.of(values, groups)
    n, size = len(values), len(table.counts_GS)
    alone, together = float(table.alone_S[0]), float((table.parts_GS**2).sum()) * n * n
    if table.is_single:
        return 1.0
    return max(1.0, together * size / (size - 1) / alone) if alone > 1e-12 and size > 1 else n / size
