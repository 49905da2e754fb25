"""How much better a rollout did than its group. Pure functions of the group's rewards."""

import statistics
from collections.abc import Callable, Sequence


def grpo(rewards_G: Sequence[float]) -> list[float]:
    """(r - mean) / (std + 1e-4), unbiased std (DeepSeekMath 2402.03300; the paper's recipe).

    | rewards    | advantages            |
    |------------|-----------------------|
    | 2, 2, 2, 2 | 0, 0, 0, 0            |
    | 2, 1, 0, 1 | 1.22, 0, -1.22, 0     |
    | 2 alone    | 0                     |

    >>> [round(a, 2) for a in grpo([2.0, 1.0, 0.0, 1.0])]
    [1.22, 0.0, -1.22, 0.0]
    """
    if len(rewards_G) < 2:
        return [0.0] * len(rewards_G)
    mean, std = statistics.fmean(rewards_G), statistics.stdev(rewards_G)
    return [(reward - mean) / (std + 1e-4) for reward in rewards_G]


def dr_grpo(rewards_G: Sequence[float]) -> list[float]:
    """r - mean: no division, so that easy and hard questions weigh alike (Dr. GRPO 2503.20783).

    >>> dr_grpo([2.0, 1.0, 0.0, 1.0])
    [1.0, 0.0, -1.0, 0.0]
    """
    mean = statistics.fmean(rewards_G)
    return [reward - mean for reward in rewards_G]


ADVANTAGES: dict[str, Callable[[Sequence[float]], list[float]]] = {"grpo": grpo, "dr_grpo": dr_grpo}
