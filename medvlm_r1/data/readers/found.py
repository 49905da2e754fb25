"""What a reader hands over, and how it reads tables: JSON, JSON Lines, CSV, and parquet where pyarrow is installed."""

import ast
import csv
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from medvlm_r1.data import parquet
from medvlm_r1.data.lines import document, objects, text_lines
from medvlm_r1.data.parquet import Embedded
from medvlm_r1.errors import DataError
from medvlm_r1.types import Example

TABLES = (".json", ".jsonl", ".csv", ".parquet")
csv.field_size_limit(2**24)  # captions of figures run beyond the default of 128 KiB


@dataclass(frozen=True)
class Found:
    """One row of a source as it stands there, before it is checked.

    ``where`` names the row. ``embedded`` are encoded pictures that the source holds
    itself, beside the paths in ``example.images``. ``fault`` is why the reader gives the row up.

    >>> e = Example("slake-7", ("imgs/xmlab1/source.jpg",), "What organ is this?", (), "Liver", "ct")
    >>> Found("train.json: item 8", e, fault="not English").fault
    'not English'
    """

    where: str
    example: Example
    embedded: tuple[Embedded, ...] = ()
    fault: str = ""


def tables(src: Path, suffixes: tuple[str, ...] = TABLES, layout: str = "") -> list[Path]:
    """``src`` itself, or the tables in and below it, in order of their names. Raises DataError where there is none."""
    if src.is_file():
        return [src]
    if not src.exists():
        raise DataError(f'"{src}" does not exist; {layout}')
    found = sorted(path for suffix in suffixes for path in src.rglob(f"*{suffix}") if path.is_file())
    if not found:
        raise DataError(f'"{src}" holds no {" or ".join(suffixes)} file; {layout}')
    return found


def rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of every row of a table. Raises DataError, naming the place, where the file itself is broken."""
    kind = Path(path.name.removesuffix(".gz")).suffix.lower()
    if kind not in _READ:
        raise DataError(f'"{path}" is no table; give one of {", ".join(TABLES)}')
    try:
        for number, row in enumerate(_READ[kind](path), start=1):
            if not isinstance(row, dict):
                raise DataError(f"{path}: item {number} must be a JSON object {{…}}, got {json.dumps(row)[:60]}")
            yield f"{path.name}: item {number}", row
    except csv.Error as error:
        raise DataError(f"{path}: cannot be read ({error}); copy the file again from its source") from error


def text(row: dict[str, Any], *names: str) -> str:
    """The first of these keys that holds something, as text without spaces around it.

    >>> text({"modality": " MR ", "n": 3, "option_C": None, "option_D": float("nan")}, "modality_type", "modality")
    'MR'
    >>> text({"n": 3}, "n"), text({"option_C": None}, "option_C"), text({"option_D": float("nan")}, "option_D")
    ('3', '', '')
    >>> text({"answer": True}, "answer")  # to "Is it normal?", or to "True or false?"
    ''
    """
    for name in names:
        value = row.get(name)
        if value is not None and value == value and not isinstance(value, bool) and str(value).strip():  # a missing cell of a CSV or parquet file is NaN
            return str(value).strip()
    return ""


NO_LIST = "options are no list"


def listed(cell: Any) -> Any:
    """What a cell of options holds: a table of texts writes its lists as JSON or as Python does. A text that is no list stays one.

    >>> listed('["left", "right"]'), listed("['left', 'right']"), listed("left; right"), listed(None)
    (['left', 'right'], ['left', 'right'], 'left; right', None)
    """
    if not isinstance(cell, str):
        return cell
    try:
        found = ast.literal_eval(cell.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return cell
    return found if isinstance(found, list | dict) else cell


def pictures(value: Any) -> tuple[tuple[str, ...], tuple[Embedded, ...]]:
    """(paths, encoded pictures) of an image cell: a path, several, or what the hub keeps in parquet.

    >>> pictures("a.png"), pictures([{"bytes": None, "path": "a.png"}])
    ((('a.png',), ()), (('a.png',), ()))
    """
    cells = value if isinstance(value, list | tuple) else [value]
    embedded = tuple(cell for cell in cells if isinstance(cell, Embedded))
    paths = [cell.get("path") if isinstance(cell, dict) else cell for cell in cells]
    return (() if embedded else tuple(path for path in paths if isinstance(path, str) and path)), embedded


def group_of(paths: Sequence[str], embedded: Sequence[Embedded]) -> str:
    """The group of a question whose patient nobody knows: its first picture, by name or content."""
    return hashlib.sha256(embedded[0].data).hexdigest()[:16] if embedded else (*paths, "")[0]


def closed(answer: str) -> tuple[tuple[str, ...], str]:
    """(options, answer): yes/no questions get their two options, all others stay open.

    >>> closed("Yes"), closed("left lung")
    ((('yes', 'no'), 'yes'), ((), 'left lung'))
    """
    plain = answer.lower().rstrip(". ")
    return (("yes", "no"), plain) if plain in ("yes", "no") else ((), answer)


def plain(name: str) -> str:
    """A name as a filter can be typed.

    >>> plain("Modality Recognition"), plain("Other Biological Attributes")
    ('modality-recognition', 'other-biological-attributes')
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _json(path: Path) -> Iterator[Any]:
    content = document(path)
    return iter(content if isinstance(content, list) else [content])


def _jsonl(path: Path) -> Iterator[Any]:
    return (row for _, row in objects(path))


def _csv(path: Path) -> Iterator[Any]:
    lines = (f"{line}\n" for _, line in text_lines(path))
    head = next(lines, "")
    yield from csv.DictReader(chain([head], lines), delimiter=max(",;\t", key=head.count))  # where the comma stands in numbers, tables have semicolons


_READ = {".json": _json, ".jsonl": _jsonl, ".csv": _csv, ".parquet": parquet.rows}
