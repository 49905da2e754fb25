"""Any folder of labelled pictures, as a question set: which of the labels does this picture show?"""

import os
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from medvlm_r1.data.images import OPENERS, PLACED, kind_of
from medvlm_r1.data.modality import DISPLAY, is_modality, modality_of
from medvlm_r1.data.parts import part_of
from medvlm_r1.data.readers.found import Found, rows, text
from medvlm_r1.data.references import resolved
from medvlm_r1.errors import DataError, nearest
from medvlm_r1.files import utf8
from medvlm_r1.types import Example

MOST_OPTIONS = 4
LAYOUT = "it wants labels.csv (file,label[,modality,split,group]), or folders named by label: [SPLIT/][MODALITY/]LABEL/[PATIENT/]picture.png"
LEVELS = ("split", "modality", "label", "patient", "-")  # what a word of --layout says of a folder; any other word is a folder's own name
_PATIENT = re.compile(r"(?:patient|pat|pt|subject|subj|sub|case|study|series|session|ses|visit|scan)(?:\d|[-_ ]\w*\d)\w*", re.IGNORECASE)
Row = dict[str, str]


def image_folder(src: Path, layout: str = "") -> Iterator[Found]:
    """``labels.csv``, else sub-folders: the last is the label, those above may name split and modality, those named patient-7 its patient.

    ``layout`` says what each folder is, where the names do not: "label/patient". The
    options are the answer and up to three other labels of the same modality, in an
    order drawn from the file's name: a picture gets the same question on every machine.
    """
    if not src.is_dir():
        raise DataError(f'"{src}" is no folder; {LAYOUT}')
    labelled = list(_from_table(src) if (src / "labels.csv").is_file() else _from_folders(src, layout))
    if not labelled:
        raise DataError(f'"{src}" holds no labelled picture; {LAYOUT}')
    labels: dict[str, dict[str, None]] = {}  # in order of appearance, each once
    for _, row in labelled:
        labels.setdefault(row["modality"], {})[row["label"]] = None
    for where, row in labelled:
        known = sorted(label for label in labels[row["modality"]] if label)
        shown = DISPLAY.get(row["modality"], "" if row["modality"] == "unknown" else row["modality"])
        yield Found(
            where,
            Example(
                id=row["file"],
                images=(resolved(row["file"], src),) if row["file"] else (),
                question=f"What does this {shown} image show?".replace("  ", " "),
                options=_options(row["label"], known, row["file"]),
                answer=row["label"],
                modality=row["modality"],
                question_type="label",
                group=row["group"] or row["file"],
                source=src.resolve().name,
                split=row["split"],
            ),
            fault=row.get("fault", "the only label of its modality" if len(known) < 2 else ""),
        )


def _options(label: str, known: list[str], name: str) -> tuple[str, ...]:
    draw = random.Random(utf8(name))
    others = draw.sample([other for other in known if other != label], min(MOST_OPTIONS, len(known)) - 1 if label in known else 0)
    return tuple(draw.sample([label, *others], len(others) + 1))


def _from_table(src: Path) -> Iterator[tuple[str, Row]]:
    for where, row in rows(src / "labels.csv"):
        for key in ("file", "label"):
            if key not in row:
                raise DataError(f'{src / "labels.csv"}: the column "{key}" is missing; {LAYOUT}')
        file = text(row, "file")
        above = _named(Path(file).parts[:-1])
        written = {key: text(row, key) for key in ("label", "modality", "split", "group")}
        modality = modality_of(written["modality"]) if written["modality"] else above["modality"]
        yield where, {"file": file, **written, "modality": modality, "split": written["split"] or above["split"]}


def _from_folders(src: Path, layout: str) -> Iterator[tuple[str, Row]]:
    words = [word for word in layout.split("/") if word]
    if words and words.count("label") != 1:
        raise DataError(f'the layout "{layout}" names the label {words.count("label")} times; write it once, as in "modality/label/patient"{_mistyped(words)}')
    found = [file for file in _pictures(src) if len(file.parts) > 1]
    # A folder in which all pictures lie tells them not apart.
    shared = {part for part, n in Counter(part for file in found for part in set(file.parts[:-2])).items() if n == len(found)}
    for file in found:
        folders = file.parts[:-1]
        row = _as_told(folders, words) if words else _as_named(folders, shared, file)
        yield file.as_posix(), {"file": file.as_posix(), **row}


