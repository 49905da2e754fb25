"""What the arms of one model say about its reasoning, from samples written by hand."""

from dataclasses import replace

import pytest

from medvlm_r1.evaluation.measuring.reasons import reasons, rows
from medvlm_r1.evaluation.samples import Sample


def sample(name, thought, letter, arm="image", gold="A"):
    text = f"<think>{thought}</think>\n<answer>{letter}</answer>" if thought is not None else f"<answer>{letter}</answer>"
    return Sample(name, "mri", "side", name, "Which side?", ("left", "right"), gold, (f"{name}.png",), arm, text, letter, "answered", letter == gold, 9)


IMAGE = [sample("q1", "Hence left.", "A"), sample("q2", "Hence left.", "A"), sample("q3", "Hence right.", "A"), sample("q4", "It is dark.", "B")]


def test_agreement_alone_where_nothing_else_was_asked():
    image = [*IMAGE, sample("q5", None, "A")]
    found = reasons({"image": image, "blank": image})
    assert found.keys() == {"agreement", "contradictions"}
    row, against = rows(found)
    assert (row.value, row.n) == (pytest.approx(2 / 3), 3) and "2 name none" in row.meaning
    # q3 says right and answers left; gold is left, so that without it three of four are right, and with it four of five.
    assert (against.value, against.n) == (pytest.approx(1 / 5), 5) and "accuracy 80.0 %, 75.0 % without them" in against.meaning


def test_an_arm_of_which_no_answer_could_be_had_tells_nothing():
    """As at a server that takes no opening of an answer: its whole evaluation is not to be lost by it."""
    lost = [replace(one, status="failed", answer=None, correct=False, arm="empty-thought") for one in IMAGE]
    assert reasons({"image": IMAGE, "empty-thought": lost, "counterfactual": lost}) == reasons({"image": IMAGE})


def test_a_foreign_thought_is_followed_or_not():
    foreign = [
        sample("q1", "Hence right.", "B", "swapped-thought"),
        sample("q2", "Hence right.", "A", "swapped-thought"),
        sample("q3", "Hence left.", "A", "swapped-thought"),
    ]
    found = rows(reasons({"image": IMAGE, "swapped-thought": foreign}))
    assert [row.what for row in found[2:]] == ["Thought taken from another question", "… the answer goes with the foreign thought"]
    effect, follows = found[2:]
    assert effect.is_difference and (effect.value, effect.n) == (pytest.approx(-1 / 3), 3) and "100.0 % with its own" in effect.meaning
    assert effect.ci95 == [-1.0, 1.0]  # three patients with -1, 0 and 0: -0.33 ± 4.3 x 0.33
    assert (follows.value, follows.n) == (0.5, 2)  # q3's first answer was what the foreign thought names


def test_no_thoughts_no_rows():
    assert rows(reasons({"image": [sample("q1", None, "A")]})) == []


def test_the_phantom_tells_whether_claims_and_answers_follow_the_picture():
    one = Sample("q", "xray", "side", "p", "Which side?", ("left", "both", "right"), "A", ("phantom:xray/test/2",), "image",
                 "<think>Frontal X-ray of the chest. Hence left.</think><answer>A</answer>", "A", "answered", True, 9)  # fmt: skip
    changed = Sample("q", "xray", "side", "p", "Which side?", ("left", "both", "right"), "C", ("phantom:xray/test/2?side=right",), "counterfactual",
                     "<think>Frontal X-ray of the chest. Hence right.</think><answer>C</answer>", "C", "answered", True, 9)  # fmt: skip
    blind = replace(changed, id="q2", text=one.text, answer="A", correct=False)
    asked = [one, replace(one, id="q2"), replace(one, id="q3")]  # the third has no counterfactual
    found = {row.what: row for row in rows(reasons({"image": asked, "counterfactual": [changed, blind]}))}
    assert found["Claims of the thought that the picture confirms"].value == 1.0 and found["Claims of the thought that the picture confirms"].n == 12
    assert found["Lesion changed: the answer follows"].value == 0.5 and found["Lesion changed: the answer follows"].n == 2
    assert "33.3 %" in found["Lesion changed: the answer follows"].meaning
    assert found["… the answer stays as it was"].value == 0.5 and found["… the thought names the new fact"].value == 0.5
    wrong = rows(reasons({"image": [replace(one, answer="B", correct=False)], "counterfactual": [changed]}))
    assert wrong and not any("changed" in row.what for row in wrong)  # none was right before: nothing to follow
