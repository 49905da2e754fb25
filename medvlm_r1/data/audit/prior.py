"""What a question set gives away without its images: the text prior.

A naive Bayes over option strings sees no pixel and no language model. Where it
answers well, the wording of the options carries the answer, and an accuracy
above chance is no evidence of reading images.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from medvlm_r1.data.audit.wording import Wording
from medvlm_r1.errors import DataError
from medvlm_r1.types import Example

Cell = dict[str, Any]
SIZES = (25, 50, 100, 200, 400, 800, 1600, 3200, 6400)


def chance(examples: Sequence[Example]) -> dict[str, float]:
    """Mean of 1/k per modality, over the questions with options.

    >>> e = Example("q1", (), "Which plane?", ("axial", "coronal"), "axial", "mri")
    >>> f = Example("q2", (), "Which plane?", ("axial", "coronal", "sagittal", "oblique"), "axial", "mri")
    >>> chance([e, f])
    {'mri': 0.375}
    """
    return {modality: sum(1 / len(e.options) for e in part) / len(part) for modality, part in by_modality(examples).items()}


def text_prior(
    train: Sequence[Example], test: Sequence[Example], draws: int = 20, train_size: int = 600, seed: int = 0
) -> dict[str, Cell]:
    """Accuracy per modality of a prior fitted to the text of ``train_size`` questions, mean over ``draws`` of them.

    A training question is drawn only if none of its pictures, nor its id, is in
    ``test``; where fewer than ``train_size`` remain, all are taken. Questions of
    one group or picture are drawn together. "train" is the number fitted.

    "accuracy" is what a guess among the best options earns on average: options
    that score the same share the credit. "accuracy_first_of_ties" lets the first
    of them win. ``ci95`` covers the choice of training and of test questions.
    Raises DataError if nothing is left to fit.
    """
    parts = by_modality(test)
    pool = separate(train, test)
    if not pool or not parts:
        raise DataError("a text prior needs questions with options, and training questions whose images are not tested")
    wording = Wording([*pool, *(e for part in parts.values() for e in part)])
    learnt = list(_drawn([cluster(e) for e in pool], min(train_size, len(pool)), draws, np.random.default_rng(seed)))
    result, start = {}, len(pool)
    for modality, part in parts.items():
        asked = np.arange(start, start := start + len(part))
        credits = [wording.credits(rows, asked) for rows in learnt]
        result[modality] = _cell(credits, np.ones((draws, len(part)), dtype=bool), part, len(learnt[0]))
    return result


def within(examples: Sequence[Example], draws: int = 20, train_size: int = 600, seed: int = 0) -> dict[str, Cell]:
    """The same per modality, fitted to its own other questions: at most half of them, whole groups at a time.

    A draw asks the questions whose group it did not learn from. A modality of one
    group only is left out. Not leave-one-out: where answers are balanced, what is
    left after one is taken out is tilted against it.
    """
    result = {}
    for modality, part in by_modality(examples).items():
        names = [cluster(e) for e in part]
        if len(set(names)) < 2:
            continue
        wording, everyone = Wording(part), np.arange(len(part))
        numbers_N = numbers(names)
        learnt = list(_drawn(names, max(1, min(train_size, len(part) // 2)), draws, np.random.default_rng(seed)))
        is_asked_DN = np.array([~np.isin(numbers_N, numbers_N[rows]) for rows in learnt])
        if is_asked_DN.any(1).all():
            result[modality] = _cell([wording.credits(rows, everyone) for rows in learnt], is_asked_DN, part, len(learnt[0]))
    return result


def learning_curve(train: Sequence[Example] | None, test: Sequence[Example], draws: int = 20, train_size: int = 600) -> dict[str, list[Cell]]:
    """``text_prior``, or ``within`` where there is no ``train``, for growing numbers of training questions up to ``train_size``."""
    curve: dict[str, list[Cell]] = {}
    for size in [*(s for s in SIZES if s < train_size), train_size]:
        cells = within(test, draws, size) if train is None else text_prior(train, test, draws, size)
        for modality, cell in cells.items():
            points = curve.setdefault(modality, [])
            if not points or points[-1]["train"] < cell["train"]:
                points.append(cell)
    return curve


def transfer(train: Sequence[Example], test: Sequence[Example], draws: int = 20, train_size: int = 600) -> dict[str, dict[str, Cell]]:
    """Modality learnt from -> modality asked -> cell; a modality without a usable question to learn from is left out."""
    parts = by_modality(train)
    return {m: text_prior(part, test, draws, train_size) for m, part in parts.items() if separate(part, test)}


def separate(train: Sequence[Example], test: Sequence[Example]) -> list[Example]:
    """The training questions with options that share neither id nor picture with the test questions.

    Not those with other words: the same wording on another picture is what a
    prior may learn from, and leaving it out would bias it against the answer.
    """
    ids = {e.id for e in test}
    pictures = {picture for e in test for picture in e.images}
    return [e for e in train if e.options and e.id not in ids and pictures.isdisjoint(e.images)]


def cluster(example: Example) -> str:
    """What is drawn and resampled as one: the group, else the picture, else the question."""
    return example.group or (example.images[0] if example.images else example.id)


def numbers(names: Sequence[str]) -> np.ndarray:
    """Each name as a number, in order of first appearance.

    >>> numbers(["b", "a", "b"]).tolist()
    [0, 1, 0]
    """
    ids: dict[str, int] = {}
    return np.array([ids.setdefault(name, len(ids)) for name in names], dtype=np.int64)


def by_modality(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """The questions with options by modality, in order of first appearance."""
    parts: dict[str, list[Example]] = {}
    for example in examples:
        if example.options:
            parts.setdefault(example.modality, []).append(example)
    return parts


def _drawn(names: Sequence[str], size: int, draws: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Rows of ``size`` questions: whole clusters in random order, the last one cut."""
    numbers_N = numbers(names)
    for _ in range(draws):
        place_G = rng.permutation(numbers_N.max() + 1)
        yield np.argsort(place_G[numbers_N], kind="stable")[:size]


def _cell(credits: Sequence[tuple[np.ndarray, np.ndarray]], is_asked_DN: np.ndarray, part: Sequence[Example], size: int) -> Cell:
    shared_DN, first_DN = (np.array(values) * is_asked_DN for values in zip(*credits, strict=True))
    return {
        "accuracy": float(shared_DN.sum() / is_asked_DN.sum()),
        "accuracy_first_of_ties": float(first_DN.sum() / is_asked_DN.sum()),
        "ci95": _interval(shared_DN, is_asked_DN, numbers([cluster(e) for e in part])),
        "train": size,
        "draws": len(shared_DN),
    }


def _interval(credit_DN: np.ndarray, is_asked_DN: np.ndarray, numbers_N: np.ndarray) -> list[float]:
    """Mean ± 1.96 standard errors, of draws and of clusters of questions together, within 0 … 1.

    A formula and not a bootstrap: with 100,000 questions that would take minutes.
    """
    asked = is_asked_DN.sum()
    mean = credit_DN.sum() / asked
    means_D = credit_DN.sum(1) / is_asked_DN.sum(1)
    of_draws = means_D.var(ddof=1) / len(means_D) if len(means_D) > 1 else 0.0
    residual_G = np.bincount(numbers_N, (credit_DN - mean * is_asked_DN).sum(0))
    n = len(residual_G)
    of_questions = n / max(1, n - 1) * (residual_G**2).sum() / asked**2
    half = 1.96 * float(np.sqrt(of_draws + of_questions))
    return [max(0.0, float(mean) - half), min(1.0, float(mean) + half)]
