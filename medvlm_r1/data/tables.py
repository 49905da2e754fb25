"""A question set used as it lies: the parquet files of the hub, with their pictures inside."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from medvlm_r1.data.convert import sift
from medvlm_r1.data.images import SCHEMES, place, scheme_of
from medvlm_r1.data.lines import short
from medvlm_r1.data.readers import CORPORA
from medvlm_r1.data.readers.found import Found
from medvlm_r1.errors import DataError
from medvlm_r1.types import Example

ANY = "table"
_CORPUS = {
    "flaviagiammarino/vqa-rad": "vqa-rad",
    "flaviagiammarino/path-vqa": "path-vqa",
    "freedomintelligence/medical_multimodal_evaluation_data": "huatuo-eval",
}


def holds(path: Path) -> bool:
    """Whether these are parquet files, and no manifest made of them."""
    if path.is_file():
        return path.suffix == ".parquet"
    return path.is_dir() and not any(path.glob("manifest.jsonl*")) and next(path.rglob("*.parquet"), None) is not None


def corpus_of(name: str) -> str:
    """Whose rules read a set of the hub.

    >>> corpus_of("flaviagiammarino/VQA-RAD@main"), corpus_of("somebody/else")
    ('vqa-rad', 'table')
    """
    return _CORPUS.get("/".join(name.partition("@")[0].lower().split("/")[:2]), ANY)


def read(src: Path, corpus: str, name: str) -> tuple[list[Example], list[str]]:
    """The questions of the tables in ``src``, and what was cleaned or left out, a sentence a kind. Raises DataError where none is left."""
    done = sift(_referenced(CORPORA[corpus](src)))
    n_rows = len(done.examples) + len(done.rejected)
    notes = [f"{name}: {kind} ({n} of {n_rows})" for kind, n in done.repaired.most_common()]
    if done.rejected:
        reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(row.reason for row in done.rejected).most_common())
        first = done.rejected[0]
        said = f'{reasons}; the first is {first.where} ("{short(first.detail)}")'
        if not done.examples:
            raise DataError(f'"{name}" has no question that can be used: {said}; see docs/data.md')
        notes.append(f"{name}: {len(done.rejected)} of {n_rows} rows left out: {said}")
    called = Path(name.partition("@")[0]).name
    return [replace(e, source=e.source or called) for e in done.examples], notes


def _referenced(found: Iterable[Found]) -> Iterator[Found]:
    """The rows with a reference for each picture inside; of equal pictures that of the first, so that no split cuts them apart."""
    first: dict[bytes, str] = {}
    for row in found:
        inside = [first.setdefault(hashlib.sha256(picture.data).digest(), picture.reference) for picture in row.embedded]
        images = (*inside, *row.example.images)
        gone = next((image for image in images if scheme_of(image) not in SCHEMES and not Path(place(image)[0]).exists()), None)
        fault = f'the picture "{Path(gone).name}" is not inside and not beside' if gone else ""
        yield replace(row, example=replace(row.example, images=images), fault=row.fault or fault)