def _mistyped(words: Sequence[str]) -> str:
    strange = [word for word in words if word not in LEVELS]
    return nearest(strange[0], LEVELS) if strange else ""


def _pictures(src: Path) -> Iterator[Path]:
    """Every picture below the folder, in order of the names; what macOS hides beside them is none."""
    for folder, names, files in os.walk(src):
        names[:] = sorted(name for name in names if name != "__MACOSX" and not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and kind_of(Path(folder, name)) in {*OPENERS, *PLACED}:
                yield Path(folder, name).relative_to(src)


def _as_told(folders: Sequence[str], words: Sequence[str]) -> Row:
    """What a layout says of these folders; a fault for a picture that does not lie as it says.

    >>> _as_told(("CT", "cyst", "P17"), ("modality", "label", "patient"))
    {'modality': 'ct', 'split': '', 'label': 'cyst', 'group': 'P17'}
    >>> _as_told(("cyst", "masks"), ("label", "images"))["fault"]
    'not where the layout says'
    """
    if len(folders) != len(words) or any(word not in LEVELS and word != folder for word, folder in zip(words, folders, strict=True)):
        return {"modality": "unknown", "split": "", "label": "", "group": "", "fault": "not where the layout says"}
    told = dict(reversed(list(zip(words, folders, strict=True))))  # of two patient folders the upper one
    split = told.get("split", "")
    return {"modality": modality_of(told.get("modality", "")), "split": part_of(split) or split, "label": told["label"], "group": told.get("patient", "")}


def _as_named(folders: Sequence[str], shared: set[str], file: Path) -> Row:
    """What the folders' own names say. Raises DataError where they can be read in two ways.

    >>> _as_named(("train", "CT", "cyst", "patient-7"), set(), Path("train/CT/cyst/patient-7/1.png"))
    {'modality': 'ct', 'split': 'train', 'label': 'cyst', 'group': 'patient-7'}
    """
    kinds = [_kind(folder, shared) for folder in folders]
    last = max((n for n, kind in enumerate(kinds) if kind != "patient"), default=0)
    labels = [n for n, kind in enumerate(kinds) if kind == "?" or (n == last and kind in ("modality", "-"))]  # "CT/skin" and "CT" name labels too
    if not labels:
        raise DataError(f'"{file.as_posix()}" lies in no folder that names a label; {LAYOUT}')
    if len(labels) > 1:
        raise DataError(f'"{file.as_posix()}" can be read in two ways: {_readings(folders, kinds, labels[-2:])}')
    others = [folder for n, folder in enumerate(folders) if n != labels[0]]
    return {**_named(others), "label": folders[labels[0]], "group": next((f for f in others if _PATIENT.fullmatch(f)), "")}


def _readings(folders: Sequence[str], kinds: Sequence[str], pair: Sequence[int]) -> str:
    """Both readings of two folders, each with the layout that chooses it.

    >>> _readings(("CT", "cyst", "P17"), ("modality", "?", "?"), (1, 2)).split(", or ")
    ['"cyst" is the label and "P17" the patient (--layout modality/label/patient)', '"P17" is the label and "cyst" the patient (--layout modality/patient/label)']
    """
    said = []
    for label, other in (pair, pair[::-1]):
        is_what = "modality" if kinds[other] == "modality" else "patient"
        layout = "/".join({label: "label", other: is_what}.get(n, kind.replace("?", "-")) for n, kind in enumerate(kinds))
        said.append(f'"{folders[label]}" is the label and "{folders[other]}" the {is_what} (--layout {layout})')
    return ", or ".join(said)


def _kind(folder: str, shared: set[str]) -> str:
    """What a folder's name says that it is, "-" for one in which all pictures lie, "?" for one that may name a label."""
    if _PATIENT.fullmatch(folder):
        return "patient"
    return "split" if part_of(folder) else "modality" if is_modality(folder) else "-" if folder in shared else "?"


def _named(folders: Sequence[str]) -> Row:
    """Split and modality that folders name."""
    return {
        "modality": next((modality_of(folder) for folder in folders if is_modality(folder)), "unknown"),
        "split": next((part for folder in folders if (part := part_of(folder))), ""),
    }
