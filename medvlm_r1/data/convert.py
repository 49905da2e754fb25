"""A corpus in its own layout becomes a manifest; what is wrong in it is rejected by id, with the reason."""

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from medvlm_r1.data import hub
from medvlm_r1.data.clean import clean, misplaced, torn
from medvlm_r1.data.images import SCHEMES, place, scheme_of
from medvlm_r1.data.manifest import read_manifest, write_manifest
from medvlm_r1.data.probe import PROBES
from medvlm_r1.data.readers import CORPORA
from medvlm_r1.data.readers.found import Found
from medvlm_r1.data.readers.image_folder import image_folder
from medvlm_r1.data.summary import ids_sha256, summary
from medvlm_r1.data.urls import suffix_of
from medvlm_r1.errors import DataError, ImageError, RunError, nearest
from medvlm_r1.files import digest, utf8
from medvlm_r1.types import LETTERS, Example

Fault = tuple[str, str]  # reason, detail


@dataclass(frozen=True)
class Rejected:
    """A row that stays out: ``reason`` is counted, ``detail`` shows the value.

    >>> Rejected("q7", "train.json: item 8", "answer not among the options", "liver").to_dict()["reason"]
    'answer not among the options'
    """

    id: str
    where: str
    reason: str
    detail: str = ""

    def to_dict(self) -> dict[str, str]:
        """A line of rejected.jsonl."""
        return dict(self.__dict__)


@dataclass
class Converted:
    """The questions and what was done to the rows on the way."""

    examples: list[Example] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    repaired: Counter[str] = field(default_factory=Counter)


