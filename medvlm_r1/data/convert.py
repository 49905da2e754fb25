"""A corpus in its own layout becomes a manifest; what is wrong in it is rejected by id, with the reason."""

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medvlm_r1.data.images import place
from medvlm_r1.data.manifest import read_manifest, write_manifest
from medvlm_r1.data.probe import PROBES
from medvlm_r1.data.readers import CORPORA
from medvlm_r1.data.readers.found import Found
from medvlm_r1.data.summary import ids_sha256, summary
from medvlm_r1.errors import DataError, ImageError, RunError, nearest
from medvlm_r1.types import LETTERS, Example

_MAGIC = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"II*\x00": ".tif", b"MM\x00*": ".tif", b"BM": ".bmp"}


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


def convert(corpus: str, src: Path, out: Path, check: str = "quick", copy: bool = False) -> dict[str, Any]:
    """Write manifest.jsonl, rejected.jsonl and report.json to ``out``; returns the report.

    ``check`` is one of PROBES. Pictures stay where they are, named relative to the
    manifest, or go to ``out``/images with ``copy``; those that the source embeds always
    go there. Raises DataError where the source as a whole cannot be used.
    """
    for name, known in ((corpus, CORPORA), (check, PROBES)):
        if name not in known:
            raise DataError(f'"{name}" is unknown{nearest(name, known)}')
    for name in ("manifest.jsonl", "manifest.jsonl.gz"):
        if (out / name).exists():
            raise RunError(f'"{out}" already holds a manifest; choose another folder, or remove it')
    done = sift(_placed(CORPORA[corpus](src), src, out, copy), check)
    if not done.examples:
        first = f' (the first: {done.rejected[0].where}, {done.rejected[0].reason}, "{done.rejected[0].detail}")' if done.rejected else ""
        raise DataError(f'no row of "{src}" can be used as {corpus}: {len(done.rejected)} rejected{first}; check the layout in docs/data.md')
    out.mkdir(parents=True, exist_ok=True)
    with (out / "rejected.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row.to_dict(), ensure_ascii=False) + "\n" for row in done.rejected)
    write_manifest(out / "manifest.jsonl", done.examples)
    read_manifest(out / "manifest.jsonl", {})  # it passes the check that every later command makes
    report = _report(corpus, src, check, done)
    (out / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return report


def sift(found: Iterable[Found], check: str = "none") -> Converted:
    """Sort the rows of a source into questions and rejected ones, by the rules of ``fault_of`` and ``_identify``."""
    done, row_of_id, probed = Converted(), {}, {}
    for row in found:
        example, kinds = repair(row.example)
        reason, detail = (row.fault, example.answer) if row.fault else fault_of(example) or _picture_fault(example, check, probed)
        if not reason:
            example, reason, detail = _identify(example, row_of_id, row.where)
        if reason:
            done.rejected.append(Rejected(example.id, row.where, reason, detail))
            continue
        done.repaired.update([*kinds, *(["id repeated, numbered"] if example.id != row.example.id else [])])
        done.examples.append(example)
    return done


def repair(example: Example) -> tuple[Example, list[str]]:
    """The answer as its option spells it, and what was changed.

    >>> e = Example("q1", ("a.png",), "Finding?", ("Pleural effusion.", "Mass"), "pleural Effusion", "xray")
    >>> repaired, kinds = repair(e)
    >>> repaired.answer, kinds
    ('Pleural effusion.', ['answer spelled otherwise'])
    """
    if not example.options or example.answer in example.options:
        return example, []
    same = [option for option in example.options if _normal(option) == _normal(example.answer)]
    return (replace(example, answer=same[0]), ["answer spelled otherwise"]) if len(set(same)) == 1 else (example, [])


def fault_of(example: Example) -> tuple[str, str]:
    """(reason, detail) why a question cannot be asked or scored, or ("", "").

    A distractor that stands twice passes; the audit finds it. An answer that
    stands twice has two right letters.

    >>> ask = lambda options, answer: Example("q1", ("a.png",), "Finding?", options, answer, "ct")
    >>> fault_of(ask(("cyst", "mass"), "liver"))
    ('answer not among the options', 'liver')
    >>> [fault_of(ask(*row))[0] for row in ((("cyst",), "cyst"), (("cyst", "mass", "cyst"), "cyst"), (("mass", "mass", "cyst"), "cyst"), ((), "cyst"))]
    ['fewer than 2 options', 'answer stands twice among the options', '', '']
    """
    n_options = len(example.options)
    faults = (
        (not example.id, "no id", example.question),
        (not example.question, "no question", ""),
        (not example.answer, "no answer", example.question),
        (not example.images, "no image", ""),
        (n_options == 1, "fewer than 2 options", " | ".join(example.options)),
        (n_options > len(LETTERS), f"more than {len(LETTERS)} options", str(n_options)),
        (n_options and example.answer not in example.options, "answer not among the options", example.answer),
        (example.options.count(example.answer) > 1, "answer stands twice among the options", example.answer),
    )
    return next(((reason, detail) for is_wrong, reason, detail in faults if is_wrong), ("", ""))


def _picture_fault(example: Example, check: str, probed: dict[str, tuple[str, str]]) -> tuple[str, str]:
    for reference in example.images:
        if reference not in probed:
            try:
                PROBES[check](reference)
                probed[reference] = ("", "")
            except ImageError as error:
                probed[reference] = ("image missing" if not Path(place(reference)[0]).exists() else "image broken", str(error))
        if probed[reference][0]:
            return probed[reference]
    return "", ""


def _identify(example: Example, row_of_id: dict[str, tuple[Example, str]], where: str) -> tuple[Example, str, str]:
    """Gives a repeated id a number in order of the source; a row that repeats all of another is rejected."""
    wanted, number = example.id, 1
    while example.id in row_of_id:
        other, place_of_other = row_of_id[example.id]
        if example == other:
            return example, "repeats another row", place_of_other
        number += 1
        example = replace(example, id=f"{wanted}~{number}")
    row_of_id[example.id] = (example, where)
    return example, "", ""


def _placed(found: Iterable[Found], src: Path, out: Path, copy: bool) -> Iterator[Found]:
    """The rows with their pictures where the manifest will name them."""
    base = src if src.is_dir() else src.parent
    done: set[str] = set()
    for row in found:
        images = tuple(_unpack(picture, out) for picture in row.embedded) + row.example.images
        if copy:
            images = tuple(_copy(reference, base, out, done) for reference in images)
        yield replace(row, example=replace(row.example, images=images))


def _unpack(picture: bytes, out: Path) -> str:
    suffix = next((suffix for magic, suffix in _MAGIC.items() if picture.startswith(magic)), ".bin")
    path = out / "images" / f"{hashlib.sha256(picture).hexdigest()[:16]}{suffix}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)
    return str(path)


def _copy(reference: str, base: Path, out: Path, done: set[str]) -> str:
    name, _ = place(reference)
    target = out / "images" / re.sub(r"^(\.\./)+", "", Path(os.path.relpath(name, base)).as_posix())
    if name not in done and Path(name).is_file() and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(name, target)
    done.add(name)
    return f"{target}{reference[len(name) :]}" if Path(name).is_file() else reference


def _normal(answer: str) -> str:
    return " ".join(answer.casefold().rstrip(". ").split())


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
