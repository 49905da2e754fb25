"""The partner of a question: another patient's, whose picture answers it otherwise. Evaluation (arm "mismatch") and training (``views``) ask by this one rule.

A partner is of the same modality and question type (where none is stated, the wording), has as many pictures and another
answer, and shares neither patient nor picture. Of another modality it would be told by the kind of picture alone, and one
with the same answer would make the gold letter right. What it cannot know: whether its picture shows this question's answer beside its own.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np

from medvlm_r1.files import digest
from medvlm_r1.types import Example
from medvlm_r1.wording import normal

Rows = Mapping[Hashable, Sequence[Example]]
_FAR = 200
_TRIES = 32


def kind(example: Example) -> tuple[str, str]:
    """Modality and question type; where none is stated, the wording.

    >>> kind(Example("q1", (), "Which plane is this?", (), "axial", "mri"))
    ('mri', 'which plane is this?')
    """
    return example.modality, example.question_type or normal(example.question)


def alike(example: Example) -> Hashable:
    """What a question has in common with its partner."""
    return (*kind(example), len(example.images))


def apart(a: Example, b: Example) -> bool:
    """Of different patients, as far as they are named, and about different pictures."""
    return set(a.images).isdisjoint(b.images) and not (a.group and a.group == b.group)


def is_other(other: Example, example: Example) -> bool:
    """Of another patient, and answered otherwise, whatever it asks: half of the rule, for a question whose kind knows one answer only."""
    return normal(other.answer) != normal(example.answer) and apart(other, example)


def is_contrary(other: Example, example: Example) -> bool:
    """The rule.

    >>> a, b, c = (Example(id, (f"{id}.png",), "Plane?", (), plane, "ct", group=id) for id, plane in (("a", "axial"), ("b", "Axial."), ("c", "coronal")))
    >>> is_contrary(c, a), is_contrary(b, a)
    (True, False)
    """
    return alike(other) == alike(example) and is_other(other, example)


def rows(examples: Sequence[Example], by: Callable[[Example], Hashable]) -> dict[Hashable, list[Example]]:
    """The questions by what they have in common, each row in the order of a hash of the ids, so that nobody chose it."""
    found: dict[Hashable, list[Example]] = {}
    for example in sorted(examples, key=lambda e: digest(e.id)):
        found.setdefault(by(example), []).append(example)
    return found


def partners(examples: Sequence[Example], by: Callable[[Example], Hashable]) -> dict[str, Example]:
    """Id -> another question that is alike, of another group and about other pictures; those without one are left out.

    A question's partner is the next of its row that fits.

    >>> a, b, c = (Example(id, (f"{id}.png",), "Which?", (), "x", modality) for id, modality in (("a", "ct"), ("b", "ct"), ("c", "mri")))
    >>> {id: e.id for id, e in partners([a, b, c], lambda e: e.modality).items()}
    {'b': 'a', 'a': 'b'}
    """
    found = {}
    for row in rows(examples, by).values():
        for at, example in enumerate(row):
            if (other := _from(row, at + 1, example)) is not None:
                found[example.id] = other
    return found


def contraries(examples: Sequence[Example]) -> dict[str, Example]:
    """Id -> a partner by the rule, the same in every evaluation of these questions, and as few questions as can be with the same one.

    >>> a, b, c = (Example(id, (f"{id}.png",), "Plane?", (), plane, "ct") for id, plane in (("a", "axial"), ("b", "axial"), ("c", "sagittal")))
    >>> {id: e.id for id, e in contraries([a, b, c]).items()}
    {'c': 'b', 'b': 'c', 'a': 'c'}
    """
    found = {}
    for row in rows(examples, alike).values():
        by_answer = rows(row, lambda e: normal(e.answer))
        answers = list(by_answer)
        for n, answer in enumerate(answers):
            for at, example in enumerate(by_answer[answer]):
                others = (_from(by_answer[other], at, example) for other in (*answers[n + 1 :], *answers[:n]))
                if (other := next((other for other in others if other), None)) is not None:
                    found[example.id] = other
    return found


def drawn(row: Sequence[Example], example: Example, fits: Callable[[Example, Example], bool], rng: np.random.Generator) -> Example | None:
    """One of a row at random among those that fit, each as likely; None where none does. Most rows are full of them, so that it tries before it looks for all."""
    for _ in range(_TRIES if row else 0):
        if fits(other := row[int(rng.integers(len(row)))], example):
            return other
    fitting = [other for other in row if fits(other, example)]
    return fitting[rng.integers(len(fitting))] if fitting else None


def _from(row: Sequence[Example], start: int, example: Example) -> Example | None:
    """The first of a row, round from ``start``, that is apart; not far, or one large group would take hours."""
    circle = (row[(start + step) % len(row)] for step in range(min(len(row), _FAR)))
    return next((other for other in circle if apart(other, example)), None)
