"""How large a calibration error a perfectly calibrated model shows: few questions in a bin make a gap, and so do few draws behind a confidence."""

from collections.abc import Callable, Sequence

import numpy as np

_REPEATS = 50


Error = Callable[[Sequence[float], Sequence[bool]], float]


def floor(error: Error, confidences: Sequence[float], draws: int | None = None, seed: int = 0) -> float:
    """The mean ``error`` (ECE) of a model that is right exactly as often as it is sure, at these confidences.

    ``draws``: a confidence is the agreement of so many drawn answers, and only tells roughly how sure the model is. How sure it is
    follows a beta distribution fitted to the agreements (method of moments), and outcomes follow that. Else the confidence is taken at its word.

    | 300 questions | floor |
    >>> from medvlm_r1.evaluation.measuring.calibration import expected_calibration_error as ece
    >>> at = [i / 4 for i in (0, 1, 2, 3, 4) for _ in range(60)]
    >>> round(floor(ece, at), 2), round(floor(ece, at, draws=4), 2)       # 4 draws: 0 of 4 is no "never", 4 of 4 no "always"
    (0.03, 0.11)
    """
    rng, sure_N = np.random.default_rng(seed), np.asarray(confidences, float)
    shape = _beta(sure_N, draws) if draws else None
    found = []
    for _ in range(_REPEATS):
        right_N = sure_N if shape is None or not draws else rng.beta(shape[0] + draws * sure_N, shape[1] + draws * (1 - sure_N))
        found.append(error(confidences, (rng.random(len(sure_N)) < right_N).tolist()))
    return float(np.mean(found))


def _beta(agreements_N: np.ndarray, draws: int) -> tuple[float, float]:
    """The beta distribution whose binomials of ``draws`` have this mean and variance."""
    mean = float(np.clip(agreements_N.mean(), 0.001, 0.999))
    alike = (draws * float(agreements_N.var()) / (mean * (1 - mean)) - 1) / (draws - 1)
    total = 1 / float(np.clip(alike, 0.001, 0.999)) - 1
    return mean * total, (1 - mean) * total
