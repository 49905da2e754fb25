"""The reward for a cell of the screen, against the grid written out by hand."""

import pytest

from medvlm_r1.cells import CELLS
from medvlm_r1.reasoning import render
from medvlm_r1.rewards.rubric import REWARDS
from medvlm_r1.types import Completion, Example

GRID = """
upper left  | upper middle | upper right
middle left | centre       | middle right
lower left  | lower middle | lower right
"""
ROWS = [[cell.strip() for cell in line.split("|")] for line in GRID.strip().splitlines()]


def earned(body, gold, options=()):
    prompt = render(Example("q1", ("a.png",), "Where on screen is the lesion?", options, gold, "mri", "place"), "think")
    return REWARDS["place"](Completion((7,), (0.0,), f"<think>There.</think>\n<answer>{body}</answer>", finished=True), prompt)


def test_the_grid_is_read_as_a_page():
    assert [cell for row in ROWS for cell in row] == list(CELLS)


@pytest.mark.parametrize("gold, beside", [
    ("upper left", {"upper middle", "middle left", "centre"}),
    ("middle right", {"upper right", "lower right", "upper middle", "centre", "lower middle"}),
    ("centre", set(CELLS) - {"centre"}),
])  # fmt: skip
def test_the_right_cell_earns_all_a_neighbour_half_and_any_other_nothing(gold, beside):
    expected = {cell: 1.0 if cell == gold else 0.5 if cell in beside else 0.0 for cell in CELLS}
    assert {cell: earned(letter, gold, CELLS) for letter, cell in zip("ABCDEFGHI", CELLS, strict=True)} == expected
    assert {cell: earned(f"It is in the {cell}.", gold) for cell in CELLS} == expected


@pytest.mark.parametrize("body, options, value", [
    ("b)", ("centre", "Upper left"), 1.0),
    ("E", ("centre", "upper left"), 0.0),
    ("upper left", ("centre", "upper left"), 0.0),
    ("A or B", ("centre", "upper left"), 0.0),
    ("I cannot tell", (), 0.0),
    ("left", (), 0.0),
    ("UPPER  LEFT", (), 1.0),
    ("not the upper left", (), 0.0),
    ("not the centre but the upper left", (), 1.0),
])  # fmt: skip
def test_an_answer_is_read_as_everywhere(body, options, value):
    assert earned(body, "upper left" if "Upper left" not in options else "Upper left", options) == value


def test_another_question_earns_nothing():
    assert earned("A", "left", ("left", "right")) == 0.0 == earned("left", "left")
