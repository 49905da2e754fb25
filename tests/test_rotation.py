"""The order of the options: the same text each time, and the habit of a letter."""

from dataclasses import replace

import pytest

from medvlm_r1.evaluation.measuring.rotation import chosen_text, letters, steadiness
from medvlm_r1.evaluation.measuring.statistics import wilson
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.types import LETTERS


def rotated(name, chosen, options=("left", "right", "both")):
    """A question whose answer is "left", asked in every rotation; ``chosen`` are the letters that were given."""
    rows = []
    for r, letter in enumerate(chosen):
        order = options[r:] + options[:r]
        gold = LETTERS[order.index("left")]
        rows.append(Sample(name, "ct", "", "", "Which?", order, gold, (), "rotate", "", letter, "answered" if letter else "unparsed", letter == gold, 1))
    return rows


FOUR = [
    *rotated("reads", "ACB"),  # "left" stands at A, C, B
    *rotated("always-a", "AAA"),  # left, right, both
    *rotated("steady-but-wrong", "BAC"),  # "right" each time
    *rotated("silent", ["A", None, None]),
]


def test_steadiness_by_hand():
    found = steadiness(FOUR)
    assert (found.same.value, found.right.value, found.sometimes.value) == (0.5, 0.25, 0.75)
    assert found.same.n == 4
    assert found.same.ci95 == pytest.approx([0.15, 0.85], abs=0.01)  # Wilson, 2 of 4
    assert found.right.ci95 == pytest.approx(list(wilson(1, 4)))


def test_never_answering_is_not_steady():
    assert steadiness(rotated("q", [None, None, None])).same.value == 0.0


def test_only_whole_rotations_count():
    assert steadiness(FOUR[:2]) is None
    assert steadiness([]) is None
    assert steadiness(rotated("q", "A", ("left",))) is None  # one option has no order
    assert steadiness([replace(s, options=()) for s in FOUR[:1]]) is None


def test_letters_chosen_and_right():
    found = letters(rotated("always-a", "AAA"))
    assert found == {"A": (1.0, pytest.approx(1 / 3)), "B": (0.0, pytest.approx(1 / 3)), "C": (0.0, pytest.approx(1 / 3))}
    assert letters(FOUR)["A"][0] == pytest.approx(6 / 12)
    assert sum(chosen for chosen, _ in letters(FOUR).values()) == pytest.approx(10 / 12)  # two gave no letter
    assert letters([replace(FOUR[0], options=())]) == {}
    assert letters([*rotated("two", "AB", ("left", "right")), *FOUR[:3]]).keys() == {"A", "B", "C"}


def test_chosen_text():
    assert [chosen_text(s) for s in rotated("q", ["B", "B", None])] == ["right", "both", None]
