"""PMC-VQA (Zhang et al. 2023): figures of papers, questions written by a language model."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medvlm_r1.data.parts import split_of
from medvlm_r1.data.readers.found import Found, rows, tables, text
from medvlm_r1.types import Example

LAYOUT = "PMC-VQA has train.csv, test.csv or their _2 and _clean variants, and images/"
_FOLDERS = ("images", "images_2", "figures")
_LETTER = re.compile(r"^\s*([A-D])\s*[:.)]\s*", re.IGNORECASE)


def pmc_vqa(src: Path) -> Iterator[Found]:
    """``*.csv`` beside ``images/``. A choice is " A:text "; the answer a text with ``Answer_label``, or the letter alone."""
    for path in tables(src, (".csv",), LAYOUT):
        folders = [folder for name in _FOLDERS if (folder := path.parent / name).is_dir()] or [path.parent / _FOLDERS[0]]
        for number, (where, row) in enumerate(rows(path)):
            figure = text(row, "Figure_path")
            places = [folder / figure for folder in folders]
            # Where a letter's choice is empty, dropping it would move the letters behind it.
            choices = {letter: _LETTER.sub("", text(row, f"Choice {letter}")).strip() for letter in "ABCD"}
            answer, fault = _answer(row, choices)
            yield Found(
                where,
                Example(
                    id=f"pmc-vqa-{path.stem}-{text(row, 'index') or number}",
                    images=(str(next((place for place in places if place.exists()), places[0])),) if figure else (),
                    question=text(row, "Question"),
                    options=tuple(choice for choice in choices.values() if choice),
                    answer=answer,
                    modality="unknown",
                    group=figure.partition("_")[0],
                    source="PMC-VQA",
                    split=text(row, "split") or split_of(path),
                ),
                fault=fault,
            )


def _answer(row: dict[str, Any], choices: dict[str, str]) -> tuple[str, str]:
    """(text of the answer, fault): text and letter must name the same choice.

    >>> choices = {"A": "Fat", "B": "Liver", "C": "", "D": ""}
    >>> _answer({"Answer": "liver", "Answer_label": "B"}, choices), _answer({"Answer": "B"}, choices)
    (('Liver', ''), ('Liver', ''))
    >>> _answer({"Answer": "Spleen", "Answer_label": "B"}, choices), _answer({"Answer": "Fat", "Answer_label": "B"}, choices)
    (('Spleen', 'choice and answer differ'), ('Fat', 'choice and answer differ'))
    """
    written, letter = text(row, "Answer"), text(row, "Answer_label").upper()
    if not letter and written.upper() in choices:
        letter, written = written.upper(), ""
    if not letter:
        return written, ""
    chosen = choices.get(letter, "")
    said = _LETTER.sub("", written).strip()
    differs = not chosen or (said and said.casefold().rstrip(".") != chosen.casefold().rstrip("."))
    return (said, "choice and answer differ") if differs else (chosen, "")
