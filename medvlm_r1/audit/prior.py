"""What a question set gives away without its images: the text prior.

A naive Bayes over option strings sees no pixel and no language model. Where it
answers well, the wording of the options carries the answer, and an accuracy
above chance is no evidence of reading images.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from medvlm_r1.audit.texts import Wording
from medvlm_r1.errors import DataError
from medvlm_r1.intervals import score_interval
from medvlm_r1.types import Example

Cell = dict[str, Any]
TEXTS_LEARNT = 600  # as in the paper's training set
SIZES = (25, 50, 100, 200, 400, 800, 1600, 3200, 6400)


def chance(examples: Sequence[Example]) -> dict[str, float]:
    """Mean of 1/k per modality, over the questions with options.

    >>> e = Example("q1", (), "Which plane?", ("axial", "coronal"), "axial", "mri")
    >>> f = Example("q2", (), "Which plane?", ("axial", "coronal", "sagittal", "oblique"), "axial", "mri")
    >>> chance([e, f])
    {'mri': 0.375}
    """
    return {modality: sum(1 / len(e.options) for e in part) / len(part) for modality, part in by_modality(examples).items()}


class TextPrior:
    """One question set, and the questions that a prior of its texts may learn from: ``train``, or else the set itself.

    A training question is learnt from only if none of its pictures, nor its id,
    is in ``test``. Questions of one group or picture are learnt together, and a
    draw never asks about a group that it learnt from. The texts are read once.

    Of a cell, "accuracy" is what a guess among the best options earns on average:
    options that score the same share the credit. "accuracy_first_of_ties" lets
    the first of them win. "ci95" covers the choice of training and of test
    questions; "train" is the number of questions learnt from, in each of "draws".
    """

    def __init__(self, test: Sequence[Example], train: Sequence[Example] | None = None, draws: int = 20, seed: int = 0) -> None:
        asked, pool = [e for e in test if e.options], separate(train or (), test)
        self.draws, self.seed, self.ids = draws, seed, [e.id for e in asked]
        self.wording = Wording([*asked, *pool])
        self.cluster_N = numbers([cluster(e) for e in (*asked, *pool)])
        self.asked = _rows_by_modality(asked, 0)
        self.pool = None if train is None else _rows_by_modality(pool, len(asked))

    def measure(self, size: int) -> dict[str, Cell]:
        """Modality -> cell, learnt from all of the training set, or where there is none from the modality's own questions."""
        return self.own(size) if self.pool is None else self._cells(_joined(self.pool), self.asked, size)

    def own(self, size: int) -> dict[str, Cell]:
        """Modality -> cell, learnt from at most half of its own questions; a modality of one group is left out.

        Not leave-one-out: where answers are balanced, what is left after one is
        taken out is tilted against it. Halves are tilted too, but less.
        """
        cells: dict[str, Cell] = {}
        for modality, rows in self.asked.items():
            cells |= self._cells(rows, {modality: rows}, min(size, len(rows) // 2))
        return cells

    def curve(self, size: int) -> dict[str, list[Cell]]:
        """Modality -> cells of ``measure`` for growing numbers of questions, up to ``size`` or what there is."""
        curve: dict[str, list[Cell]] = {}
        for step in [*(s for s in SIZES if s < size), size]:
            for modality, cell in self.measure(step).items():
                points = curve.setdefault(modality, [])
                if not points or points[-1]["train"] < cell["train"]:
                    points.append(cell)
        return curve

    def transfer(self, size: int) -> dict[str, dict[str, Cell]]:
        """Modality learnt from -> modality asked -> cell."""
        if self.pool is not None:
            return {source: self._cells(rows, self.asked, size) for source, rows in self.pool.items()}
        own = self.own(size)
        found = {}
        for source, rows in self.asked.items():
            cells = self._cells(rows, {m: others for m, others in self.asked.items() if m != source}, size)
            found[source] = {m: cell for m in self.asked if (cell := (own if m == source else cells).get(m))}
        return {source: cells for source, cells in found.items() if cells}

    def points(self, size: int) -> dict[str, str]:
        """Id -> whether the texts point to the "right" option or to a "wrong" one; questions where they point to none are left out.

        An option's score is how often it and its words were the answer rather than a distractor; the answer's lead over the
        best other option is averaged over the draws that did not learn the question's group.
        """
        found = {}
        pairs = [(rows, rows) for rows in self.asked.values()] if self.pool is None else [(_joined(self.pool), _joined(self.asked))]
        for learn, asked_N in pairs:
            lead_N, draws_N = np.zeros(len(asked_N)), np.zeros(len(asked_N))
            for drawn in self._drawn(learn, min(size, len(learn) // 2 if self.pool is None else len(learn))):
                is_new_N = ~np.isin(self.cluster_N[asked_N], self.cluster_N[drawn])
                lead_N += np.where(is_new_N, self.wording.leads(drawn, asked_N), 0.0)
                draws_N += is_new_N
            for row, lead, draws in zip(asked_N.tolist(), lead_N, draws_N, strict=True):
                if draws and abs(lead) > 1e-6:
                    found[self.ids[row]] = "right" if lead > 0 else "wrong"
        return found

    def _cells(self, learn: np.ndarray, ask: dict[str, np.ndarray], size: int) -> dict[str, Cell]:
        if not ask or min(size, len(learn)) < 1:
            return {}
        asked_N = _joined(ask)
        shared_DN, first_DN, is_asked_DN = [], [], []
        for drawn in self._drawn(learn, size):
            shared_N, first_N = self.wording.credits(drawn, asked_N)
            is_learnt_G = np.zeros(self.cluster_N.max() + 1, dtype=bool)
            is_learnt_G[self.cluster_N[drawn]] = True
            is_asked_DN.append(~is_learnt_G[self.cluster_N[asked_N]])
            shared_DN.append(shared_N * is_asked_DN[-1])
            first_DN.append(first_N * is_asked_DN[-1])
        columns = np.split(np.array([shared_DN, first_DN, is_asked_DN], dtype=float), np.cumsum([len(rows) for rows in ask.values()])[:-1], axis=2)
        return {
            modality: _cell(part_3DN, self.cluster_N[rows], min(size, len(learn)))
            for (modality, rows), part_3DN in zip(ask.items(), columns, strict=True)
            if part_3DN[2].any(1).all()
        }

    def _drawn(self, rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
        """``size`` of the rows: whole clusters in random order, the last one cut."""
        if not len(rows):
            return
        rng = np.random.default_rng(self.seed)
        _, cluster_N = np.unique(self.cluster_N[rows], return_inverse=True)
        for _ in range(self.draws):
            place_G = rng.permutation(cluster_N.max() + 1)
            yield rows[np.argsort(place_G[cluster_N], kind="stable")[:size]]


def text_prior(train: Sequence[Example], test: Sequence[Example], draws: int = 20, train_size: int = 600, seed: int = 0) -> dict[str, Cell]:
    """Accuracy per modality of a prior learnt from ``train_size`` questions, mean over ``draws`` of them; see ``TextPrior``.

    Where fewer than ``train_size`` may be learnt from, all are taken. Raises DataError if none may.
    """
    prior = TextPrior(test, train, draws, seed)
    if not prior.pool or not prior.asked:
        raise DataError("a text prior needs questions with options, and training questions whose images are not tested")
    return prior.measure(train_size)


def misled(test: Sequence[Example], train: Sequence[Example] | None = None) -> list[Example]:
    """The questions whose option texts point to a wrong option, by a prior learnt from ``train`` or, without it, from the others of ``test``.

    Who answers them better than chance does not answer by the texts. Raises DataError where there is none.
    """
    points = TextPrior(test, train).points(TEXTS_LEARNT)
    found = [e for e in test if points.get(e.id) == "wrong"]
    if not found:
        raise DataError("the option texts mislead in no question; a prior needs questions with options to learn from, name some with --train")
    return found


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


def _rows_by_modality(examples: Sequence[Example], start: int) -> dict[str, np.ndarray]:
    rows: dict[str, list[int]] = {}
    for row, example in enumerate(examples, start):
        rows.setdefault(example.modality, []).append(row)
    return {modality: np.array(part) for modality, part in rows.items()}


def _joined(rows: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([*rows.values(), np.empty(0, dtype=np.int64)]).astype(np.int64)


def _cell(part_3DN: np.ndarray, cluster_N: np.ndarray, size: int) -> Cell:
    shared_DN, first_DN, is_asked_DN = part_3DN
    return {
        "accuracy": float(shared_DN.sum() / is_asked_DN.sum()),
        "accuracy_first_of_ties": float(first_DN.sum() / is_asked_DN.sum()),
        "ci95": _interval(shared_DN, is_asked_DN, np.unique(cluster_N, return_inverse=True)[1]),
        "train": size,
        "draws": len(shared_DN),
    }


def _interval(credit_DN: np.ndarray, is_asked_DN: np.ndarray, cluster_N: np.ndarray) -> list[float]:
    """Mean ± 1.96 standard errors, of draws and of clusters of questions together, within 0 … 1.

    A formula and not a bootstrap: with 100,000 questions that would take minutes. Where nothing varies, Wilson's for as many clusters.

    >>> [round(x, 3) for x in _interval(np.ones((4, 20)), np.ones((4, 20)), np.arange(20))]           # 20 / (20 + 1.96²), not 1
    [0.839, 1.0]
    """
    asked = is_asked_DN.sum()
    mean = credit_DN.sum() / asked
    means_D = credit_DN.sum(1) / is_asked_DN.sum(1)
    of_draws = means_D.var(ddof=1) / len(means_D) if len(means_D) > 1 else 0.0
    residual_G = np.bincount(cluster_N, (credit_DN - mean * is_asked_DN).sum(0))
    n = len(residual_G)
    of_questions = n / max(1, n - 1) * (residual_G**2).sum() / asked**2
    half = 1.96 * float(np.sqrt(of_draws + of_questions))
    if half == 0:
        return list(score_interval(float(mean), n, 1.96))
    return [max(0.0, float(mean) - half), min(1.0, float(mean) + half)]
