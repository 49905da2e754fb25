"""OmniMedVQA (Hu et al. 2024), as its archive unpacks."""

from collections.abc import Iterator
from pathlib import Path

from medvlm_r1.data.modality import modality_of
from medvlm_r1.data.readers.found import Found, plain, rows, tables, text
from medvlm_r1.types import Example

LAYOUT = "OmniMedVQA has Images/ and QA_information/{Open-access,Restricted-access}/SET.json"


def omnimedvqa(src: Path) -> Iterator[Found]:
    """``QA_information/*/SET.json`` beside ``Images/``. It has no split and no patient: the picture is the group."""
    root = src if src.is_dir() else src.resolve().parents[2]
    folder = src / "QA_information"
    for path in tables(folder if folder.is_dir() else src, (".json",), LAYOUT):
        for where, row in rows(path):
            image = text(row, "image_path")
            options = tuple(option for letter in "ABCD" if (option := text(row, f"option_{letter}")))
            yield Found(
                where,
                Example(
                    id=text(row, "question_id"),
                    images=(str(root / image),) if image else (),
                    question=text(row, "question"),
                    options=options,
                    answer=text(row, "gt_answer"),
                    modality=modality_of(text(row, "modality_type", "modality")),
                    question_type=plain(text(row, "question_type")),
                    group=image,
                    source=f"OmniMedVQA/{text(row, 'dataset') or path.stem}",
                ),
                fault="" if options else "fewer than 2 options",
            )
