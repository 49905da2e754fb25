"""One way to write a file, and one to name a text: a write lands whole or not at all, whatever the disk does.

A digest depends on the text alone, not on machine, moment or batch: to name, order and draw by.
"""

import errno
import fcntl
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from medvlm_r1.errors import ConfigError, MedVLMError, RunError

_FULL = (errno.ENOSPC, errno.EDQUOT)


def utf8(text: str) -> bytes:
    r"""UTF-8; half of a surrogate pair, which JSON may hold and UTF-8 may not, as its escape.

    >>> utf8("ä \ud83d")
    b'\xc3\xa4 \\ud83d'
    """
    return text.encode("utf-8", "backslashreplace")


def digest(text: str) -> str:
    """SHA-256, 64 hex digits.

    >>> digest("q1")[:16]
    'c75de8c1b7c3ae52'
    """
    return hashlib.sha256(utf8(text)).hexdigest()


@contextmanager
def disk_errors(path: Path, option: str = "--run-dir", again: str = "go on with --resume") -> Iterator[None]:
    """Turns an OSError inside the block into a RunError that names ``path`` and the remedy: ``again``, or another ``option``."""
    try:
        yield
    except MedVLMError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise RunError(f'no space left on the disk of "{path}"; free some and {again}, what is written stays whole') from error
        raise RunError(f'cannot write "{path}" ({error.strerror or error}); choose another {option} or correct its rights') from error


def output_errors(path: Path, option: str = "--out") -> AbstractContextManager[None]:
    """``disk_errors`` for a command that is simply given again."""
    return disk_errors(path, option, "give the same command again")


def require_other(out: Path, option: str, *given: str | Path | None) -> None:
    """Raises ConfigError where what is written would take the place of what is read; ``given`` may end in a filter, a frame or a slice.

    >>> require_other(Path("page.html"), "--html", "q.jsonl?split=test", None)
    >>> require_other(Path("q.jsonl"), "--html", "./q.jsonl?split=test")
    Traceback (most recent call last):
    medvlm_r1.errors.ConfigError: --html "q.jsonl" is a file that is read; name another to write
    """
    for place in given:
        if place and out.resolve() in {Path(text).resolve() for text in (str(place), str(place).partition("?")[0], str(place).partition("#")[0])}:
            raise ConfigError(f'{option} "{out}" is a file that is read; name another to write')


def open_raw(path: Path) -> io.RawIOBase:
    """``path`` for appending, without a buffer: an error belongs to the write that caused it."""
    return path.open("ab", buffering=0)


class AppendFile:
    """A file that is appended to; ``opener`` lets a test stand in for the disk, ``errors`` names the remedies of a disk's errors."""

    def __init__(self, path: Path, opener: Callable[[Path], io.RawIOBase] = open_raw, errors: Callable[[Path], AbstractContextManager[None]] = disk_errors):
        self.path, self.errors = path, errors
        with errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = opener(path)

    def append(self, data: bytes, on_disk: bool = False) -> None:
        """Write all of ``data`` at once or none of it, ``on_disk`` before this returns. Raises RunError where the disk is full."""
        with self.errors(self.path):
            whole = self._file.seek(0, io.SEEK_END)
            try:
                while data:
                    data = data[self._file.write(data) :]
                if on_disk:
                    os.fsync(self._file.fileno())  # of the file that is open: to open it again may fail when the line is in it
            except OSError:
                self._file.truncate(whole)  # half a row would spoil the file for every reader
                raise

    def lock(self) -> bool:
        """Claim the file until it is closed; False where somebody else has it, in this process or another."""
        try:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks: nobody can be kept out, and alone it works as ever
            return True
        return True

    def close(self) -> None:
        """Close the file; harmless when done twice."""
        self._file.close()


class JsonLines:
    """JSON rows with rising ``step``, open for appending after ``resumed_step``; a new run (step 0) starts empty."""

    def __init__(self, path: Path, resumed_step: int = 0, opener: Callable[[Path], io.RawIOBase] = open_raw):
        with disk_errors(path):
            if path.exists():
                _truncate(path, _end_of_step(path, resumed_step))
        self._file = AppendFile(path, opener)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write ``rows``, all or none; values that are not finite become null. Raises RunError where the disk is full."""
        text = "".join(json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        self._file.append(utf8(text))

    def close(self) -> None:
        """Close the file; harmless when done twice."""
        self._file.close()


def _end_of_step(path: Path, step: int) -> int:
    """The byte after the last whole row of ``step`` or before; 0 for step 0."""
    end = 0
    with path.open("rb") as file:
        for line in file if step else ():
            if not line.endswith(b"\n"):
                break  # a crash cut the last row off
            try:
                row_step = json.loads(line)["step"]
            except (ValueError, KeyError, TypeError) as error:
                raise RunError(f'"{path}" holds a line that is no row, at byte {end}; mend it or move the file away, then resume') from error
            if row_step > step:
                break
            end += len(line)
    return end


def _truncate(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def _finite(value: Any) -> Any:
    """JSON knows no NaN: null in its place, in nested rows too."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a file of JSON Lines; none where there is no file. A last row that a crash cut off is none."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="\n") as file:  # splitlines would cut a text at U+2028 too
        return [json.loads(line) for line in file if line.endswith("\n")]
