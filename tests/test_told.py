"""What a reader is told: the reasons not to believe an answer, worked out by hand."""

import pytest

from medvlm_r1.rollout.told import Reading, otherwise, question, tell, unseen
from medvlm_r1.types import Prompt

SIDES = ("left", "right", "both")


def asked(text="Which side?", options=SIDES):
    return Prompt(question("a.png", text, options), "…")


@pytest.mark.parametrize(("text", "status", "answer", "written", "codes"), [
    ("<think>Hence left.</think><answer>A</answer>", "answered", "A", "A", []),
    ("<think>Hence left.</think><answer>B</answer>", "contradicted", None, "B", ["thought"]),
    ("<think>Not left. Right.</think><answer>B</answer>", "answered", "B", "B", []),
    ("<think>Dark there.</think><answer>B</answer>", "answered", "B", "B", []),  # names none: nothing to contradict
    ("<think>Hence left.</think><answer>B or C</answer>", "unparsed", None, "", []),
    ("<think>Hence left.</think><answer>I cannot tell.</answer>", "abstained", None, "", []),
    ("<think>Hence left", "truncated", None, "", []),
])  # fmt: skip
def test_thought_and_answer(text, status, answer, written, codes):
    told = tell(text, asked())
    assert (told.status, told.answer, told.written, [w.code for w in told.warnings]) == (status, answer, written, codes)
    assert bool(told.answer_text) == (status == "answered")


def test_the_demonstrations_own_case():
    """Said "normal" of a picture, and then named the side of a lesion in it, without a word."""
    before = [Reading("What abnormality is there?", ("normal", "nodule"), "normal")]
    told = tell("<think>Finding: nodule, left. Hence left.</think><answer>A</answer>", asked("Which side is the lesion on?"), earlier=before)
    assert (told.status, told.answer) == ("contradicted", None) and [w.code for w in told.warnings] == ["presupposition"]


@pytest.mark.parametrize(("text", "earlier", "found"), [
    ("Which side is the nodule on?", Reading("What is it?", ("normal", "mass"), "Normal."), "Normal."),
    ("Which side is the small nodule on?", Reading("Any lesion?", ("yes", "no"), "no"), "no"),
    ("Which side is the nodule on?", Reading("Is this image normal?", ("yes", "no"), "no"), ""),  # it is not normal: no denial
    ("Which side is the nodule on?", Reading("What is it?", ("normal", "mass"), "mass"), ""),
    ("Is there a nodule?", Reading("What is it?", ("normal", "mass"), "normal"), ""),  # takes nothing for granted
])  # fmt: skip
def test_what_a_question_takes_for_granted(text, earlier, found):
    assert unseen(text, [earlier]) == found


@pytest.mark.parametrize(("earlier", "found"), [
    (Reading("Which side?", ("right", "left", "both"), "right"), "right"),
    (Reading("Which side?", SIDES, "LEFT."), ""),
    (Reading("Which side?", ("left", "right"), "right"), ""),  # another choice
    (Reading("Which lobe?", SIDES, "right"), ""),
])  # fmt: skip
def test_the_same_question_before(earlier, found):
    assert otherwise("Which side?", SIDES, "left", [earlier]) == found
