"""Which side of the patient lies at which edge of a picture, by the directions in its header; never guessed."""

from collections.abc import Sequence

import numpy as np

_ENDS = (("L", "R"), ("P", "A"), ("H", "F"))  # where x, y and z grow to, and where from (DICOM PS3.3 C.7.6.2.1.1)
_OPPOSITE = str.maketrans("LRAPHF", "RLPAFH")
_SEEN = 0.342  # the sine of 20 degrees: a tilt that a letter of its own is owed
Sides = dict[str, str]


def letters(direction: Sequence[float]) -> str:
    """The side that a direction (x to the left, y to the back, z to the head) leads to; two or three letters where it is oblique.

    >>> letters((1, 0, 0)), letters((0, -1, 0.1)), letters((0, -0.8, 0.6)), letters((0, 0, -1))
    ('L', 'A', 'AH', 'F')
    """
    parts = [(abs(part), ends[part < 0]) for part, ends in zip(direction, _ENDS, strict=True)]
    return "".join(letter for size, letter in sorted(parts, reverse=True) if size > _SEEN)


def sides_of(row: Sequence[float], column: Sequence[float]) -> Sides | None:
    """Of a picture whose rows run along ``row`` and whose columns run down along ``column``; None where these are no two directions at right angles.

    >>> sides_of((1, 0, 0), (0, 1, 0))
    {'left': 'R', 'right': 'L', 'top': 'A', 'bottom': 'P'}
    >>> sides_of((1, 0, 0), (1, 0, 0)) is sides_of((0, 0, 0), (0, 1, 0)) is None
    True
    """
    along, down = np.asarray(row, float), np.asarray(column, float)
    lengths = [float(np.linalg.norm(vector)) for vector in (along, down)]
    if not all(0.99 < length < 1.01 for length in lengths) or abs(float(along @ down)) > 0.01:
        return None
    return named(letters(along.tolist()), letters(down.tolist()))


def named(right: str, bottom: str) -> Sides:
    """All four edges by two.

    >>> named("L", "PF")
    {'left': 'R', 'right': 'L', 'top': 'AH', 'bottom': 'PF'}
    """
    return {"left": right.translate(_OPPOSITE), "right": right, "top": bottom.translate(_OPPOSITE), "bottom": bottom}
