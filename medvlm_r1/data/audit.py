"""What a question set gives away without its images: the text prior.

A naive Bayes over option strings sees no pixel and no language model. Where it
answers well, the wording of the options carries the answer, and an accuracy
above chance is no evidence of reading images.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from medvlm_r1.errors import DataError
from medvlm_r1.types import Example

_WORD = re.compile(r"[a-z0-9]+")  # "x_ray." is "x" and "ray", as "X-ray" is
_RESAMPLES = 2000


def chance(examples: Sequence[Example]) -> dict[str, float]:
    """Mean of 1/k per modality, over the questions with options.

    >>> e = Example("q1", (), "Which plane?", ("axial", "coronal"), "axial", "mri")
    >>> f = Example("q2", (), "Which plane?", ("axial", "coronal", "sagittal", "oblique"), "axial", "mri")
    >>> chance([e, f])
    {'mri': 0.375}
    """
    parts = _by_modality(examples)
    return {modality: sum(1 / len(e.options) for e in part) / len(part) for modality, part in parts.items()}


def text_prior(
    train: Sequence[Example], test: Sequence[Example], draws: int = 20, train_size: int = 600, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Accuracy per modality of a prior fitted to the text of ``train_size`` questions, mean over ``draws`` of them.

    A training question is drawn only if none of its pictures, nor its id, is in
    ``test``; where fewer than ``train_size`` remain, all are taken. Options that
    score the same share the credit. ``ci95`` resamples draws and test groups
    both, so it covers the choice of training and of test questions. "train" is
    the number of questions fitted. Raises DataError if nothing is left to fit.
    """
    parts = _by_modality(test)
    pool = separate(train, test)
    if not pool or not parts:
        raise DataError("a text prior needs questions with options, and training questions whose images are not tested")
    size = min(train_size, len(pool))
    rng = np.random.default_rng(seed)
    priors = [TextPrior([pool[i] for i in rng.permutation(len(pool))[:size]]) for _ in range(draws)]
    result = {}
    for modality, part in parts.items():
        credit_DN = np.array([[prior.credit(example) for example in part] for prior in priors])
        low, high = _interval(credit_DN, [e.group or e.id for e in part], rng)
        result[modality] = {"accuracy": float(credit_DN.mean()), "ci95": [low, high], "train": size, "draws": draws}
    return result


def separate(train: Sequence[Example], test: Sequence[Example]) -> list[Example]:
    """The training questions with options that share neither id nor picture with the test questions.

    Not those with other words: the same wording on another picture is what a
    prior may learn from, and leaving it out would bias it against the answer.
    """
    ids = {e.id for e in test}
    pictures = {picture for e in test for picture in e.images}
    return [e for e in train if e.options and e.id not in ids and pictures.isdisjoint(e.images)]


class TextPrior:
    """How much more often an option, and its words, was the answer than a distractor.

    >>> e = Example("q1", (), "Finding?", ("infarct", "haemorrhage"), "infarct", "mri")
    >>> f = Example("q2", (), "Finding?", ("acute infarct", "abscess"), "abscess", "mri")
    >>> TextPrior([e]).credit(e), TextPrior([]).credit(e), TextPrior([e]).credit(f)
    (1.0, 0.5, 0.0)
    """

    def __init__(self, train: Sequence[Example]) -> None:
        self.gold, self.distractor = Counter[str](), Counter[str]()
        self.gold_words, self.distractor_words = Counter[str](), Counter[str]()
        for example in train:
            for option in example.options:
                is_gold = option == example.answer
                (self.gold if is_gold else self.distractor)[_normal(option)] += 1
                (self.gold_words if is_gold else self.distractor_words).update(_words(option))

    def score(self, option: str) -> float:
        """log((gold + 0.5) / (distractor + 1.5)) of the option + half the mean of the same over its words."""
        words = _words(option)
        of_words = [_log_odds(self.gold_words[w], self.distractor_words[w]) for w in words]
        text = _normal(option)
        return _log_odds(self.gold[text], self.distractor[text]) + 0.5 * sum(of_words) / max(1, len(words))

    def credit(self, example: Example) -> float:
        """1 if the answer scores highest, 1/m if m options share the highest score, else 0."""
        scores = [round(self.score(option), 9) for option in example.options]
        best = [option for option, score in zip(example.options, scores, strict=True) if score == max(scores)]
        return (example.answer in best) / len(best)


def _log_odds(gold: int, distractor: int) -> float:
    return math.log((gold + 0.5) / (distractor + 1.5))


def _normal(option: str) -> str:
    return option.strip().lower()


def _words(option: str) -> list[str]:
    return _WORD.findall(option.lower())


def _by_modality(examples: Sequence[Example]) -> dict[str, list[Example]]:
    parts: dict[str, list[Example]] = {}
    for example in examples:
        if example.options:
            parts.setdefault(example.modality, []).append(example)
    return parts


def _interval(credit_DN: np.ndarray, groups: Sequence[str], rng: np.random.Generator) -> tuple[float, float]:
    """Percentile interval of the mean, resampling draws and groups with replacement."""
    names = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    sums_DG = np.zeros((len(credit_DN), len(names)))
    np.add.at(sums_DG, (slice(None), [names[g] for g in groups]), credit_DN)
    counts_G = np.bincount([names[g] for g in groups], minlength=len(names))
    draws, n = sums_DG.shape
    weights_BD = rng.multinomial(draws, np.full(draws, 1 / draws), size=_RESAMPLES) / draws
    weights_BG = rng.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)
    means_B = ((weights_BD @ sums_DG) * weights_BG).sum(1) / (weights_BG @ counts_G)
    low, high = np.quantile(means_B, [0.025, 0.975])
    return float(low), float(high)
