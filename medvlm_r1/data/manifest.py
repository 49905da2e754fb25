"""The manifest: JSON Lines, one question a line, plain or gzipped."""

import dataclasses
import difflib
import gzip
import json
import os
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from medvlm_r1.data.images import SCHEMES, scheme_of
from medvlm_r1.errors import DataError, nearest
from medvlm_r1.types import LETTERS, Example

FIELDS = tuple(field.name for field in dataclasses.fields(Example))
_REQUIRED = ("id", "image", "question", "options", "answer", "modality")
_TEXTS = ("id", "question", "answer", "modality", "question_type", "group", "source", "reasoning", "split")


def read_manifest(path: Path, filters: dict[str, str]) -> list[Example]:
    """The questions of a manifest whose keys have the wanted values, in order.

    Image paths become relative to the manifest's folder. Every line is checked,
    also those that the filter leaves out. A filter may name any key of the file
    (``split`` too). Raises DataError naming file and line.
    """
    examples: list[Example] = []
    line_of_id: dict[str, int] = {}
    seen: dict[str, set[str]] = {key: set() for key in filters}
    keys: set[str] = set()
    for number, line in _lines(path):
        where = f"{path}:{number}"
        row = _row(line, where)
        example = _example(row, where, path.parent)
        if example.id in line_of_id:
            raise DataError(f'{where}: the id "{example.id}" already stands in line {line_of_id[example.id]}; give every question its own')
        line_of_id[example.id] = number
        keys.update(row)
        for key in filters:
            seen[key].add(str(row.get(key)))
        if all(str(row.get(key)) == value for key, value in filters.items()):
            examples.append(example)
    if not line_of_id:
        raise DataError(f"{path} is empty; write one question a line")
    if not examples:
        _explain_empty(path, filters, keys, seen)
    return examples


def write_manifest(path: Path, examples: Iterable[Example]) -> None:
    """One line a question, image paths relative to the manifest's folder; gzipped if ``path`` ends in .gz.

    The file appears whole or not at all, and the same questions give the same bytes.
    """
    folder = path.parent.resolve()
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as raw:
        packed = gzip.GzipFile("", "wb", mtime=0, fileobj=raw) if path.suffix == ".gz" else raw
        with packed as file:
            for example in examples:
                file.write((json.dumps(to_row(example, folder), ensure_ascii=False) + "\n").encode())
    partial.replace(path)


def to_row(example: Example, folder: Path) -> dict[str, Any]:
    """A question as a line of a manifest in ``folder``.

    >>> e = Example("q1", ("data/a.png",), "Which plane?", ("axial", "coronal"), "axial", "mri", split="test")
    >>> to_row(e, Path("data").resolve())["image"], to_row(e, Path("out").resolve())["image"], to_row(e, Path("out").resolve())["split"]
    (['a.png'], ['../data/a.png'], 'test')
    """
    row: dict[str, Any] = {"id": example.id, "image": [_relative(reference, folder) for reference in example.images]}
    for key in FIELDS:
        value = getattr(example, key)
        if key not in ("id", "images") and (value or key in _REQUIRED):
            row[key] = list(value) if isinstance(value, tuple) else value
    return row


def _relative(reference: str, folder: Path) -> str:
    if scheme_of(reference) in SCHEMES:
        return reference
    return Path(os.path.relpath(reference, folder)).as_posix()


def _explain_empty(path: Path, filters: dict[str, str], keys: set[str], seen: dict[str, set[str]]) -> None:
    for key, value in filters.items():
        if key not in keys:
            raise DataError(f'{path}: cannot filter by "{key}", no line has that key{nearest(key, keys)}')
        if value not in seen[key]:
            raise DataError(f'{path}: no line has {key}="{value}"{nearest(value, seen[key])}')
    wanted = "&".join(f"{key}={value}" for key, value in filters.items())
    raise DataError(f'{path}: no line passes the whole filter "{wanted}"; drop a part of it')


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                text = line.decode("utf-8-sig")
                if text.strip():
                    yield number, text
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number}: not UTF-8 ({error.reason} at byte {error.start}); save the file as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}:{number + 1}: cannot be read ({error}); copy the file again from its source") from error


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(f"{where}: no JSON ({reason}): {_short(line.strip())}; write one JSON object a line") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: a line must be a JSON object {{…}}, got {_short(line.strip())}; write one question a line")
    for key in _REQUIRED:
        if key not in row:
            raise DataError(f'{where}: the key "{key}" is missing{_in_its_place(key, row)}')
    return row


def _in_its_place(key: str, row: dict[str, Any]) -> str:
    close = difflib.get_close_matches(key, row.keys() - {*_REQUIRED, *_TEXTS}, n=1)
    return f'; rename "{close[0]}" to "{key}"' if close else f"; the line has {', '.join(sorted(row)) or 'no key'}"


def _example(row: dict[str, Any], where: str, folder: Path) -> Example:
    texts = {key: row.get(key, "") for key in _TEXTS}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise DataError(f'{where}: "{key}" must be a text, got {_short(json.dumps(value))}; put it in quotes')
    for key in ("id", "question", "modality"):
        if not texts[key].strip():
            raise DataError(f'{where}: "{key}" is empty; every question needs one')
    images = [row["image"]] if isinstance(row["image"], str) else row["image"]
    if not _is_texts(images) or not all(images):
        got = _short(json.dumps(row["image"]))
        raise DataError(f'{where}: "image" must be a path or a list of paths, got {got}; write "image": ["images/1.png"]')
    _check_options(row["options"], row["answer"], where)
    # Interned: the same few texts stand in every line.
    return Example(
        **{key: value if key == "id" else sys.intern(value) for key, value in texts.items()},
        images=tuple(_resolve(reference, folder) for reference in images),
        options=tuple(sys.intern(option) for option in row["options"]),
    )


def _check_options(options: Any, answer: str, where: str) -> None:
    if not _is_texts(options):
        raise DataError(f'{where}: "options" must be a list of texts, got {_short(json.dumps(options))}; write ["left", "right"], or [] for free text')
    if not options and not answer.strip():
        raise DataError(f'{where}: "answer" is empty; a question without options needs a free text')
    if options and not 2 <= len(options) <= len(LETTERS):
        raise DataError(f"{where}: {len(options)} options, {_short(json.dumps(options))}; give 2 to {len(LETTERS)}, or [] for free text")
    if options and answer not in options:
        raise DataError(f'{where}: the answer "{answer}" is not among the options{nearest(answer, options)}; it must be an option\'s text, not its letter')
    # Repeated options pass: OmniMedVQA has 86 such items, and finding them is the audit's task.


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _resolve(reference: str, folder: Path) -> str:
    return reference if scheme_of(reference) in SCHEMES else str(folder / reference)


def _short(text: str, width: int = 80) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
