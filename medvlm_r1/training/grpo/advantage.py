"""How much better a rollout did than its group. Pure functions of the group's rewards."""

import math
import statistics
from collections.abc import Callable, Sequence


def is_flat(rewards_G: Sequence[float]) -> bool:
    """Are all rewards the same? Then nobody did better than the group, and an advantage is exactly zero.

    Sums of parts that differ by rounding alone count as the same: the mean of equal numbers may miss them by a
    last bit, which the division by a deviation of nearly zero would blow up.

    >>> is_flat([0.1] * 3), is_flat([0.3, 0.1 + 0.2]), is_flat([0.3, 0.31])
    (True, True, False)
    """
    return not rewards_G or math.isclose(min(rewards_G), max(rewards_G), rel_tol=1e-12)


def grpo(rewards_G: Sequence[float]) -> list[float]:
    """(r - mean) / (std + 1e-4), unbiased std (DeepSeekMath 2402.03300; the paper's recipe).

    | rewards    | advantages            |
    |------------|-----------------------|
    | 2, 2, 2, 2 | 0, 0, 0, 0            |
    | 0.1 thrice | 0, 0, 0               |
    | 2, 1, 0, 1 | 1.22, 0, -1.22, 0     |
    | 2 alone    | 0                     |

    >>> [round(a, 2) for a in grpo([2.0, 1.0, 0.0, 1.0])]
    [1.22, 0.0, -1.22, 0.0]
    """
    if is_flat(rewards_G):
        return [0.0] * len(rewards_G)
    mean, std = statistics.fmean(rewards_G), statistics.stdev(rewards_G)
    return [(reward - mean) / (std + 1e-4) for reward in rewards_G]


def dr_grpo(rewards_G: Sequence[float]) -> list[float]:
    """r - mean: no division, so that easy and hard questions weigh alike (Dr. GRPO 2503.20783).

    >>> dr_grpo([2.0, 1.0, 0.0, 1.0])
    [1.0, 0.0, -1.0, 0.0]
    """
    if is_flat(rewards_G):
        return [0.0] * len(rewards_G)
    mean = statistics.fmean(rewards_G)
    return [reward - mean for reward in rewards_G]


ADVANTAGES: dict[str, Callable[[Sequence[float]], list[float]]] = {"grpo": grpo, "dr_grpo": dr_grpo}
