"""PathVQA (He et al. 2020), as the hub's tables or an export of them."""

from collections.abc import Iterator
from pathlib import Path

from medvlm_r1.data.parts import split_of
from medvlm_r1.data.readers.found import Found, closed, group_of, pictures, rows, tables, text
from medvlm_r1.data.references import resolved
from medvlm_r1.types import Example

LAYOUT = "PathVQA has tables of image, question, answer, one per split (its pickled archive is not read: unpickling runs code)"


def path_vqa(src: Path) -> Iterator[Found]:
    """Tables ``{train,validation,test}*`` of ``image``, ``question``, ``answer``; the picture is the group."""
    for path in tables(src, layout=LAYOUT):
        for number, (where, row) in enumerate(rows(path)):
            paths, embedded = pictures(row.get("image"))
            options, answer = closed(text(row, "answer"))
            yield Found(
                where,
                Example(
                    id=f"path-vqa-{path.stem}-{number:05d}",
                    images=tuple(resolved(picture, path.parent) for picture in paths),
                    question=text(row, "question"),
                    options=options,
                    answer=answer,
                    modality="pathology",
                    group=group_of(paths, embedded),
                    source="PathVQA",
                    split=split_of(path),
                ),
                embedded,
            )
