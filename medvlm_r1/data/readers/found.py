"""What a reader hands over, and how it reads tables: JSON, JSON Lines, CSV, and parquet where pyarrow is installed."""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlm_r1.errors import DataError
from medvlm_r1.types import Example

TABLES = (".json", ".jsonl", ".csv", ".parquet")
_SPLIT = re.compile(r"(?<![a-z])(train|test|val|valid|validation|dev)(?:ing)?(?![a-z])")
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
    embedded: tuple[bytes, ...] = ()
    fault: str = ""


def tables(src: Path, suffixes: tuple[str, ...] = TABLES, layout: str = "") -> list[Path]:
    """``src`` itself, or the tables in and below it, in order of their names. Raises DataError where there is none."""
    if src.is_file():
        return [src]
    found = sorted(path for suffix in suffixes for path in src.rglob(f"*{suffix}") if path.is_file())
    if not found:
        raise DataError(f'"{src}" {"holds" if src.is_dir() else "does not exist; it should hold"} no {" or ".join(suffixes)} file; {layout}')
    return found


def rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of every row of a table. Raises DataError, naming the place, where the file itself is broken."""
    if path.suffix.lower() not in _READ:
        raise DataError(f'"{path}" is no table; give one of {", ".join(TABLES)}')
    try:
        for number, row in enumerate(_READ[path.suffix.lower()](path), start=1):
            if not isinstance(row, dict):
                raise DataError(f"{path}: item {number} must be a JSON object {{…}}, got {json.dumps(row)[:60]}")
            yield f"{path.name}: item {number}", row
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}); copy the file again from its source") from error


def text(row: dict[str, Any], *names: str) -> str:
    """The first of these keys that holds something, as text without spaces around it.

    >>> text({"modality": " MR ", "n": 3, "option_C": None, "option_D": float("nan")}, "modality_type", "modality")
    'MR'
    >>> text({"n": 3}, "n"), text({"option_C": None}, "option_C"), text({"option_D": float("nan")}, "option_D")
    ('3', '', '')
    """
    for name in names:
        value = row.get(name)
        if value is not None and value == value and str(value).strip():  # a missing cell of a CSV or parquet file is NaN
            return str(value).strip()
    return ""


def pictures(value: Any) -> tuple[tuple[str, ...], tuple[bytes, ...]]:
    """(paths, encoded pictures) of an image cell: a path, several, or what the hub keeps in parquet.

    >>> pictures("a.png"), pictures({"bytes": b"...", "path": "a.png"})
    ((('a.png',), ()), ((), (b'...',)))
    """
    cells = value if isinstance(value, list | tuple) else [value]
    embedded = tuple(cell["bytes"] for cell in cells if isinstance(cell, dict) and isinstance(cell.get("bytes"), bytes))
    paths = [cell.get("path") if isinstance(cell, dict) else cell for cell in cells]
    return (() if embedded else tuple(path for path in paths if isinstance(path, str) and path)), embedded


def closed(answer: str) -> tuple[tuple[str, ...], str]:
    """(options, answer): yes/no questions get their two options, all others stay open.

    >>> closed("Yes"), closed("left lung")
    ((('yes', 'no'), 'yes'), ((), 'left lung'))
    """
    plain = answer.lower().rstrip(". ")
    return (("yes", "no"), plain) if plain in ("yes", "no") else ((), answer)


def split_of(path: Path) -> str:
    """The split that a file's name tells.

    >>> [split_of(Path(name)) for name in ("train.json", "test_clean.csv", "validation-00000-of-00001.parquet", "trained.json")]
    ['train', 'test', 'validation', '']
    """
    match = _SPLIT.search(path.name.lower())
    return {"val": "validation", "valid": "validation", "dev": "validation"}.get(match[1], match[1]) if match else ""


def plain(name: str) -> str:
    """A name as a filter can be typed.

    >>> plain("Modality Recognition"), plain("Other Biological Attributes")
    ('modality-recognition', 'other-biological-attributes')
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _json(path: Path) -> Iterator[Any]:
    content = json.loads(path.read_text("utf-8-sig"))
    return iter(content if isinstance(content, list) else [content])


def _jsonl(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig") as file:
        yield from (json.loads(line) for line in file if line.strip())


def _csv(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)


def _parquet(path: Path) -> Iterator[Any]:
    try:
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise DataError(f'"{path}" is a parquet file; pip install pyarrow, or export it to JSON Lines with the pictures beside it') from error
    for batch in parquet.ParquetFile(path).iter_batches(batch_size=256):
        yield from batch.to_pylist()


_READ = {".json": _json, ".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
