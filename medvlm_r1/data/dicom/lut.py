"""Lookup tables of all three kinds: modality (PS3.3 C.11.1.1), VOI (C.11.2.1.1) and palettes (C.7.6.3.1.5 and .6, C.7.9.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from medvlm_r1.data.dicom.elements import Elements
from medvlm_r1.errors import ImageError

_MOST_ENTRIES = 2**16


@dataclass(frozen=True)
class Table:
    """Entries from the input ``first`` on; smaller inputs get the first entry, larger ones the last.

    >>> Table(np.array([7, 8, 9]), -1, 8).look_up(np.array([-5, -1, 0, 1, 9])).tolist()
    [7, 7, 8, 9, 9]
    """

    entries: np.ndarray
    first: int
    bits: int  # of an entry

    def look_up(self, values: np.ndarray) -> np.ndarray:
        """NaN counts as least."""
        if values.dtype.kind == "f":
            values = np.nan_to_num(np.rint(values), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
        return self.entries[np.clip(values - float(self.first), 0, len(self.entries) - 1).astype(np.int64)]


def table_of(elements: Elements, prefix: str, signed: bool, big_endian: bool) -> Table | None:
    """The table in ``…Descriptor`` and ``…Data``, or ``Segmented…Data``; None where either is absent. ``signed``: may its inputs be negative?

    Raises ImageError for one that cannot be understood.
    """
    descriptor, data = elements.numbers(f"{prefix}Descriptor"), elements.value(f"{prefix}Data")
    segments = elements.value(f"Segmented{prefix}Data") if data is None else None
    if not descriptor or (data is None and segments is None):
        return None
    known = [int(number) for number in descriptor if number is not None]
    if len(known) != 3 or not 1 <= known[2] <= 16:
        raise ImageError(f'image "{elements.name}" has the {prefix}Descriptor {known}, not entries, first input and bits; correct its header')
    n_entries, first, bits = known[0] % _MOST_ENTRIES or _MOST_ENTRIES, known[1], known[2]  # 0 stands for 65,536
    try:
        entries = _entries(data, n_entries, big_endian) if segments is None else _entries(_drawn(segments, bits, big_endian), n_entries, big_endian)
    except (ValueError, IndexError, TypeError) as error:
        raise ImageError(f'image "{elements.name}" has a {prefix}Data that cannot be read ({error}); copy it again from its source') from error
    return Table(entries, as_signed(first, 16) if signed else first % _MOST_ENTRIES, bits)


def as_signed(value: int, bits: int) -> int:
    """A number whose header took it for unsigned.

    >>> as_signed(65536 - 2000, 16), as_signed(-2000, 16), as_signed(5, 16)
    (-2000, -2000, 5)
    """
    return (value + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))


def _entries(data: Any, n_entries: int, big_endian: bool) -> np.ndarray:
    """Words, or bytes where there are only half as many. Raises ValueError where even those do not suffice."""
    if isinstance(data, bytes):
        words, packed = np.frombuffer(data[: len(data) // 2 * 2], ">u2" if big_endian else "<u2"), np.frombuffer(data, np.uint8)
    else:
        words = np.atleast_1d(np.asarray(data, np.int64)) % _MOST_ENTRIES
        packed = words.astype("<u2").view(np.uint8)
    found = words if len(words) >= n_entries else packed
    if len(found) < n_entries:
        raise ValueError(f"{len(words)} entries of {n_entries}")
    return found[:n_entries].astype(np.int64)


def _drawn(data: bytes, bits: int, big_endian: bool) -> list[int]:
    unit = "u1" if bits == 8 else ">u2" if big_endian else "<u2"
    return expanded(np.frombuffer(data[: len(data) // 2 * 2], unit).tolist(), np.dtype(unit).itemsize)


def expanded(units: list[int], unit_bytes: int) -> list[int]:
    """The entries that a segmented palette stands for (C.7.9.2): 0 lists them, 1 draws a line to a value, 2 repeats earlier segments.

    Raises ValueError for anything else, and beyond 65,536 entries: a few segments could stand for billions.

    >>> expanded([0, 2, 10, 20, 1, 3, 50], 2), expanded([0, 1, 5, 2, 1, 0, 0], 2)
    ([10, 20, 30, 40, 50], [5, 5])
    """
    entries: list[int] = []
    at = 0
    while at + 1 < len(units):
        if units[at] == 2:  # how many segments, and where they begin: the low and the high 16 bits of an offset in bytes
            parts = units[at + 2 : at + 2 + 4 // unit_bytes]
            start = sum(part << (8 * unit_bytes * n) for n, part in enumerate(parts)) // unit_bytes
            for _ in range(units[at + 1]):
                start = _segment(units, start, entries)
            at += 2 + 4 // unit_bytes
        else:
            at = _segment(units, at, entries)
    return entries


def _segment(units: list[int], at: int, entries: list[int]) -> int:
    """Adds the entries of the discrete or linear segment that begins at ``at``; where the next one begins."""
    opcode, length, body = units[at], units[at + 1], units[at + 2 :]
    if opcode == 0 and len(body) >= length:
        entries += body[:length]
        end = at + 2 + length
    elif opcode == 1 and body and entries:
        entries += np.rint(np.linspace(entries[-1], body[0], length + 1)[1:]).astype(int).tolist()
        end = at + 3
    else:
        raise ValueError(f"no segment begins at {at}")
    if len(entries) > _MOST_ENTRIES:
        raise ValueError(f"more than {_MOST_ENTRIES} entries")
    return end
