"""The rows of a text file, by what it holds and not by its name: plain or gzipped, UTF-8 or what its byte order mark says, lines or one array."""

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from medvlm_r1.errors import DataError

# UTF-32's mark begins with that of UTF-16.
_MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_OTHERS = {
    b"PK\x03\x04": "a zip archive or a spreadsheet", b"\xfd7zXZ": "an xz archive", b"BZh": "a bzip2 archive", b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"7z\xbc\xaf": "a 7z archive", b"PAR1": "a parquet file", b"SQLite": "a database",
}  # fmt: skip
_REMEDY = "write one JSON object a line, or all of them in one array"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ: of two answers one would be lost without a word."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f'the key "{next(name for name in names if names.count(name) > 1)}" stands there twice')
    return row


_PLAIN, _STRICT = json.JSONDecoder(), json.JSONDecoder(object_pairs_hook=_once)


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, text) of every line, from 1, without its end. Raises DataError naming the line that cannot be read."""
    number = 0
    try:
        with path.open("rb") as raw:
            file = _text(raw, path)
            for number, line in enumerate(_split(file), start=1):
                yield number, line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{max(number, 1)}: not UTF-8 ({error.reason} at byte {error.start}); save the file as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}:{number + 1}: cannot be read ({error}); copy the file again from its source") from error


def objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of a file of JSON objects: one a line, or all of them in one array. Raises DataError naming the place."""
    filled = ((number, line) for number, line in text_lines(path) if line.strip())
    first = next(filled, None)
    if first and first[1].lstrip().startswith("["):
        text = "\n".join([first[1], *(line for _, line in filled)])
        for number, row in enumerate(_parsed(text, str(path), _STRICT), start=1):
            yield f"{path}: item {number}", _object(row, f"{path}: item {number}")
        return
    for number, line in (first, *filled) if first else ():
        where = f"{path}:{number}"
        yield where, _object(_parsed(line, where, _STRICT), where)


def document(path: Path) -> Any:
    """The whole file as one JSON value. Raises DataError."""
    return _parsed("\n".join(line for _, line in text_lines(path)), str(path), remedy="copy the file again from its source")


def short(text: str, width: int = 80) -> str:
    """The beginning of a value that an error shows."""
    return text if len(text) <= width else text[: width - 1] + "…"


def _text(raw: BinaryIO, path: Path) -> BinaryIO:
    """The unpacked bytes of the file, as UTF-8."""
    head = raw.read(8)
    raw.seek(0)
    if kind := next((kind for mark, kind in _OTHERS.items() if head.startswith(mark)), ""):
        raise DataError(f"{path} is {kind}, not text; unpack or export it to JSON Lines or CSV")
    if not head.startswith(b"\x1f\x8b"):
        return _in_utf8(raw, head)
    with gzip.open(path) as packed:
        head = packed.read(8)
    return _in_utf8(gzip.open(raw), head)


def _in_utf8(file: Any, head: bytes) -> BinaryIO:
    name = next((name for mark, name in _MARKS.items() if head.startswith(mark)), "")
    return io.BytesIO(file.read().decode(name).encode("utf-8")) if name else file


def _split(file: BinaryIO) -> Iterator[bytes]:
    """Lines that end in \\n, \\r\\n or \\r; no JSON text and no UTF-8 sign holds either byte."""
    for line in file:
        yield from line.rstrip(b"\r\n").split(b"\r") if b"\r" in line else (line.rstrip(b"\n"),)


def _parsed(text: str, where: str, decoder: json.JSONDecoder = _PLAIN, remedy: str = _REMEDY) -> Any:
    try:
        return decoder.decode(text)
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(f"{where}: no JSON ({reason}): {short(text.strip())}; {remedy}") from error


def _object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"{where}: a line must be a JSON object {{…}}, got {short(json.dumps(row))}; write one question a line")
    return row
