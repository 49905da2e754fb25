"""What a thought names and what was answered."""

from dataclasses import replace

import pytest

from medvlm_r1.errors import DataError
from medvlm_r1.evaluation.measuring.agreement import agreement, thought_effect
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.rewards.naming import named_last

SIDES = ("left", "left upper", "right", "both")


@pytest.mark.parametrize("thought, options, letter", [
    ("Hence left.", SIDES, "A"),
    ("Hence LEFT\n upper", SIDES, "B"),  # the longer text, whatever its case and white space
    ("Left upper, no: left", SIDES, "A"),
    ("Left or right? Right.", SIDES, "C"),  # the last one named
    ("leftover, bright, bothered", SIDES, ""),  # no part of a word
    ("It is not the left.", SIDES, ""),  # what is denied is not named
    ("Right, and not left.", SIDES, "C"),
    ("It isn’t right but left.", SIDES, "A"),
    ("I think so.", SIDES, ""),
    ("", SIDES, ""),
    ("X-ray of the chest", ("CT", "X-ray.", "MRI"), "B"),  # the full stop of an option does not count
    ("a pleural effusion is seen", ("Pleural effusion", "Effusion"), "A"),
    ("5 mm", ("1.5 mm", "5 mm"), "B"),
    ("About 5 \N{GREEK SMALL LETTER MU}m.", ("10 \N{MICRO SIGN}m", "5 \N{MICRO SIGN}m"), "B"),  # they look alike, and are one letter to who reads
    ("TGF-\N{GREEK BETA SYMBOL}", ("TGF-\N{GREEK SMALL LETTER ALPHA}", "TGF-\N{GREEK SMALL LETTER BETA}"), "B"),
    ("1.5 mm", ("5 mm", "2 mm"), ""),
    ("(a) is likely [x]", ("(a)", "[x]"), "B"),
    ("There is no lesion", ("yes", "no"), ""),  # "no" answers where a sentence ends
    ("There is no lesion. Hence no.", ("yes", "no"), "B"),
    ("No lesion – no.", ("yes", "no"), "B"),  # an answer, not what the first "no" denies
    ("No fracture.", ("fracture", "no fracture"), "B"),
    ("No fracture.", ("fracture", "sprain"), ""),
    # A letter, where no text is named.
    ("So the answer is B", SIDES, "B"),
    ("Option (C) fits best", SIDES, "C"),
    ("The answer: D.", SIDES, "D"),
    ("Answer A, no, option B", SIDES, "B"),
    ("It is not option B.", SIDES, ""),
    ("the answer is E", SIDES, ""),  # there are four
    ("option a lesion fits; Bright, an A-line", SIDES, ""),
    ("The answer is Bright", SIDES, ""),
    ("The answer is B: right", SIDES, "C"),  # a text weighs more than a letter
])  # fmt: skip
def test_named_last(thought, options, letter):
    assert named_last(thought, options) == letter


def sample(name, thought, answer, gold="A", **changes):
    text = f"<think>{thought}</think><answer>{answer}</answer>"
    base = Sample(name, "mri", "side", name, "Which side?", SIDES, gold, ("a.png",), "image", text, answer, "answered", answer == gold, 9)
    return replace(base, **changes)


def test_agreement_by_hand():
    out = agreement(
        [
            sample("a", "Hence left.", "A"),
            sample("b", "Hence left.", "C"),
            sample("c", "Hence right.", "C"),
            sample("d", "So option D", "D"),
            sample("e", "I think so.", "A"),
            sample("f", "", "A"),
            sample("g", "Hence left.", None),  # no letter: nothing to agree with
            sample("h", "", "A", text="<answer>A</answer>"),
        ]
    )
    assert (out["n"], out["agrees"], out["names_none"], out["no_thought"]) == (4, 0.75, 1, 2)
    low, high = out["ci95"]
    assert low < 0.75 < high
    assert agreement([]) == {"n": 0, "agrees": None, "ci95": None, "names_none": 0, "no_thought": 0}


OWN = [sample("a", "left", "A"), sample("b", "left", "A"), sample("c", "right", "C"), sample("d", "both", "D", gold="D"),
       sample("e", "left", "A"), sample("f", "left", None)]  # fmt: skip


def test_swapped_thoughts_by_hand():
    """Right before: a, b, d, e of six; after: b, e."""
    swapped = [
        sample("a", "right", "C"),  # follows
        sample("b", "right", "A"),  # keeps
        sample("c", "left upper", "D"),  # neither
        sample("d", "right", "C", gold="D"),  # follows
        sample("e", "left", "A"),  # names what was answered: shows nothing
        sample("f", "right", "C"),  # nothing was answered before
    ]
    out = thought_effect(OWN, swapped)
    assert (out["n"], out["own"], out["other"]) == (6, pytest.approx(4 / 6), pytest.approx(2 / 6))
    assert out["difference"]["mean_difference"] == pytest.approx(-2 / 6)
    assert (out["difference"]["gained"], out["difference"]["lost"], out["difference"]["p_mcnemar"]) == (0, 2, 0.5)
    assert out["unchanged"]["share"] == pytest.approx(2 / 6)  # b, e
    assert (out["follows"]["n"], out["follows"]["share"], out["keeps"]["share"]) == (4, 0.5, 0.25)


def test_empty_thoughts_name_nothing_to_follow():
    out = thought_effect(OWN, [sample(s.id, "", s.answer, gold=s.gold) for s in OWN])
    assert out["unchanged"]["share"] == 1.0 and out["unchanged"]["ci95"] == pytest.approx([0.6097, 1.0], abs=1e-4)  # Wilson, 6 of 6
    assert out["difference"]["mean_difference"] == 0.0 and out["follows"] == {"n": 0, "share": None, "ci95": None} == out["keeps"]


def test_questions_that_had_no_thought_to_change_are_left_out():
    out = thought_effect(OWN, [sample("a", "right", "C"), sample("c", "right", "C")])
    assert (out["n"], out["own"], out["other"], out["follows"]["n"]) == (2, 0.5, 0.0, 1)


def test_answers_that_could_not_be_had_changed_nothing():
    lost = sample("b", "right", None, gold=OWN[1].gold, status="failed", correct=False)
    swapped = [sample("a", "right", "C"), lost]
    out = thought_effect(OWN, swapped)
    assert (out["n"], out["own"], out["other"], out["unchanged"]["n"], out["follows"]["n"]) == (1, 1.0, 0.0, 1, 1)
    assert thought_effect([replace(OWN[0], status="failed"), *OWN[1:]], [sample("a", "right", "C"), sample("c", "right", "C")])["n"] == 1


def test_accuracies_are_means_over_modalities():
    """Right before: one of two MRI and the CT; after: the CT."""
    own = [sample("a", "left", "A"), sample("b", "right", "C"), sample("c", "left", "A", modality="ct")]
    out = thought_effect(own, [sample("a", "right", "C"), sample("b", "right", "C"), sample("c", "left", "A", modality="ct")])
    assert (out["own"], out["other"]) == (0.75, 0.5)


def test_other_questions_are_refused():
    with pytest.raises(DataError, match='"f" is in only one'):
        thought_effect(OWN[:-1], OWN)
