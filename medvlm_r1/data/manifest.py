"""The manifest: JSON Lines, one question a line, plain or gzipped."""

import dataclasses
import difflib
import gzip
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medvlm_r1.data.clean import clean, misplaced, torn
from medvlm_r1.data.lines import objects, short
from medvlm_r1.data.references import relative, resolved
from medvlm_r1.errors import DataError, RunError, nearest
from medvlm_r1.types import LETTERS, Example

FIELDS = tuple(field.name for field in dataclasses.fields(Example))
Filters = Mapping[str, tuple[str, ...]]  # key -> the values that pass
_REQUIRED = ("id", "image", "question", "options", "answer", "modality")
_TEXTS = ("id", "question", "answer", "modality", "question_type", "group", "source", "reasoning", "split")
_ELSEWHERE = {  # what other trainers call it
    "id": ("question_id", "qid", "index"), "image": ("images", "image_path", "img_path"), "question": ("problem", "prompt", "query"),
    "options": ("choices", "candidates"), "answer": ("solution", "gt_answer", "ground_truth", "label"), "modality": ("modality_type",),
}  # fmt: skip


def read_manifest(path: Path, filters: Filters) -> tuple[list[Example], list[str]]:
    """The questions of a manifest whose keys have one of the wanted values, in order, and what was cleaned on the way, a sentence a kind.

    Image paths become relative to the manifest's folder. Every line is checked,
    also those that the filter leaves out. A filter may name any key of the file
    (``split`` too). Raises DataError naming file and line.
    """
    examples: list[Example] = []
    place_of_id: dict[str, str] = {}
    seen: dict[str, set[str]] = {key: set() for key in filters}
    keys: set[str] = set()
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for where, row in objects(path):
        example, kinds = _example(row, where, path.parent)
        if example.id in place_of_id:
            raise DataError(f'{where}: the id "{example.id}" already stands in {_spoken(place_of_id[example.id])}; give every question its own')
        place_of_id[example.id] = where
        counts.update(kinds)
        first |= {kind: where for kind in kinds if kind not in first}
        keys.update(row)
        values = {key: getattr(example, key) if key in _TEXTS else str(row.get(key)) for key in filters}
        for key, value in values.items():
            seen[key].add(value)
        if all(value in filters[key] for key, value in values.items()):
            examples.append(example)
    if not place_of_id:
        raise DataError(f"{path} is empty; write one question a line")
    if not examples:
        _explain_empty(path, filters, keys, seen)
    return examples, [f"{path}: {kind} ({n} of {len(place_of_id)}, the first in {_spoken(first[kind])})" for kind, n in counts.most_common()]


def _spoken(where: str) -> str:
    at = where.rpartition(":")[2].strip()
    return f"line {at}" if at.isdecimal() else at


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


def save_manifest(out: Path, examples: Iterable[Example]) -> None:
    """Write ``out``/manifest.jsonl into a new folder; the pictures stay where they are. Raises RunError where there is one already."""
    if (out / "manifest.jsonl").exists():
        raise RunError(f'"{out}" already holds a manifest; choose another folder, or remove it')
    out.mkdir(parents=True, exist_ok=True)
    write_manifest(out / "manifest.jsonl", examples)


def to_row(example: Example, folder: Path) -> dict[str, Any]:
    """A question as a line of a manifest in ``folder``.

    >>> e = Example("q1", ("data/a.png",), "Which plane?", ("axial", "coronal"), "axial", "mri", split="test")
    >>> to_row(e, Path("data").resolve())["image"], to_row(e, Path("out").resolve())["image"], to_row(e, Path("out").resolve())["split"]
    (['a.png'], ['../data/a.png'], 'test')
    """
    row: dict[str, Any] = {"id": example.id, "image": [relative(reference, folder) for reference in example.images]}
    for key in FIELDS:
        value = getattr(example, key)
        if key not in ("id", "images") and (value or key in _REQUIRED):
            row[key] = list(value) if isinstance(value, tuple) else value
    return row


def _explain_empty(path: Path, filters: Filters, keys: set[str], seen: dict[str, set[str]]) -> None:
    for key, values in filters.items():
        if key not in keys:
            raise DataError(f'{path}: cannot filter by "{key}", no line has that key{nearest(key, keys)}')
        if seen[key].isdisjoint(values):
            raise DataError(f'{path}: no line has {key}="{values[0]}"{nearest(values[0], seen[key])}')
    wanted = "&".join(f"{key}={value}" for key, values in filters.items() for value in values)
    raise DataError(f'{path}: no line passes the whole filter "{wanted}"; drop a part of it')


