"""The same phantom with one fact of its lesion changed, so that another answer is right."""

from collections.abc import Iterator
from dataclasses import replace

from medvlm_r1.data.phantom.questions import NORMAL, NUMBERS, Question, answer_of, reasoning
from medvlm_r1.data.phantom.scene import REGIONS, Scene, altered, contradiction
from medvlm_r1.data.phantom.sets import scene_of
from medvlm_r1.types import Example

OPPOSITE = {"left": "right", "right": "left"}


def counterfactual(example: Example) -> Example | None:
    """The same question about the same patient, slice and noise, where another option is right.

    "side": the lesion lies on the opposite side. "abnormal": a lesion is gone. "finding", "region",
    "size", "count": the next option, in the order shown and round again, that this one fact can make
    true; the lesion may then lie elsewhere in its region. "place": the lesion moves to the other side, or else to the
    first region, that puts it into the cell of another option. None where there is no such picture: other
    types, no options, pictures that are no phantom, a normal one (to add a lesion takes five facts), lesions on both sides.

    >>> e = Example("q", ("phantom:xray/test/2",), "Which side?", ("left", "both", "right"), "left", "xray", "side")
    >>> c = counterfactual(e)
    >>> c.images, c.answer
    (('phantom:xray/test/2?side=right',), 'right')
    """
    (reference, *more) = example.images or ("",)
    if more or not example.options or not reference.startswith("phantom:") or "?" in reference:
        return None
    scene = scene_of(reference)
    if answer_of(scene, example.question_type) != example.answer:  # another's question about our picture
        return None
    for fact, value in _changes(example, scene):
        there = altered(scene, fact, value)
        answer = "" if contradiction(there) else answer_of(there, example.question_type)
        if answer != example.answer and answer in example.options:
            asked = Question(example.question_type, example.question, example.options, answer, there)
            return replace(example, images=(f"{reference}?{fact}={value}",), answer=answer, reasoning=reasoning(asked))
    return None


def _changes(example: Example, scene: Scene) -> Iterator[tuple[str, str | int]]:
    """The changes of one fact that may make another option right, in the order in which they are tried."""
    if example.question_type == "place":
        sides = [("side", OPPOSITE[scene.side])] if scene.side else []
        return iter([*sides, *(("region", region) for region in REGIONS[scene.modality, scene.body])])
    return (_fact_for(example.question_type, answer) for answer in _other_answers(example))


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
