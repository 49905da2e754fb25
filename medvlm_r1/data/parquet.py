"""Parquet files as the hub lays them out: their rows, and the pictures inside. The only module that needs pyarrow.

A picture stays in its file and is opened when it is asked for, by the reference
``parquet:FILE#row=17``: nothing is copied, so there is no second set that could differ.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from medvlm_r1.errors import DataError, ImageError, MedVLMError, install

PICTURES = ("image", "images", "picture")  # columns that may hold pictures
SCHEME = "parquet"


@dataclass(frozen=True)
class Embedded:
    """An encoded picture inside a table, and the reference that opens it.

    >>> Embedded(b"...", "parquet:data/test-00000-of-00001.parquet#row=17").reference
    'parquet:data/test-00000-of-00001.parquet#row=17'
    """

    data: bytes = field(repr=False)
    reference: str


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Every row, its pictures as ``Embedded``. Raises DataError where the file is broken or pyarrow is missing."""
    with _errors(path):
        number = 0
        for batch in _open(path).iter_batches(batch_size=256):
            for row in batch.to_pylist():
                yield row | {name: embedded(row[name], f"{SCHEME}:{path}#row={number}") for name in PICTURES if name in row}
                number += 1


def embedded(cell: Any, reference: str) -> Any:
    """A cell with its encoded pictures marked; whatever else stands in it stays.

    >>> embedded({"bytes": b"...", "path": "a.png"}, "parquet:t.parquet#row=0")
    Embedded(reference='parquet:t.parquet#row=0')
    >>> embedded([b"...", "b.png"], "parquet:t.parquet#row=0")
    [Embedded(reference='parquet:t.parquet#row=0&picture=0'), 'b.png']
    """
    if isinstance(cell, list):
        return [embedded(item, f"{reference}&picture={n}") for n, item in enumerate(cell)]
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    return Embedded(content, reference) if isinstance(content, bytes) and content else cell


def picture(reference: str) -> tuple[bytes, str]:
    """(encoded picture, place in it) behind a reference. Raises ImageError where there is none."""
    name, _, at = reference.removeprefix(f"{SCHEME}:").rpartition("#")
    path = Path(name)
    try:
        if not path.is_file():
            raise DataError(f'"{path}" is missing')
        with _errors(path):
            marked = embedded(_cell(path, _number(at, "row")), f"{SCHEME}:{name}#row={_number(at, 'row')}")
    except DataError as error:
        raise ImageError(f'image "{reference}": {error}') from error
    for item in marked if isinstance(marked, list) else [marked]:
        if isinstance(item, Embedded) and item.reference == reference:
            return item.data, ""
    raise ImageError(f'image "{reference}": there is no picture in that row; make the question set again from its source')


def _number(at: str, key: str) -> int:
    value = dict(pair.split("=", 1) for pair in at.split("&") if "=" in pair).get(key, "")
    if not value.isdecimal():
        raise DataError(f'"#{at}" names no {key}; write #{key}=0')
    return int(value)


def _cell(path: Path, row: int) -> Any:
    changed_ns = path.stat().st_mtime_ns
    for group, (first, n) in enumerate(_groups(path, changed_ns)):
        if first <= row < first + n:
            return _column(path, changed_ns, group)[row - first].as_py()
    raise DataError(f'"{path}" has no row {row}')


@lru_cache(maxsize=64)
def _groups(path: Path, changed_ns: int) -> list[tuple[int, int]]:
    """(first row, number of rows) of each row group, the least that can be read."""
    metadata, found, first = _open(path).metadata, [], 0
    for group in range(metadata.num_row_groups):
        found.append((first, metadata.row_group(group).num_rows))
        first += found[-1][1]
    return found


@lru_cache(maxsize=2)
def _column(path: Path, changed_ns: int, group: int) -> Any:
    """The pictures of one row group, kept since pictures are mostly opened in order."""
    file = _open(path)
    names = [name for name in PICTURES if name in file.schema_arrow.names]
    if not names:
        raise DataError(f'"{path}" has no column {" or ".join(PICTURES)}')
    return file.read_row_group(group, columns=names[:1]).column(0)


def _open(path: Path) -> Any:
    try:
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise DataError(f'"{path}" is a parquet file, which needs pyarrow; {install("pyarrow")}') from error
    return parquet.ParquetFile(path)


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """pyarrow's errors are ValueError, OSError, NotImplementedError and MemoryError by kind."""
    try:
        yield
    except MedVLMError:
        raise
    except (ValueError, OSError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(f'"{path}" cannot be read as parquet ({reason}); copy the file again from its source') from error
