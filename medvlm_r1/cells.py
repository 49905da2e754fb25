"""The nine cells of a 3 x 3 grid over a picture, in words. Left and right are the screen's, not the patient's.

In radiological convention they are opposite: the patient's left lies on the right of the screen. So whoever asks
for a cell says "screen" in the question, and an answer is taken for a cell where the question did.
"""

from collections.abc import Sequence

CELLS = ("upper left", "upper middle", "upper right", "middle left", "centre", "middle right", "lower left", "lower middle", "lower right")


def asks_for_cell(question: str, options: Sequence[str]) -> bool:
    """Whether a question's options are cells of the screen: all of them are, and the question speaks of the screen.

    >>> asks_for_cell("Where on screen is the lesion?", ("centre", "upper left"))
    True
    >>> asks_for_cell("Which zone of the lung?", ("upper left", "upper right")), asks_for_cell("Where on screen?", ("left", "centre"))
    (False, False)
    """
    return bool(options) and "screen" in question.lower() and all(option.lower() in CELLS for option in options)


def steps_apart(one: str, other: str) -> int:
    """Steps from cell to cell, a diagonal one being one step: 0 the same, 1 neighbours, 2 across the picture.

    >>> [steps_apart("centre", cell) for cell in ("centre", "upper left")], steps_apart("upper left", "lower middle")
    ([0, 1], 2)
    """
    (row, column), (other_row, other_column) = (divmod(CELLS.index(cell.lower()), 3) for cell in (one, other))
    return max(abs(row - other_row), abs(column - other_column))
