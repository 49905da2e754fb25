"""SLAKE (Liu et al. 2021), its English half."""

import re
from collections.abc import Iterator
from pathlib import Path

from medvlm_r1.data.modality import modality_of
from medvlm_r1.data.parts import split_of
from medvlm_r1.data.readers.found import Found, closed, plain, rows, tables, text
from medvlm_r1.types import Example

LAYOUT = "SLAKE has train.json, validation.json, test.json and imgs/"
_CHINESE = re.compile(r"[\u4e00-\u9fff]")


def slake(src: Path) -> Iterator[Found]:
    """``{train,validation,test}.json`` beside ``imgs/xmlabN/``; one folder there is one patient's picture."""
    for path in [src] if src.is_file() else [p for p in tables(src, (".json",), LAYOUT) if split_of(p)]:
        for where, row in rows(path):
            image = text(row, "img_name")
            question, (options, answer) = text(row, "question"), closed(text(row, "answer"))
            is_english = text(row, "q_lang") in ("en", "") and not _CHINESE.search(question + answer)
            yield Found(
                where,
                Example(
                    id=f"slake-{text(row, 'qid')}",
                    images=(str(path.parent / "imgs" / image),) if image else (),
                    question=question,
                    options=options,
                    answer=answer,
                    modality=modality_of(text(row, "modality")),
                    question_type=plain(text(row, "content_type")),
                    group=image.partition("/")[0],
                    source="SLAKE",
                    split=split_of(path),
                ),
                fault="" if is_english else "not English",
            )
