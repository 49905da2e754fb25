"""Any folder of labelled pictures, as a question set: which of the labels does this picture show?"""

import os
import random
from collections.abc import Iterator
from pathlib import Path

from medvlm_r1.data.images import OPENERS, PLACED, kind_of
from medvlm_r1.data.readers.found import Found, rows, split_of, text
from medvlm_r1.data.readers.modality import DISPLAY, is_modality, modality_of
from medvlm_r1.errors import DataError
from medvlm_r1.types import Example

MOST_OPTIONS = 4
LAYOUT = "it wants labels.csv (file,label[,modality,split,group]), or folders named by label: [SPLIT/][MODALITY/]LABEL/picture.png"


def image_folder(src: Path) -> Iterator[Found]:
    """``labels.csv``, else sub-folders: the last is the label, those above may name split and modality.

    The options are the answer and up to three other labels of the same modality, in an
    order drawn from the file's name: a picture gets the same question on every machine.
    """
    if not src.is_dir():
        raise DataError(f'"{src}" is no folder; {LAYOUT}')
    labelled = list(_from_table(src) if (src / "labels.csv").is_file() else _from_folders(src))
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
                images=(str(src / row["file"]),) if row["file"] else (),
                question=f"What does this {shown} image show?".replace("  ", " "),
                options=_options(row["label"], known, row["file"]),
                answer=row["label"],
                modality=row["modality"],
                question_type="label",
                group=row["group"] or row["file"],
                source=src.resolve().name,
                split=row["split"],
            ),
            fault="the only label of its modality" if len(known) < 2 else "",
        )


def _options(label: str, known: list[str], name: str) -> tuple[str, ...]:
    draw = random.Random(name)
    others = draw.sample([other for other in known if other != label], min(MOST_OPTIONS, len(known)) - 1 if label in known else 0)
    return tuple(draw.sample([label, *others], len(others) + 1))


def _from_table(src: Path) -> Iterator[tuple[str, dict[str, str]]]:
    for where, row in rows(src / "labels.csv"):
        for key in ("file", "label"):
            if key not in row:
                raise DataError(f'{src / "labels.csv"}: the column "{key}" is missing; {LAYOUT}')
        file = text(row, "file")
        above = _from_path(Path(file))
        written = {key: text(row, key) for key in ("label", "modality", "split", "group")}
        modality = modality_of(written["modality"]) if written["modality"] else above["modality"]
        yield where, {"file": file, **written, "modality": modality, "split": written["split"] or above["split"]}


def _from_folders(src: Path) -> Iterator[tuple[str, dict[str, str]]]:
    for folder, names, files in os.walk(src):
        names.sort()
        for name in sorted(files):
            path = Path(folder, name)
            relative = path.relative_to(src)
            if kind_of(path) in {*OPENERS, *PLACED} and len(relative.parts) > 1:
                yield relative.as_posix(), {"file": relative.as_posix(), "label": relative.parts[-2], "group": "", **_from_path(relative.parent)}


def _from_path(path: Path) -> dict[str, str]:
    """Split and modality that the folders above a label, or above a file, name."""
    above = path.parts[:-1]
    return {
        "modality": next((modality_of(part) for part in above if is_modality(part)), "unknown"),
        "split": next((split for part in above if (split := split_of(Path(part)))), ""),
    }
