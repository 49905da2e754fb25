"""Intervals and tests of independent items, and what a reader makes of several completions. Pure functions; ``clusters`` has those of patients."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from medvlm_r1.intervals import score_interval


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval (ends are ``nan`` where there is none), and p against zero where a test was made.

    >>> Estimate(0.2, 0.15, 0.25, 0.001).ci95, Estimate(0.2, math.nan, math.nan).ci95
    ([0.15, 0.25], None)
    """

    value: float
    low: float
    high: float
    p: float | None = None

    @property
    def ci95(self) -> list[float] | None:
        return None if math.isnan(self.low) else [self.low, self.high]


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
    return score_interval(successes / n, n, NormalDist().inv_cdf(0.5 + confidence / 2))


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
