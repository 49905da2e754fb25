"""Does a model know when it is right? Confidence against outcome, and what it earns to answer only when sure.

Pure functions over two plain sequences, one confidence from 0 to 1 and one outcome per
question; equal confidences cannot be told apart, so they are always one step.
Legend: N questions, B bins, S steps down the confidences.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import betaincinv

from medvlm_r1.evaluation.measuring.clusters import FEWEST, design_effect, few
from medvlm_r1.evaluation.measuring.floor import floor
from medvlm_r1.evaluation.measuring.statistics import wilson
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.types import LETTERS

SOURCES = ("option_probs", "agreement")
WANTED_ERRORS = (0.05, 0.1, 0.2)
FEWEST_FOR_THRESHOLD = 50  # patients; with 20, 6 % of thresholds were invented where questions of a patient are alike (docs/evaluation.md)
CONFIDENCE = 0.95
STARTS = 4  # of the search for a threshold; each has its part of the allowed error


@dataclass(frozen=True)
class Bin:
    """The questions whose confidence lies from ``low`` to below ``high``; 1.0 belongs to the last bin.

    >>> Bin(0.9, 1.0, n=40, confidence=0.95, accuracy=0.8, ci95=(0.652, 0.895)).accuracy
    0.8
    """

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float
    ci95: tuple[float, float] | None


@dataclass(frozen=True)
class Step:
    """Answer every question from this confidence upwards: so many are answered, this share of them wrongly.

    >>> Step(threshold=0.8, n=150, coverage=0.5, error=0.04).coverage
    0.5
    """

    threshold: float
    n: int
    coverage: float
    error: float


@dataclass(frozen=True)
class Threshold(Step):
    """A step whose error is shown to be below what was wanted; ``upper`` is its bound.

    >>> Threshold(threshold=0.8, n=150, coverage=0.5, error=0.04, upper=0.095).upper
    0.095
    """

    upper: float


def brier(confidences: Sequence[float], correct: Sequence[bool]) -> float:
    """Mean squared distance of the confidence from the outcome: 0 is perfect, 0.25 is always saying one half.

    >>> round(brier([0.9, 0.6], [True, False]), 3)      # (0.01 + 0.36) / 2
    0.185
    """
    gaps_N = np.asarray(confidences, float) - np.asarray(correct, float)
    return float((gaps_N**2).mean())


def reliability(confidences: Sequence[float], correct: Sequence[bool], bins: int = 10, design: float = 1.0) -> list[Bin]:
    """The table behind a reliability diagram: equal-width bins, empty ones left out, a Wilson interval each.

    The interval is for the questions divided by ``design``, the design effect of the outcomes (``statistics.design_effect``).

    | confidence | right | bin | mean confidence | accuracy |
    >>> for b in reliability([0.95, 0.97, 0.55, 0.5], [1, 1, 1, 0]):
    ...     print(b.low, b.high, b.n, round(b.confidence, 3), b.accuracy)
    0.5 0.6 2 0.525 0.5
    0.9 1.0 2 0.96 1.0
    """
    confidences_N, correct_N = np.asarray(confidences, float), np.asarray(correct, float)
    bin_N = np.minimum((confidences_N * bins + 1e-9).astype(int), bins - 1)  # 1 - 0.9 is a hair below 0.1
    found = []
    for b in range(bins):
        inside_N = bin_N == b
        n = int(inside_N.sum())
        if n:
            right = float(correct_N[inside_N].sum())
            found.append(Bin(b / bins, (b + 1) / bins, n, float(confidences_N[inside_N].mean()), right / n, wilson(right / design, n / design)))
    return found


def expected_calibration_error(confidences: Sequence[float], correct: Sequence[bool], bins: int = 10) -> float:
    """Mean gap of confidence and accuracy over equal-width bins, weighted by their questions (Guo et al. 1706.04599).

    Few questions in a bin make a gap by chance alone: of 300 questions, a calibrated model shows about 0.06.

    >>> round(expected_calibration_error([0.95, 0.95, 0.55, 0.55], [1, 1, 1, 0]), 3)    # (2 x 0.05 + 2 x 0.05) / 4
    0.05
    """
    return sum(b.n * abs(b.confidence - b.accuracy) for b in reliability(confidences, correct, bins)) / len(confidences)


def risk_coverage(confidences: Sequence[float], correct: Sequence[bool], points: int = 50) -> list[Step]:
    """Error among the answered as fewer and fewer doubts keep a question from being answered.

    At most ``points`` steps, spread evenly over the questions; which ones depends on the confidences alone.

    | confidence | right | threshold | coverage | error |
    >>> for step in risk_coverage([0.9, 0.8, 0.8, 0.6], [1, 1, 0, 0]):
    ...     print(step.threshold, step.coverage, round(step.error, 3))
    0.9 0.25 0.0
    0.8 0.75 0.333
    0.6 1.0 0.5
    """
    sorted_N, wrong_N, ends_S = _steps(confidences, correct)
    marks = np.arange(1, points + 1) * len(sorted_N) / points
    ends_S = ends_S[np.unique(np.searchsorted(ends_S, marks))]  # the first step that reaches each mark
    wrong = np.cumsum(wrong_N)
    return [Step(float(sorted_N[n - 1]), int(n), float(n / len(sorted_N)), float(wrong[n - 1] / n)) for n in ends_S]


def area_under_risk_coverage(confidences: Sequence[float], correct: Sequence[bool]) -> float:
    """Mean error among the n most confident, over all n (AURC, Geifman et al. 1805.08206); low is good.

    Equal confidences are answered in a random order, of which this is the expectation.

    | confidence | right | area |
    >>> area_under_risk_coverage([0.9, 0.8], [1, 0])        # (0 + 1/2) / 2
    0.25
    >>> area_under_risk_coverage([0.9, 0.8], [0, 1])        # (1 + 1/2) / 2
    0.75
    >>> area_under_risk_coverage([0.8, 0.8], [1, 0])        # no order: the error itself
    0.5
    """
    _, wrong_N, ends_S = _steps(confidences, correct)
    sizes_S = np.diff(ends_S, prepend=0)
    wrong_S = np.add.reduceat(wrong_N, ends_S - sizes_S)
    expected_N = np.cumsum(np.repeat(wrong_S / sizes_S, sizes_S))
    return float((expected_N / np.arange(1, len(wrong_N) + 1)).mean())


def threshold_for(
    confidences: Sequence[float], correct: Sequence[bool], wanted_error: float, design: float = 1.0, confidence: float = CONFIDENCE
) -> Threshold | None:
    """The lowest threshold whose error among the answered is shown to be ``wanted_error`` or less; None if none is.

    With probability ``confidence`` the error behind the threshold is no larger than wanted,
    although the same data chose it. The steps of ``risk_coverage`` are tested from the most
    confident down, each by the exact bound of Clopper and Pearson (1934), and the first
    that fails ends the walk: fixed-sequence testing, as in Learn then Test (Angelopoulos et
    al. 2110.01052). So that one early mistake does not end everything, there are four
    walks, from 1, 2, 4 and 8 times the fewest answers that can pass at all, and each may
    err with a fourth of ``1 - confidence``. ``upper`` is the bound at that level.

    ``design`` is the design effect of the errors (``statistics.design_effect``): questions of
    one patient make the data look larger than it is, so every count is divided by it, as in
    Korn and Graubard (1998). Holds for questions like these; it says nothing about another hospital.

    | right of | wanted error | threshold, coverage, error, upper |
    >>> found = threshold_for([0.9] * 100 + [0.5] * 100, [1] * 99 + [0] + [1, 0] * 50, 0.1)
    >>> found.threshold, found.coverage, found.error, round(found.upper, 3)
    (0.9, 0.5, 0.01, 0.062)
    >>> threshold_for([0.9] * 40, [1] * 40, 0.1) is None        # 0 of 40 wrong: the bound is 0.104
    True
    >>> threshold_for([0.9] * 80, [1] * 80, 0.1, design=2) is None      # two questions a patient, always both right or both wrong
    True
    """
    level = (1 - confidence) / STARTS
    fewest = design * math.log(level) / math.log(1 - wanted_error)
    steps = risk_coverage(confidences, correct)
    uppers = [_upper_bound(step.error * step.n / design, step.n / design, level) for step in steps]
    best = None
    for start in (fewest, 2 * fewest, 4 * fewest, 8 * fewest):
        for step, upper in zip(steps, uppers, strict=True):
            if step.n < start:
                continue
            if upper > wanted_error:
                break
            if best is None or step.n > best.n:
                best = Threshold(**asdict(step), upper=upper)
    return best


def _upper_bound(wrong: float, n: float, level: float) -> float:
    return float(betaincinv(wrong + 1, n - wrong, 1 - level)) if wrong < n else 1.0


def _steps(confidences: Sequence[float], correct: Sequence[bool]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidences in falling order, wrong (1) or right (0) beside them, and the number answered after each tie."""
    confidences_N, wrong_N = np.asarray(confidences, float), 1 - np.asarray(correct, int)
    order_N = np.argsort(-confidences_N, kind="stable")
    sorted_N = confidences_N[order_N]
    ends_S = np.append(np.flatnonzero(np.diff(sorted_N)), len(sorted_N) - 1) + 1
    return sorted_N, wrong_N[order_N], ends_S


