"""The evaluation set of HuatuoGPT-Vision (Chen et al. 2024); MedVLM-R1's 900 test questions have the same schema."""

from collections.abc import Iterator
from pathlib import Path

from medvlm_r1.data.modality import modality_of
from medvlm_r1.data.parts import split_of
from medvlm_r1.data.readers.found import NO_LIST, Found, group_of, listed, pictures, rows, tables, text
from medvlm_r1.data.references import resolved
from medvlm_r1.types import Example

LAYOUT = "the evaluation set is one JSON file beside images/"


def huatuo_eval(src: Path) -> Iterator[Found]:
    """``*.json`` beside ``images/``; ``answer`` is the option's text, ``subset`` the modality. Rows have no ids: they are numbered."""
    for path in tables(src, layout=LAYOUT):
        for number, (where, row) in enumerate(rows(path)):
            paths, embedded = pictures(row.get("image"))
            options = listed(row.get("options"))
            yield Found(
                where,
                Example(
                    id=f"{path.stem}-{number:05d}",
                    images=tuple(resolved(picture, path.parent) for picture in paths),
                    question=text(row, "question"),
                    options=tuple(str(option).strip() for option in options) if isinstance(options, list) else (),
                    answer=text(row, "answer"),
                    modality=modality_of(text(row, "subset", "modality")),
                    group=group_of(paths, embedded),
                    source=text(row, "dataset"),
                    split=split_of(path),
                ),
                embedded,
                fault=NO_LIST if options and not isinstance(options, list) else "",
            )
