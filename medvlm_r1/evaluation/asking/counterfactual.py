"""The same phantom with one fact of its lesion changed: do the answer and the reasoning go along?"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from medvlm_r1.data.phantom.questions import NORMAL, NUMBERS, Question, answer_of, reasoning
from medvlm_r1.data.phantom.scene import Scene, altered, contradiction
from medvlm_r1.data.phantom.sets import scene_of
from medvlm_r1.errors import DataError
from medvlm_r1.evaluation.measuring.claims import check, shown
from medvlm_r1.evaluation.measuring.share import share
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.reasoning import parse
from medvlm_r1.types import Example

OPPOSITE = {"left": "right", "right": "left"}


def counterfactual(example: Example) -> Example | None:
    """The same question about the same patient, slice and noise, where another option is right.

    "side": the lesion lies on the opposite side. "abnormal": a lesion is gone. "finding", "region",
    "size", "count": the next option, in the order shown and round again, that this one fact can make
    true; the lesion may then lie elsewhere in its region. None where there is no such picture: other
    types, pictures that are no phantom, a normal one (to add a lesion takes five facts), lesions on both sides.

    >>> e = Example("q", ("phantom:xray/test/2",), "Which side?", ("left", "both", "right"), "left", "xray", "side")
    >>> c = counterfactual(e)
    >>> c.images, c.answer
    (('phantom:xray/test/2?side=right',), 'right')
    """
    (reference, *more) = example.images or ("",)
    if more or not reference.startswith("phantom:") or "?" in reference:
        return None
    scene = scene_of(reference)
    if answer_of(scene, example.question_type) != example.answer:  # another's question about our picture
        return None
    for answer in _other_answers(example):
        fact, value = _fact_for(example.question_type, answer)
        there = altered(scene, fact, value)
        if not contradiction(there) and answer_of(there, example.question_type) == answer:
            asked = Question(example.question_type, example.question, example.options, answer, there)
            return replace(example, images=(f"{reference}?{fact}={value}",), answer=answer, reasoning=reasoning(asked))
    return None


def _other_answers(example: Example) -> Iterator[str]:
    kind, at = example.question_type, example.options.index(example.answer)
    following = example.options[at + 1 :] + example.options[:at]
    if kind == "side":
        return (option for option in following if option == OPPOSITE.get(example.answer))
    return iter(following if kind in ("abnormal", "finding", "region", "size", "count") else ())


def _fact_for(kind: str, answer: str) -> tuple[str, str | int]:
    """The lesion's fact that makes an answer true."""
    if kind == "abnormal" or answer == NORMAL:
        return "finding", "none"
    return kind, NUMBERS.index(answer) if kind == "count" else answer


def flips(before: Sequence[Sample], after: Sequence[Sample]) -> dict[str, Any]:
    """What became of the answers that were right before the picture changed.

    ``after`` are answers about counterfactual pictures, ``before`` about the first ones, of the same questions
    and perhaps more. The answer ``follows`` (is what is right now), ``sticks`` (is what was right) or is
    ``other``, which includes unread. The thought ``changes`` if one character does, ``names_new`` if it makes a
    claim that the new picture confirms and the first refutes, ``names_old`` if the other way round; it may do
    both. ``chance`` is what guessing would follow, the mean of 1/k; ``by_question_type`` has the share that follows.
    Raises DataError if the questions do not fit.
    """
    pairs = [(b, a) for b, a in _pairs(before, after) if b.correct]
    samples = [b for b, _ in pairs]
    thoughts = [(_thought(b), _thought(a)) for b, a in pairs]
    scenes = [(shown(b), shown(a)) for b, a in pairs]
    news = [_names(thought, new, old) for (_, thought), (old, new) in zip(thoughts, scenes, strict=True)]
    olds = [_names(thought, old, new) for (_, thought), (old, new) in zip(thoughts, scenes, strict=True)]
    follows, sticks = [a.correct for _, a in pairs], [a.answer == b.gold for b, a in pairs]
    kinds = list(dict.fromkeys(b.question_type for b in samples))
    return {
        "n": len(after),
        "n_right_before": len(pairs),
        "follows": share(follows, samples),
        "sticks": share(sticks, samples),
        "other": share([not (x or y) for x, y in zip(follows, sticks, strict=True)], samples),
        "chance": sum(1 / len(s.options) for s in samples) / len(samples) if samples else None,
        "thought": {
            "changes": share([x != y for x, y in thoughts], samples),
            "names_new": share(news, samples),
            "names_old": share(olds, samples),
        },
        "by_question_type": {kind: _part(kind, follows, samples) for kind in kinds},
    }


def _part(kind: str, hits: Sequence[bool], samples: Sequence[Sample]) -> dict[str, Any]:
    few = [(hit, s) for hit, s in zip(hits, samples, strict=True) if s.question_type == kind]
    return share([hit for hit, _ in few], [s for _, s in few])


def _thought(sample: Sample) -> str:
    return parse(sample.text, len(sample.options)).think


def _names(thought: str, this: Scene | None, other: Scene | None) -> bool:
    """Whether a thought claims something that one scene confirms and the other refutes."""
    if this is None or other is None:
        return False
    return any(x.confirmed and not y.confirmed for x, y in zip(check(thought, this), check(thought, other), strict=True))


def _pairs(before: Sequence[Sample], after: Sequence[Sample]) -> list[tuple[Sample, Sample]]:
    first = {s.id: s for s in before}
    for s in after:
        if s.id not in first:
            raise DataError(f'"{s.id}" was asked about the changed picture only; evaluate the image arm on the same questions')
        if s.options != first[s.id].options or s.gold == first[s.id].gold:
            raise DataError(f'"{s.id}" has other options, or the same answer, on the changed picture; evaluate both arms again')
    return [(first[s.id], s) for s in after]
