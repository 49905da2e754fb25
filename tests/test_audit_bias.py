"""Shortcuts and giveaways, with counts made by hand."""

import pytest

from medvlm_r1.audit.bias import balance, cues, never_gold, positions
from medvlm_r1.audit.giveaways import giveaways, groups_cut
from medvlm_r1.types import Example


def question(name, options, answer, modality="mri", **more):
    return Example(name, more.pop("images", (f"{name}.png",)), more.pop("text", "What is it?"), tuple(options), answer, modality, **more)


def test_positions_expect_only_letters_that_stand_there():
    two = [question(f"a{i}", ["x", "y"], "y") for i in range(6)]
    four = [question(f"b{i}", ["p", "q", "r", "s"], "q") for i in range(4)]
    found = positions([*two, *four])["mri"]
    assert found["counts"] == {"A": 0, "B": 10, "C": 0, "D": 0}
    assert found["expected"] == {"A": 4.0, "B": 4.0, "C": 1.0, "D": 1.0}
    assert (found["best"], found["accuracy"]) == ("B", 1.0)
    # χ² = 4 + 9 + 1 + 1 = 15 on three degrees of freedom
    assert found["p"] == pytest.approx(0.001816649, rel=1e-5)


def test_cues_share_ties_and_see_form():
    rows = [question("a", ["a long one", "b", "c"], "b"), question("b", ["no.", "yes", "may"], "no.")]
    assert cues(rows)["mri"] == pytest.approx({"longest": (0 + 1 / 3) / 2, "shortest": (1 / 2 + 1 / 3) / 2, "full_stop": (1 / 3 + 1) / 2})
    # b: all of three characters, full stop included


def test_a_distractor_that_is_an_answer_in_another_modality_is_one():
    rows = [question("a", ["x", "y", "z"], "x"), question("b", ["y.", "w"], "y.", "ct")]
    found = never_gold(rows)
    assert found["mri"] == {"distractors": 2, "never_gold": 1, "questions": 0, "of": 1, "examples": ["z"]}
    assert found["ct"] == {"distractors": 1, "never_gold": 1, "questions": 1, "of": 1, "examples": ["w"]}


def test_balance_counts_free_text_and_types():
    rows = [question("a", [], "a mass", question_type="finding"), question("b", [], "A mass.", question_type="finding"), question("c", [], "left")]
    found = balance(rows)["mri"]
    assert (found["n"], found["answers"], found["commonest"], found["share"]) == (3, 2, "a mass", 2 / 3)
    assert {kind: t["n"] for kind, t in found["types"].items()} == {"finding": 2, "not stated": 1}


def test_a_source_is_named_by_whole_words_only():
    rows = [
        question("a", ["x", "y"], "x", text="What does this SLAKE image show?", source="slake"),
        question("b", ["x", "y"], "x", text="What does the earthquakeslake show?", source="slake"),
        question("c", ["Chest CT Scan set", "y"], "y", source="Chest CT-Scan"),
        question("d", ["x", "y"], "x"),
    ]
    assert giveaways(rows)["names_source"] == {"questions": 2, "of": 4, "examples": ["a", "c"]}


@pytest.mark.parametrize(
    ("image", "told"),
    [
        ("set/test/pituitary_tumour/17.png", True),
        ("set/Pituitary Tumour-17.png", True),
        ("set/no_tumour/pituitary tumour.png", False),  # a distractor is named too
        ("pituitary tumour/a/b/c/17.png", False),  # too far up
        ("phantom:mri/train/pituitary tumour", False),
        ("set/tumour/17.png", False),
    ],
)
def test_a_path_that_names_the_answer(image, told):
    found = giveaways([question("a", ["no tumour", "pituitary tumour"], "pituitary tumour", images=(image,))])
    assert found["path_names_answer"]["questions"] == int(told)


def test_a_wording_and_a_source_with_one_answer():
    same = [question(f"a{i}", ["CT", "MRI"], "CT", "ct", text="Which technique?", source="one") for i in range(5)]
    few = [question(f"b{i}", ["CT", "MRI"], "CT", "ct", text="Which method?", source="two") for i in range(4)]
    other = question("c", ["CT", "MRI"], "MRI", "mri", text="Which technique?", source="two")
    found = giveaways([*same, *few, other])
    assert found["wording_fixes_answer"] == {"questions": 5, "of": 10, "examples": ["which technique?"]}
    assert found["source_fixes_answer"] == {"questions": 5, "of": 10, "examples": ["one"]}
    assert giveaways(same)["source_fixes_answer"]["questions"] == 0  # one source: it cannot be told from another


def test_a_group_is_cut_only_within_its_source():
    here = [question("a", [], "x", group="p1", source="A"), question("b", [], "x", group="p2", source="A"), question("c", [], "x")]
    there = [question("d", [], "x", group="p1", source="A"), question("e", [], "x", group="p2", source="B"), question("f", [], "x")]
    assert groups_cut(here, there) == ["p1"]
