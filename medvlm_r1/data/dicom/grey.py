"""Stored values to grey levels: modality LUT or rescale, then VOI LUT or window (PS3.3 C.11.1, C.11.2; PS3.4 N.2)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from medvlm_r1.data.dicom.elements import Elements
from medvlm_r1.data.dicom.lut import Table, as_signed, table_of
from medvlm_r1.data.window import bounds, exact_bounds, finite, named, percentiles, window
from medvlm_r1.errors import ImageError

_LIMITS = {"f4": "Float", "f8": "DoubleFloat"}  # PixelPaddingValue of float pixels has a name of its own (C.7.6.24)


@dataclass(frozen=True)
class Rule:
    """How values in the scanner's units become grey: through a table, a SIGMOID, or between two ends (``low`` is black, ``high`` white).

    ``window`` is the center and width that the file gives, None for a table and for percentiles.

    >>> Rule("LINEAR", 0.0, 4095.0, (2048, 4096)).grey(np.array([[-5, 4095]])).tobytes()
    b'\\x00\\xff'
    """

    function: str  # LINEAR, LINEAR_EXACT, SIGMOID, PERCENTILES or TABLE
    low: float = 0.0
    high: float = 1.0
    window: tuple[float, float] | None = None
    table: Table | None = None

    def grey(self, values: np.ndarray) -> Image.Image:
        """8 bit."""
        if self.table:
            values = self.table.look_up(values)
        elif self.function == "SIGMOID" and self.window:  # C.11.2.1.3.1
            center, width = self.window
            with np.errstate(over="ignore"):
                values = 1 / (1 + np.exp(-4 * (values.astype(np.float64) - center) / width))
        return window(values, self.low, self.high)


def to_grey(pixels: np.ndarray, elements: Elements, keys: Mapping[str, float], big_endian: bool) -> Image.Image:
    """Through the window that is asked for, else by the file's own ``rule_of``."""
    values = rescaled(pixels, elements, big_endian)
    asked = named(keys, elements.name)
    return window(values, *bounds(*asked)) if asked else rule_of(values, pixels, elements, big_endian).grey(values)


def rule_of(values: np.ndarray, pixels: np.ndarray, elements: Elements, big_endian: bool) -> Rule:
    """The file's VOI LUT, else its first usable window, else the 0.5 to 99.5 percentiles of ``values``, the rescaled ``pixels``, padding left out."""
    table = _table(elements, "VOILUTSequence", bool((values < 0).any()), big_endian)
    if table:
        return Rule("TABLE", 0, 2 ** used_bits(table) - 1, table=table)
    chosen = first_window(elements)
    if chosen:
        return _windowed(*chosen, elements)
    inside = values[~padding(pixels, elements)]
    return Rule("PERCENTILES", *percentiles(finite(inside if inside.size else values, elements.name)))


def rescaled(pixels: np.ndarray, elements: Elements, big_endian: bool) -> np.ndarray:
    """Stored values in the scanner's units (C.11.1.1). Slope 0 would make all values one: it is no rescale, as in dcmtk's ``DiMonoModality``."""
    table = _table(elements, "ModalityLUTSequence", pixels.dtype.kind == "i", big_endian)
    if table:
        return table.look_up(pixels)
    slope, intercept = elements.number("RescaleSlope"), elements.number("RescaleIntercept")
    if slope == 0 or (slope is None and intercept is None):
        return pixels
    values = pixels.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        values *= 1.0 if slope is None else slope
        values += intercept or 0.0
    return values


def used_bits(table: Table) -> int:
    """Bits of a VOI LUT's output range: those of its descriptor (C.11.2.1.1), or fewer where its greatest entry needs fewer.

    Tables of 10 and 12 bits that say 16, as some CR readers write them, would come out nearly black; no table means that.

    >>> used_bits(Table(np.array([0, 4095]), 0, 16)), used_bits(Table(np.array([0, 65535]), 0, 16))
    (12, 16)
    """
    return min(table.bits, max(int(table.entries.max()).bit_length(), 1))


def first_window(elements: Elements) -> tuple[float, float] | None:
    """Center and width of the first window that shows something."""
    return next((pair for pair in windows_of(elements) if pair), None)


def windows_of(elements: Elements) -> list[tuple[float, float] | None]:
    """Center and width of each window; None for one that shows nothing: C.11.2.1.2.1 wants a width of 1 or more, C.11.2.1.3 of more than 0."""
    pairs = zip(elements.numbers("WindowCenter"), elements.numbers("WindowWidth"), strict=False)
    return [(center, width) if center is not None and width is not None and width > 0 else None for center, width in pairs]


def padding(pixels: np.ndarray, elements: Elements) -> np.ndarray:
    """Which stored values only fill the rectangle: one, or all from it to the limit, in either order (C.7.5.1.1.2)."""
    prefix = _LIMITS.get(pixels.dtype.str[1:], "")
    ends = [elements.number(f"{prefix}PixelPadding{end}") for end in ("Value", "RangeLimit")]
    if ends[0] is None:
        return np.zeros(pixels.shape, bool)
    known = [_as_stored(end, pixels.dtype) for end in ends if end is not None]
    return (pixels >= min(known)) & (pixels <= max(known))


def _as_stored(number: float, kind: np.dtype) -> float:
    """A header may give a value of signed pixels as unsigned, and the reverse."""
    if kind.kind == "f":
        return number
    bits = 8 * kind.itemsize
    return as_signed(int(number), bits) if kind.kind == "i" else int(number) % 2**bits


def _windowed(center: float, width: float, elements: Elements) -> Rule:
    function = elements.text("VOILUTFunction") or "LINEAR"
    if function == "SIGMOID":
        return Rule(function, 0, 1, (center, width))
    if function not in ("LINEAR", "LINEAR_EXACT"):
        remedy = f"name a window: #center={center:g}&width={width:g}"
        raise ImageError(f'image "{elements.name}" has the unknown VOILUTFunction {function[:40]!r}; {remedy}')
    low, high = bounds(center, width) if function == "LINEAR" else exact_bounds(center, width)
    return Rule(function, low, high, (center, width))


def _table(elements: Elements, sequence: str, signed: bool, big_endian: bool) -> Table | None:
    """The table of the first item that has one."""
    found = (table_of(item, "LUT", signed, big_endian) for item in elements.items(sequence))
    return next((table for table in found if table), None)
