"""What was answered, to be shown later: a file that only grows, whose every line holds the hash of the one before.

A line that is changed, taken out or moved breaks the chain there. A log that was cut at its end is whole in itself: keep the
hash of its last line elsewhere (``anchor``) to see that too. No question, no option's text, no thought, no name is in it.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlm_r1.errors import DataError, RunError
from medvlm_r1.files import AppendFile, digest, output_errors

FIRST = "0" * 64


@dataclass(frozen=True)
class Verified:
    """A log whose chain holds. ``head``: the hash of its last line, to be kept elsewhere.

    >>> Verified(0, FIRST).n
    0
    """

    n: int
    head: str


class AuditLog:
    """Open for appending; the file is its own until ``close``. Raises DataError where the file is damaged, RunError where another has it."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._clock, self._file = clock, AppendFile(path, errors=output_errors)
        if not self._file.lock():
            raise RunError(f'"{path}" is in use by another server; wait for it or name another --audit-log')
        try:
            self._last = verify(path)
        except DataError:
            self._file.close()
            raise

    def write(self, event: str, values: Mapping[str, Any]) -> None:
        """One line, on the disk before this returns. Raises RunError where it cannot be written."""
        row = {"n": self._last.n + 1, "time": round(self._clock(), 3), "event": event, **values, "prev": self._last.head}
        hashed = chained(row)
        self._file.append(json.dumps({**row, "hash": hashed}).encode() + b"\n", on_disk=True)
        self._last = Verified(self._last.n + 1, hashed)

    def close(self) -> None:
        """Leave the file to others."""
        self._file.close()


def chained(row: Mapping[str, Any]) -> str:
    """The hash of a line: of all that is in it, the hash of the line before included."""
    return digest(json.dumps(row, sort_keys=True))


def verify(path: Path, anchor: str = "") -> Verified:
    """Does the chain hold from the first line to the last, and is the ``anchor`` one of its hashes? Raises DataError that names the first bad line."""
    try:
        with path.open("rb") as file:
            return _verified(path, file, anchor)
    except OSError as error:
        raise DataError(f'"{path}" cannot be read ({error.strerror or error}); name a file that medvlm-r1 serve --audit-log wrote') from error


def _verified(path: Path, lines: Iterable[bytes], anchor: str) -> Verified:
    last, is_anchored = Verified(0, FIRST), not anchor or anchor == FIRST
    for number, line in enumerate(lines, 1):
        why = _fault(line, last)
        if why:
            raise DataError(f"{path}, line {number}: {why}; restore the file from its backup, and find out who changed it")
        last = Verified(number, json.loads(line)["hash"])
        is_anchored |= last.head == anchor
    if not is_anchored:
        raise DataError(f"{path}, line {last.n + 1}: the anchored hash {anchor[:16]}… is not in it, so that lines are missing here; restore it from its backup")
    return last


def _fault(line: bytes, last: Verified) -> str:
    """What is wrong with a line behind ``last``; "" for nothing."""
    try:
        row = json.loads(line)
        hashed = row.pop("hash")
        n, prev = row["n"], row["prev"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return "no line of an audit log"
    if not line.endswith(b"\n"):
        return "the line is cut off"
    if n != last.n + 1 or prev != last.head:
        return "it does not follow the line before"
    return "" if chained(row) == hashed else "it was changed"
