"""The hard variant of a question set: distractors that are answers elsewhere, so that the texts alone say little.

A distractor is drawn from the answers to questions of the same modality and
question type, as often as it is an answer there. Where no type is stated, the
wording of the question stands for it.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medvlm_r1.audit.texts import words
from medvlm_r1.data.manifest import write_manifest
from medvlm_r1.errors import DataError, RunError
from medvlm_r1.naming import normal
from medvlm_r1.types import Example


@dataclass(frozen=True)
class Hardened:
    """The questions with new options, and those that have none because their kind knows no other answer.

    >>> e = Example("q1", (), "Plane?", ("axial", "chair"), "axial", "mri", "plane")
    >>> f = Example("q2", (), "Plane?", ("table", "coronal"), "coronal", "mri", "plane")
    >>> sorted(harden([e, f]).examples[0].options)
    ['axial', 'coronal']
    """

    examples: list[Example]
    left_out: list[Example]


def harden(examples: Sequence[Example], seed: int = 0) -> Hardened:
    """Every question with as many options as before, or as its kind has answers, in random order.

    Never beside an answer: a text whose words all stand in it, or the other way
    round ("CT" and "CT scan"), and another answer to the same kind of question
    about the same picture; both may be true too. Synonyms in other words are not
    known here: look through the result. Questions of free text pass unchanged.
    """
    rng = np.random.default_rng(seed)
    answers: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    true_of: dict[tuple[str, tuple[str, str]], set[str]] = defaultdict(set)
    spelling: dict[str, str] = {}
    for e in examples:
        if not e.options:
            continue
        answers[kind(e)][normal(e.answer)] += 1
        spelling.setdefault(normal(e.answer), e.answer)
        for picture in e.images:
            true_of[picture, kind(e)].add(normal(e.answer))
    result = Hardened([], [])
    for e in examples:
        also_true = set().union(*(true_of[picture, kind(e)] for picture in e.images))
        usable = {text: n for text, n in answers[kind(e)].items() if text not in also_true and not _overlap(text, e.answer)}
        if not e.options:
            result.examples.append(e)
        elif usable:
            drawn = _draw(usable, len(e.options) - 1, rng)
            options = rng.permutation(np.array([e.answer, *(spelling[text] for text in drawn)], dtype=object))
            result.examples.append(replace(e, options=tuple(options)))
        else:
            result.left_out.append(e)
    return result


def save(made: Hardened, out: Path) -> None:
    """Write ``out``/manifest.jsonl; the pictures stay where they are."""
    if (out / "manifest.jsonl").exists():
        raise RunError(f'"{out}" already holds a manifest; choose another folder, or remove it')
    if not made.examples:
        raise DataError("no question has another answer of its modality and type to draw from; state question_type, or give more questions")
    out.mkdir(parents=True, exist_ok=True)
    write_manifest(out / "manifest.jsonl", made.examples)


def kind(example: Example) -> tuple[str, str]:
    """Modality and question type; where none is stated, the wording.

    >>> kind(Example("q1", (), "Which plane is this?", (), "axial", "mri"))
    ('mri', 'which plane is this?')
    """
    return example.modality, example.question_type or normal(example.question)


def _draw(weights: dict[str, int], most: int, rng: np.random.Generator) -> list[str]:
    texts = list(weights)
    shares = np.array(list(weights.values()), dtype=float)
    return [texts[i] for i in rng.choice(len(texts), size=min(most, len(texts)), replace=False, p=shares / shares.sum())]


def _overlap(text: str, answer: str) -> bool:
    first, second = set(words(text)), set(words(answer))
    return first <= second or second <= first
