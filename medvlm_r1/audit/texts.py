"""The options of a question set as numbers, so that a naive Bayes over them takes milliseconds.

N questions, K places for an option, U different option texts, W different words.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.sparse import csr_matrix

from medvlm_r1.types import Example
from medvlm_r1.wording import normal

_WORD = re.compile(r"[^\W_]+")  # of any script; "x_ray." is "x" and "ray", as "X-ray" is


@lru_cache(maxsize=1 << 17)
def words(option: str) -> tuple[str, ...]:
    """The words of an option, in order.

    >>> words("X-ray, AP view.")
    ('x', 'ray', 'ap', 'view')
    """
    return split_words(option)


def split_words(text: str) -> tuple[str, ...]:
    """``words`` for texts that stand once, and would only fill its memory."""
    return tuple(_WORD.findall(text.lower()))


class Wording:
    """The options of questions, and what a text prior learnt from some of them says about others.

    The score of an option is log((gold + 0.5) / (distractor + 1.5)), counting how
    often it was the answer and how often a distractor, + 0.5 × the mean of the
    same over its words.

    >>> e = Example("q1", (), "Finding?", ("infarct", "haemorrhage"), "infarct", "mri")
    >>> f = Example("q2", (), "Finding?", ("acute infarct", "abscess"), "abscess", "mri")
    >>> shared_N, _ = Wording([e, f]).credits([0], [0, 1])
    >>> shared_N.tolist()
    [1.0, 0.0]
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        ids: dict[str, int] = {}
        texts_NK = [[ids.setdefault(normal(option), len(ids)) for option in e.options] for e in examples]
        n_places = max((len(texts) for texts in texts_NK), default=0)
        self.n_texts = len(ids)
        # Empty places point behind the last text, which scores minus infinity.
        self.text_NK = np.full((len(examples), n_places), self.n_texts, dtype=np.int32)
        self.is_gold_NK = np.zeros((len(examples), n_places), dtype=bool)
        for row, (example, texts) in enumerate(zip(examples, texts_NK, strict=True)):
            self.text_NK[row, : len(texts)] = texts
            self.is_gold_NK[row, : len(texts)] = [option == example.answer for option in example.options]
        self.gold_N = np.array([e.options.index(e.answer) for e in examples], dtype=np.int32)
        self.words_UW = _word_counts(list(ids))

    def scores(self, learnt: Sequence[int] | np.ndarray) -> np.ndarray:
        """The score of every option text, learnt from the questions in these rows."""
        text_LK, is_gold_LK = self.text_NK[learnt], self.is_gold_NK[learnt]
        gold_U = np.bincount(text_LK[is_gold_LK], minlength=self.n_texts + 1)[:-1]
        distractor_U = np.bincount(text_LK[~is_gold_LK], minlength=self.n_texts + 1)[:-1]
        odds_W = _log_odds(gold_U @ self.words_UW, distractor_U @ self.words_UW)
        n_words_U = np.asarray(self.words_UW.sum(1)).ravel()
        return _log_odds(gold_U, distractor_U) + 0.5 * (self.words_UW @ odds_W) / np.maximum(n_words_U, 1)

    def credits(self, learnt: Sequence[int] | np.ndarray, asked: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each question asked: 1/m if the answer is among the m options that score highest, else 0;
        and 1 if it is the first of them, else 0."""
        score_NK = self._scored(learnt, asked)
        is_best_NK = score_NK == score_NK.max(1, keepdims=True)
        gold_N = self.gold_N[asked]
        shared_N = is_best_NK[np.arange(len(gold_N)), gold_N] / is_best_NK.sum(1)
        return shared_N, (is_best_NK.argmax(1) == gold_N).astype(float)

    def leads(self, learnt: Sequence[int] | np.ndarray, asked: Sequence[int] | np.ndarray) -> np.ndarray:
        """For each question asked, how far the answer's score is above that of the best other option; below 0 where the texts mislead."""
        score_NK, is_gold_NK = self._scored(learnt, asked), self.is_gold_NK[asked]
        return np.where(is_gold_NK, score_NK, -np.inf).max(1) - np.where(is_gold_NK, -np.inf, score_NK).max(1)

    def _scored(self, learnt: Sequence[int] | np.ndarray, asked: Sequence[int] | np.ndarray) -> np.ndarray:
        score_U = np.append(self.scores(learnt).round(9), -np.inf)
        return score_U[self.text_NK[asked]]


def _word_counts(texts: Sequence[str]) -> csr_matrix:
    ids: dict[str, int] = {}
    places = [(row, ids.setdefault(word, len(ids))) for row, text in enumerate(texts) for word in words(text)]
    rows_P, columns_P = np.array(places, dtype=np.int64).reshape(-1, 2).T
    return csr_matrix((np.ones(len(places)), (rows_P, columns_P)), shape=(len(texts), max(1, len(ids))))


def _log_odds(gold: np.ndarray, distractor: np.ndarray) -> np.ndarray:
    return np.log((gold + 0.5) / (distractor + 1.5))
