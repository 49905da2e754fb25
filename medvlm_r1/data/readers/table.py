"""Any table of questions with the columns that most sets of the hub have."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medvlm_r1.data.modality import modality_of
from medvlm_r1.data.parquet import PICTURES
from medvlm_r1.data.parts import split_of
from medvlm_r1.data.readers.found import NO_LIST, Found, closed, group_of, listed, pictures, plain, rows, tables, text
from medvlm_r1.data.references import resolved
from medvlm_r1.types import LETTERS, Example

LAYOUT = "a table has the columns image, question, answer and, where there are, options, modality, question_type, group, split, id"


def table(src: Path) -> Iterator[Found]:
    """Tables of ``image``, ``question``, ``answer``; without ``options`` yes/no questions get theirs, others stay open."""
    for path in tables(src, layout=LAYOUT):
        for number, (where, row) in enumerate(rows(path)):
            paths, embedded = pictures(next((row[name] for name in PICTURES if row.get(name) is not None), None))
            written, fault = _options(row)
            options, answer = (written, text(row, "answer", "gt_answer")) if written else closed(text(row, "answer", "gt_answer"))
            if written and isinstance(row.get("answer"), int | float):
                fault = "the answer is a number, which may count from 0 or from 1"
            yield Found(
                where,
                Example(
                    id=text(row, "id", "qid", "question_id") or f"{path.stem}-{number:05d}",
                    images=tuple(resolved(picture, path.parent) for picture in paths),
                    question=text(row, "question"),
                    options=options,
                    answer=answer,
                    modality=modality_of(text(row, "modality", "modality_type", "subset")),
                    question_type=plain(text(row, "question_type")),
                    group=text(row, "group", "patient_id") or group_of(paths, embedded),
                    source=text(row, "source", "dataset"),
                    split=text(row, "split") or split_of(path),
                ),
                embedded,
                fault,
            )


def _options(row: dict[str, Any]) -> tuple[tuple[str, ...], str]:
    """Options as a list, as an object of letters, or one a column; and what is wrong with them.

    >>> _options({"options": ["left ", "right"]})[0], _options({"choices": {"A": "left", "B": "right"}})[0], _options({"option_A": "left", "option_B": "right"})[0]
    (('left', 'right'), ('A) left', 'B) right'), ('left', 'right'))
    >>> _options({"options": "left; right"})
    ((), 'options are no list')
    """
    written = listed(row.get("options") or row.get("choices"))
    if isinstance(written, dict):
        return tuple(f"{letter}) {option}" for letter, option in written.items() if option is not None), ""
    if isinstance(written, list):
        return tuple(str(option).strip() for option in written), ""
    if isinstance(written, str) and written.strip():
        return (), NO_LIST
    columns = {letter: option for letter in LETTERS if (option := text(row, f"option_{letter}", f"Choice {letter}"))}
    by_letter = (said := text(row, "answer", "gt_answer")) in columns and said not in columns.values()  # the columns say which one it is
    return tuple(f"{letter}) {option}" if by_letter else option for letter, option in columns.items()), ""
