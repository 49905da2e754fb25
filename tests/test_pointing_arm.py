"""The lesion moves: is the new cell the picture's, and are a thought's cells held against it, and not taken for the patient's sides?"""

from dataclasses import replace

import pytest

from medvlm_r1.data.phantom import sets
from medvlm_r1.data.phantom.place import place_of
from medvlm_r1.data.phantom.scene import Scene
from medvlm_r1.evaluation.asking.counterfactual import counterfactual
from medvlm_r1.evaluation.measuring.claims import check, claims, claims_of
from medvlm_r1.evaluation.measuring.flips import flips
from medvlm_r1.evaluation.samples import Sample

# On the patient's left, which is the screen's right (tests/test_pointing.py); its mirror image is in the middle left.
NODULE = Scene("ct", 7, 42, "chest", "axial", "", "nodule", "left", "small", 1, "middle")
FEW = [sets.load(name, "test")[n] for name in ("pointing-xray", "pointing-ct") for n in range(6)]


def test_the_lesion_moves_into_the_cell_of_another_option():
    moved = [(e, c) for e in FEW if (c := counterfactual(e))]
    assert len(moved) >= 4
    for before, after in moved:
        assert after.answer in before.options and after.answer != before.answer
        assert place_of(sets.scene_of(after.images[0])) == after.answer
        assert after.images[0].startswith((f"{before.images[0]}?side=", f"{before.images[0]}?region="))
        assert after.reasoning.endswith(f"On screen: {after.answer}. Hence {after.answer}.")
        assert (after.question, after.options, after.id) == (before.question, before.options, before.id)


def test_without_an_option_to_move_to_nothing_is_asked():
    before = next(e for e in FEW if counterfactual(e))
    alone = tuple(option for option in before.options if option == before.answer)
    assert counterfactual(replace(before, options=alone)) is None


@pytest.mark.parametrize("on_screen, said", [
    (True, ["finding nodule", "side left", "place upper right", "not place centre"]),
    (False, ["finding nodule", "side left", "side right"]),
])  # fmt: skip
def test_a_cell_is_a_claim_where_the_question_is_about_the_screen(on_screen, said):
    text = "Nodule, left. On screen: upper right. Not the centre. Hence upper right."
    assert [f"{'not ' * c.denied}{c.fact} {c.value}" for c in claims_of(text, on_screen) if c.fact != "region"] == said


def test_a_cell_is_held_against_the_picture():
    text = "On screen: middle right, not the centre, not the middle right, lower left."
    assert [(c.claim.value, c.confirmed) for c in check(text, NODULE, on_screen=True)] == [
        ("middle right", True), ("centre", True), ("middle right", False), ("lower left", False)
    ]  # fmt: skip


def sample(example, letter, said):
    """An answer to a question or to its counterfactual."""
    gold = "ABCD"[example.options.index(example.answer)]
    return Sample(example.id, example.modality, "place", example.group, example.question, example.options, gold, example.images, "image",
                  f"<think>On screen: {said}. Hence {said}.</think>\n<answer>{letter}</answer>", letter, "answered", letter == gold, 9)  # fmt: skip


def test_an_answer_that_follows_is_counted():
    before, after = next((e, c) for e in FEW if (c := counterfactual(e)))
    old, new = ("ABCD"[before.options.index(e.answer)] for e in (before, after))
    first = sample(before, old, before.answer)
    follows, sticks = flips([first], [sample(after, new, after.answer)]), flips([first], [sample(after, old, before.answer)])
    assert (follows["by_question_type"]["place"]["share"], sticks["by_question_type"]["place"]["share"]) == (1.0, 0.0)
    assert (follows["thought"]["names_new"]["share"], follows["thought"]["names_old"]["share"]) == (1.0, 0.0)
    assert (sticks["thought"]["names_new"]["share"], sticks["thought"]["names_old"]["share"]) == (0.0, 1.0)
    assert claims([first])["by_fact"] == {"place": {"n": 1, "confirmed": 1.0}}