def _example(row: dict[str, Any], where: str, folder: Path) -> tuple[Example, list[str]]:
    for key in _REQUIRED:
        if key not in row:
            raise DataError(f'{where}: the key "{key}" is missing{_in_its_place(key, row)}')
    texts = {key: _text(row.get(key), key, row["options"], where) for key in _TEXTS}
    texts |= {key: sys.intern(value) for key, value in texts.items() if key != "id"}  # the same few stand in every line
    images = [row["image"]] if isinstance(row["image"], str) else row["image"]
    if not _is_texts(images) or not all(images):
        raise DataError(f'{where}: "image" must be a path or a list of paths, got {short(json.dumps(row["image"]))}; write "image": ["images/1.png"]')
    if wrong := next((image for image in images if not image.isprintable() and min(image) < " "), None):
        raise DataError(f'{where}: "image" holds a control character, {short(json.dumps(wrong))}; no file has such a name, write its path')
    options = tuple(map(sys.intern, _options(row["options"], where)))
    raw = Example(**texts, images=tuple(resolved(reference, folder) for reference in images), options=options)
    if half := torn(raw):
        raise DataError(f"{where}: {half}; write the whole character, or take it out")
    example, kinds = clean(raw)
    _check(example, where)
    if example.options.count(example.answer) > 1:  # OmniMedVQA has some, and finding them is the audit's task: they pass
        kinds.append("the answer stands twice among the options, and its first letter alone counts as right")
    return example, kinds


def _in_its_place(key: str, row: dict[str, Any]) -> str:
    if talk := next((name for name in ("conversations", "messages") if name in row), ""):
        return f'; "{talk}" is a conversation, and a line here is one question with its options and its answer (docs/data.md)'
    others = row.keys() - {*_REQUIRED, *_TEXTS}
    close = [name for name in _ELSEWHERE[key] if name in others] or difflib.get_close_matches(key, others, n=1)
    return f'; rename "{close[0]}" to "{key}"' if close else f"; the line has {', '.join(sorted(row)) or 'no key'}"


def _text(value: Any, key: str, options: Any, where: str) -> str:
    """A text; a number where it can only be meant as one; nothing where a key that may be missing holds null or NaN."""
    if isinstance(value, str):
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    if key not in _REQUIRED and (value is None or value != value):
        return ""
    if key == "answer" and is_number and options and not (isinstance(options, list) and value in options):
        raise DataError(f'{where}: "answer" must be an option\'s text, got {value}, which may count from 0 or from 1; write the text')
    if not is_number or key in ("question", "modality"):
        raise DataError(f'{where}: "{key}" must be a text, got {short(json.dumps(value))}; put it in quotes')
    return _number(value)


def _number(value: float) -> str:
    """Tables with gaps turn whole numbers into 3.0, and patient 3 must stay one patient."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _options(options: Any, where: str) -> tuple[str, ...]:
    """A list of texts or numbers, or an object of letters."""
    if isinstance(options, dict) and options and list(options) == list(LETTERS[: len(options)]) and _is_texts(list(options.values())):
        return tuple(f"{letter}) {option}" for letter, option in options.items())
    if isinstance(options, list) and all(type(option) in (int, float) for option in options):
        return tuple(map(_number, options))
    if not _is_texts(options):
        raise DataError(f'{where}: "options" must be a list of texts, got {short(json.dumps(options))}; write ["left", "right"], or [] for free text')
    return tuple(options)


def _check(example: Example, where: str) -> None:
    for key in ("id", "question", "modality"):
        if not getattr(example, key).strip():
            raise DataError(f'{where}: "{key}" is empty; every question needs one')
    if example.modality == "mean":
        raise DataError(f'{where}: the modality "mean" would be taken for the mean over modalities; give it another name')
    options, answer = example.options, example.answer
    if not options and not answer.strip():
        raise DataError(f'{where}: "answer" is empty; a question without options needs a free text')
    if options and not 2 <= len(options) <= len(LETTERS):
        raise DataError(f"{where}: {len(options)} options, {short(json.dumps(options))}; give 2 to {len(LETTERS)}, or [] for free text")
    if options and answer not in options:
        raise DataError(f'{where}: the answer "{answer}" is not among the options{nearest(answer, options)}; it must be an option\'s text, not its letter')
    if fault := misplaced(example):
        raise DataError(f"{where}: {fault}")


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
