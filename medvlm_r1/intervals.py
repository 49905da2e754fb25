"""The one interval of a rate, for those who judge models and those who judge question sets."""

import math


def score_interval(rate: float, n: float, z: float) -> tuple[float, float]:
    """Wilson's interval of a rate seen in n > 0 independent items, for any quantile.

    >>> [round(x, 3) for x in score_interval(1.0, 5, 2.776)]      # 5 / (5 + 2.776²)
    [0.394, 1.0]
    """
    centre = rate + z * z / (2 * n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low, high = (centre - half) / scale, (centre + half) / scale
    return (0.0 if rate == 0 else max(0.0, low)), (1.0 if rate == 1 else min(1.0, high))
