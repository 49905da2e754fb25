"""VQA-RAD (Lau et al. 2018), from its archive or as the hub's tables."""

from collections.abc import Iterator
from pathlib import Path

from medvlm_r1.data.parts import split_of
from medvlm_r1.data.readers.found import Found, closed, group_of, pictures, plain, rows, tables, text
from medvlm_r1.data.references import resolved
from medvlm_r1.types import Example

LAYOUT = 'VQA-RAD has "VQA_RAD Dataset Public.json" and "VQA_RAD Image Folder/"; the hub\'s copy has tables of image, question, answer'
# Heads are CT or MRI, and nothing in the file tells which.
_MODALITY = {"CHEST": "xray", "ABD": "ct", "HEAD": "ct-or-mri"}


def vqa_rad(src: Path) -> Iterator[Found]:
    """The archive's JSON, or tables with ``image``. ``phrase_type`` names the test questions; both parts share pictures."""
    for path in tables(src, layout=LAYOUT):
        for number, (where, row) in enumerate(rows(path)):
            folder = path.parent / "VQA_RAD Image Folder"
            paths, embedded = pictures(text(row, "image_name") or row.get("image"))
            options, answer = closed(text(row, "answer"))
            split = "test" if text(row, "phrase_type").startswith("test") else "train"
            yield Found(
                where,
                Example(
                    id=f"vqa-rad-{text(row, 'qid') or f'{path.stem}-{number:05d}'}",
                    images=tuple(resolved(picture, folder if folder.is_dir() else path.parent) for picture in paths),
                    question=text(row, "question"),
                    options=options,
                    answer=answer,
                    modality=_MODALITY.get(text(row, "image_organ"), "unknown"),
                    question_type=plain(text(row, "question_type")),
                    group=group_of(paths, embedded),
                    source="VQA-RAD",
                    split=split if "phrase_type" in row else split_of(path),
                ),
                embedded,
            )