def confidence_of(sample: Sample, by: str) -> float | None:
    """How sure a model was of its greedy answer; None where it gave none, or this was not measured.

    ``by`` "option_probs": the probability of that option after the greedy thought.
    ``by`` "agreement": the share of K >= 2 sampled completions that give the same answer.

    >>> s = Sample("q", "mri", "", "", "Which side?", ("left", "right"), "B", (), "image", "", "B", "answered", True, 9,
    ...            sampled_answers=("B", "A", None, "B"), option_probs=(0.2, 0.8))
    >>> confidence_of(s, "option_probs"), confidence_of(s, "agreement")
    (0.8, 0.5)
    """
    if sample.answer is None:
        return None
    if by == "option_probs":
        return sample.option_probs[LETTERS.index(sample.answer)] if sample.option_probs else None
    drawn = sample.sampled_answers
    return drawn.count(sample.answer) / len(drawn) if len(drawn) >= 2 else None


def calibration(samples: Sequence[Sample]) -> dict[str, dict[str, Any]]:
    """All of the above for ``summary.json``, over the questions that were answered; the others are counted as "unanswered".

    By the options' probabilities and by agreement, each where every answered question
    has it: the two need not agree, as a thought that names its answer makes the letter
    certain. The accuracy here is that of answered questions. Fewer than fifty patients
    of several questions show no threshold (``too_few``).
    """
    answered = [s for s in samples if s.answer is not None]
    correct_N, found = [s.correct for s in answered], {}
    for by in SOURCES:
        confidences_N = [c for s in answered if (c := confidence_of(s, by)) is not None]
        if answered and len(confidences_N) == len(answered):
            draws = len(answered[0].sampled_answers) if by == "agreement" else None
            numbers = {
                "ece_floor": floor(expected_calibration_error, confidences_N, draws),
                **_numbers(confidences_N, correct_N, [s.cluster for s in answered]),
            }
            found[by] = {"n": len(answered), "unanswered": len(samples) - len(answered), **numbers}
    return found


def _numbers(confidences_N: Sequence[float], correct_N: Sequence[bool], groups_N: Sequence[str]) -> dict[str, Any]:
    groups, design = len(set(groups_N)), design_effect(correct_N, groups_N)
    is_single = groups == len(groups_N)
    too_few = groups < FEWEST_FOR_THRESHOLD and not is_single
    cost, at = design * (1.0 if is_single else few(groups, (1 - CONFIDENCE) / STARTS)), 1.0 if is_single else few(groups, 0.025)
    thresholds = {str(error): None if too_few else threshold_for(confidences_N, correct_N, error, cost) for error in WANTED_ERRORS}
    return {
        "ece": expected_calibration_error(confidences_N, correct_N),
        "brier": brier(confidences_N, correct_N),
        "aurc": area_under_risk_coverage(confidences_N, correct_N),
        "bins": [asdict(b) | ({} if groups >= FEWEST else {"ci95": None}) for b in reliability(confidences_N, correct_N, design=design * at)],
        "risk_coverage": [asdict(step) for step in risk_coverage(confidences_N, correct_N)],
        "thresholds": {error: asdict(found) if found else None for error, found in thresholds.items()},
        "groups": groups,
        "too_few": too_few,
    }