def convert(corpus: str, src: Path, out: Path, check: str = "quick", copy: bool = False, layout: str = "") -> dict[str, Any]:
    """Write manifest.jsonl, rejected.jsonl and report.json to ``out``; returns the report.

    ``check`` is one of PROBES. Pictures stay where they are, named relative to the
    manifest, or go to ``out``/images with ``copy``; those that the source embeds always
    go there. ``src`` may be a set of the hub, ``hub:OWNER/NAME``. ``layout`` is for "image-folder"
    alone. Raises DataError where the source as a whole cannot be used.
    """
    for name, known in ((corpus, CORPORA), (check, PROBES)):
        if name not in known:
            raise DataError(f'"{name}" is unknown{nearest(name, known)}')
    for name in ("manifest.jsonl", "manifest.jsonl.gz"):
        if (out / name).exists():
            raise RunError(f'"{out}" already holds a manifest; choose another folder, or remove it')
    reader, name = CORPORA[corpus], str(src)
    if layout and corpus != "image-folder":
        raise DataError(f'a layout, "{layout}", is of folders of pictures, and {corpus} has its own; leave --layout out')
    if layout:
        reader = partial(image_folder, layout=layout)
    if scheme_of(name) == "hub":
        src = hub.fetch(name.removeprefix("hub:"))
    done = sift(_placed(reader(src), src, out, copy), check)
    if not done.examples:
        first = f' (the first: {done.rejected[0].where}, {done.rejected[0].reason}, "{done.rejected[0].detail}")' if done.rejected else ""
        raise DataError(f'no row of "{name}" can be used as {corpus}: {len(done.rejected)} rejected{first}; check the layout in docs/data.md')
    out.mkdir(parents=True, exist_ok=True)
    (out / "rejected.jsonl").write_bytes(utf8("".join(json.dumps(row.to_dict(), ensure_ascii=False) + "\n" for row in done.rejected)))
    write_manifest(out / "manifest.jsonl", done.examples)
    read_manifest(out / "manifest.jsonl", {})  # it passes the check that every later command makes
    report = _report(corpus, Path(name), check, done)
    (out / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return report


def sift(found: Iterable[Found], check: str = "none") -> Converted:
    """Sort the rows of a source into questions and rejected ones, by the rules of ``fault_of`` and ``_identify``."""
    done = Converted()
    row_of_id: dict[str, tuple[Example, str]] = {}
    probed: dict[str, Fault | None] = {}
    for row in found:
        example, kinds = clean(row.example)
        fault = (row.fault, example.answer) if row.fault else fault_of(example) or _picture_fault(example, check, probed)
        if not fault:
            example, fault = _identify(example, row_of_id, row.where)
        if fault:
            done.rejected.append(Rejected(example.id, row.where, *fault))
            continue
        done.repaired.update([*kinds, *(["id repeated, numbered"] if example.id != row.example.id else [])])
        done.examples.append(example)
    return done


def fault_of(example: Example) -> Fault | None:
    """(reason, detail) why a question cannot be asked or scored, or None.

    A distractor that stands twice passes; the audit finds it. An answer that
    stands twice has two right letters.

    >>> ask = lambda options, answer: Example("q1", ("a.png",), "Finding?", options, answer, "ct")
    >>> fault_of(ask(("cyst", "mass"), "liver"))
    ('answer not among the options', 'liver')
    >>> fault_of(ask(("cyst",), "cyst")), fault_of(ask(("cyst", "mass", "cyst"), "cyst"))
    (('fewer than 2 options', 'cyst'), ('answer stands twice among the options', 'cyst'))
    >>> fault_of(ask(("mass", "mass", "cyst"), "cyst")), fault_of(ask((), "cyst"))
    (None, None)
    """
    n_options = len(example.options)
    faults = (
        (bool(half := torn(example)), "half a character", half),
        (not example.id, "no id", example.question),
        (not example.question, "no question", ""),
        (not example.answer, "no answer", example.question),
        (not example.images, "no image", ""),
        (n_options == 1, "fewer than 2 options", " | ".join(example.options)),
        (n_options > len(LETTERS), f"more than {len(LETTERS)} options", str(n_options)),
        (n_options and example.answer not in example.options, "answer not among the options", example.answer),
        (bool(tag := misplaced(example)), "picture tag inside a text", tag),
        (example.options.count(example.answer) > 1, "answer stands twice among the options", example.answer),
    )
    return next(((reason, detail) for is_wrong, reason, detail in faults if is_wrong), None)


def _picture_fault(example: Example, check: str, probed: dict[str, Fault | None]) -> Fault | None:
    for reference in example.images:
        if reference not in probed:
            try:
                PROBES[check](reference)
                probed[reference] = None
            except ImageError as error:
                is_here = scheme_of(reference) in SCHEMES or Path(place(reference)[0]).exists()
                probed[reference] = ("image broken" if is_here else "image missing", str(error))
        if probed[reference]:
            return probed[reference]
    return None


def _identify(example: Example, row_of_id: dict[str, tuple[Example, str]], where: str) -> tuple[Example, Fault | None]:
    """Gives a repeated id a number in order of the source; a row that repeats all of another is rejected."""
    wanted, number = example.id, 1
    while example.id in row_of_id:
        other, place_of_other = row_of_id[example.id]
        if example == other:
            return example, ("repeats another row", place_of_other)
        number += 1
        example = replace(example, id=f"{wanted}~{number}")
    row_of_id[example.id] = (example, where)
    return example, None


def _placed(found: Iterable[Found], src: Path, out: Path, copy: bool) -> Iterator[Found]:
    """The rows with their pictures where the manifest will name them."""
    base = src if src.is_dir() else src.parent
    done: dict[Path, str] = {}  # where a picture lies now, and where it lay
    for row in found:
        images = tuple(_unpack(picture.data, out) for picture in row.embedded) + row.example.images
        if copy:
            images = tuple(_copy(reference, base, out, done) for reference in images)
        yield replace(row, example=replace(row.example, images=images))


def _unpack(picture: bytes, out: Path) -> str:
    path = out / "images" / f"{hashlib.sha256(picture).hexdigest()[:16]}{suffix_of(picture) or '.bin'}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)
    return str(path)


def _copy(reference: str, base: Path, out: Path, done: dict[Path, str]) -> str:
    if scheme_of(reference) in SCHEMES:
        return reference
    name, _ = place(reference)
    target = out / "images" / re.sub(r"^(\.\./)+", "", Path(os.path.relpath(name, base)).as_posix())
    if done.get(target, name) != name:  # another folder's picture of this name
        target = target.with_name(f"{digest(str(Path(name).parent))[:8]}-{target.name}")
    if target not in done and Path(name).is_file() and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(name, target)
    done[target] = name
    return f"{target}{reference[len(name) :]}" if Path(name).is_file() else reference


def _report(corpus: str, src: Path, check: str, done: Converted) -> dict[str, Any]:
    reasons = Counter(row.reason for row in done.rejected)
    return {
        "corpus": corpus,
        "from": src.resolve().name,
        "rows": len(done.examples) + len(done.rejected),
        "questions": len(done.examples),
        "rejected": dict(reasons.most_common()),
        "repaired": dict(done.repaired.most_common()),
        "images_checked": check,
        "ids_sha256": ids_sha256(done.examples),
        **{key: value for key, value in summary(done.examples).items() if key != "questions"},
    }
