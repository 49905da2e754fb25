"""A file as a person pages through it: all of its frames before their window, and what its header says of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medvlm_r1.data.sides import Sides
from medvlm_r1.errors import ImageError

MOST_BYTES = 2**27  # of all samples: 256 slices of 512 x 512 at 16 bits
_SMALL = (np.uint8, np.int16, np.uint16)
_MOST_ASPECT = 20.0  # of a pixel's sides: beyond that, its header is wrong


@dataclass(frozen=True)
class Plane:
    """How to cut the samples, which lie in one row: pixel (f, r, c) of ``count`` x ``rows`` x ``columns`` is at start + f, r and c times their steps.

    ``sides``: which side of the patient is at which edge, one for all frames or one each; None where the file does not say.
    ``spacing``: height and width of a pixel, in mm where ``scale`` is "mm", in mm at the detector where it is "detector", else
    only their ratio holds. ``axis``: as ``data.nifti`` counts them; None where there is one plane.

    >>> Plane(3, 512, 512).step
    (0, 0, 0)
    """

    count: int
    rows: int
    columns: int
    start: int = 0
    step: tuple[int, int, int] = (0, 0, 0)
    sides: Sequence[Sides | None] = (None,)
    spacing: tuple[float, float] | None = None
    scale: str = ""
    axis: int | None = None


@dataclass(frozen=True)
class Stack:
    """``samples`` in C order, as they are stored: grey, or 8-bit RGB in a last axis of 3.

    ``rules``: how samples become grey, as JSON; ``rule_of_frame``: which of them, one for all frames or one each. ``windows``:
    center, width and name. ``notes``: codes of what a reader has to know. No name, number or date of a patient is in it.

    >>> Stack("raster", np.zeros((1, 4, 4, 3), np.uint8), {}).is_colour
    True
    """

    kind: str  # dicom, nifti or raster
    samples: np.ndarray
    planes: Mapping[str, Plane]
    rules: Sequence[Mapping[str, Any]] = ()
    rule_of_frame: Sequence[int] = (0,)
    windows: Sequence[Mapping[str, Any]] = ()
    modality: str = ""
    unit: str = ""  # "HU" or nothing
    inverted: bool = False
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def is_colour(self) -> bool:
        """Is it RGB?"""
        return self.samples.ndim == 4

    @property
    def header(self) -> dict[str, Any]:
        """All but the samples, as JSON."""
        told = {name: value for name, value in vars(self).items() if name not in ("samples", "planes")}
        return told | {
            "shape": self.samples.shape,
            "dtype": self.samples.dtype.name,
            "planes": {name: vars(plane) for name, plane in self.planes.items()},
        }


def one_after_the_other(shape: Sequence[int]) -> Plane:
    """The plane of frames that are stored as they are seen. ``shape``: frames, rows, columns, and perhaps samples a pixel.

    >>> one_after_the_other((2, 3, 4)).step
    (12, 4, 1)
    """
    count, rows, columns = shape[:3]
    return Plane(count, rows, columns, step=(rows * columns, columns, 1))


def packed(samples: np.ndarray) -> np.ndarray:
    """The same numbers in as few bytes as 8 or 16 bits allow where all are whole, else as float32, or float64 where that would round.

    >>> [packed(np.array(values)).dtype.name for values in ([0, 255], [-1, 7], [65535, 0], [0.0, 3.0], [70000, 0])]
    ['uint8', 'int16', 'uint16', 'uint8', 'float32']
    >>> packed(np.array([0.5], np.float32)).dtype.name, packed(np.array([0.1])).dtype.name, packed(np.array([np.nan])).dtype.name
    ('float32', 'float64', 'float32')
    """
    if samples.dtype in _SMALL:
        return samples
    low, high = samples.min(), samples.max()
    for kind in _SMALL:
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            whole = samples.astype(kind)
            if (whole == samples).all():
                return whole
            break
    if samples.dtype == np.float32:
        return samples
    with np.errstate(over="ignore"):
        single = samples.astype(np.float32)
    return single if np.array_equal(single, samples, equal_nan=samples.dtype.kind == "f") else samples.astype(np.float64)


def require_room(n_bytes: int, name: str) -> None:
    """Raises ImageError for more than is sent to a page."""
    if n_bytes > MOST_BYTES:
        raise ImageError(f'image "{name}" is too large to be paged through ({n_bytes >> 20} MiB unpacked, at most {MOST_BYTES >> 20}); send fewer frames')


def square_enough(spacing: tuple[float, float] | None) -> tuple[float, float] | None:
    """A spacing that a picture can be drawn by, else None.

    >>> square_enough((0.5, 0.7)), square_enough((0.0, 1.0)), square_enough((1.0, 900.0))
    ((0.5, 0.7), None, None)
    """
    if spacing is None or not all(np.isfinite(size) and size > 0 for size in spacing):
        return None
    return spacing if 1 / _MOST_ASPECT <= spacing[0] / spacing[1] <= _MOST_ASPECT else None
