"""Questions that tell their source or their answer beside the picture, and groups that a split cut."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from medvlm_r1.audit.texts import split_words, words
from medvlm_r1.data.images import scheme_of
from medvlm_r1.naming import normal
from medvlm_r1.types import Example

MIN_QUESTIONS = 5  # a wording or a source with fewer questions has one answer by accident


def giveaways(examples: Sequence[Example]) -> dict[str, dict[str, Any]]:
    """Kind of leak -> how many questions, and the ids of a few.

    names_source: the question or an option holds the source's name.
    path_names_answer: the picture's folder or file name holds the answer, and none of the distractors.
    wording_fixes_answer: all questions with this wording, five at least, have one and the same answer.
    source_fixes_answer: of several sources, this one has the same answer to all its questions, five at least.

    >>> e = Example("q1", ("images/glioma/17.png",), "Finding?", ("glioma", "no tumour"), "glioma", "mri")
    >>> giveaways([e])["path_names_answer"]
    {'questions': 1, 'of': 1, 'examples': ['q1']}
    """
    sources = {e.source for e in examples}
    return {
        "names_source": _found(examples, _names_source),
        "path_names_answer": _found(examples, _path_names_answer),
        "wording_fixes_answer": _fixed(examples, lambda e: normal(e.question)),
        "source_fixes_answer": _fixed(examples if len(sources) > 1 else (), lambda e: e.source, len(examples)),
    }


def groups_cut(train: Iterable[Example], test: Iterable[Example]) -> list[str]:
    """The groups (patients, studies, documents) of one source that have questions on both sides, sorted.

    >>> a = Example("q1", (), "Which?", (), "x", "mri", group="patient-1")
    >>> b = Example("q2", (), "Which?", (), "x", "mri", group="patient-1")
    >>> groups_cut([a], [b])
    ['patient-1']
    """
    sides = [{(e.source, e.group) for e in side if e.group} for side in (train, test)]
    return sorted({group for _, group in sides[0] & sides[1]})


def _names_source(example: Example) -> bool:
    return any(_names(text, example.source) for text in (example.question, *example.options))


@lru_cache(maxsize=1 << 16)
def _names(text: str, source: str) -> bool:
    return bool(words(source)) and _holds(words(text), words(source))


def _path_names_answer(example: Example) -> bool:
    answer, wrong = words(example.answer), [words(o) for o in example.options if o != example.answer]
    for reference in example.images:
        if scheme_of(reference) or not answer:
            continue
        parts = reference.replace("\\", "/").rsplit("/", 3)[-3:]  # further up, folders name the disk and not the picture
        told = split_words(" ".join(parts))
        if _holds(told, answer) and not any(_holds(told, name) for name in wrong if name):
            return True
    return False


def _holds(text: Sequence[str], name: Sequence[str]) -> bool:
    return any(text[i : i + len(name)] == name for i in range(len(text) - len(name) + 1))


def _found(examples: Sequence[Example], test: Callable[[Example], bool]) -> dict[str, Any]:
    ids = [e.id for e in examples if test(e)]
    return {"questions": len(ids), "of": len(examples), "examples": ids[:5]}


def _fixed(examples: Sequence[Example], key: Callable[[Example], str], of: int | None = None) -> dict[str, Any]:
    """Questions whose key has one answer only, within a modality."""
    answers: dict[tuple[str, str], set[str]] = defaultdict(set)
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for e in examples:
        answers[e.modality, key(e)].add(normal(e.answer))
        counts[e.modality, key(e)] += 1
    fixed = {k for k, n in counts.items() if n >= MIN_QUESTIONS and len(answers[k]) == 1}
    found = _found(examples, lambda e: (e.modality, key(e)) in fixed)
    return found | {"of": len(examples) if of is None else of, "examples": sorted({k[1] for k in fixed})[:5]}
