"""The cases that readers go through, and in which order each does."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medvlm_r1.data.images import kind_of, place
from medvlm_r1.data.lines import objects
from medvlm_r1.data.references import resolved
from medvlm_r1.errors import ConfigError, DataError
from medvlm_r1.files import digest
from medvlm_r1.rollout.told import question
from medvlm_r1.serving.guard import Limits
from medvlm_r1.serving.schema import Place
from medvlm_r1.types import LETTERS

_WANTED = '{"id": "case-1", "image": "a.dcm", "question": "…", "options": ["…", "…"], "answer": "…"}'


@dataclass(frozen=True)
class Case:
    """A picture and what is asked about it. ``reference``: the letter that is right, "" where nobody knows; it never leaves the server.

    >>> Case("c1", "Which side?", ("left", "right"), "B").path is None
    True
    """

    id: str
    question: str
    options: tuple[str, ...] = ()
    reference: str = ""
    path: Path | None = None
    place: Place = field(default_factory=Place)  # in the file, where the line names one


def read_worklist(path: Path) -> tuple[Case, ...]:
    """The cases of a file of JSON lines; a manifest is one. Raises DataError naming the line."""
    found: dict[str, Case] = {}
    for where, row in objects(path):
        case = _case(row, where, path.parent)
        if case.id in found:
            raise DataError(f'{where}: the id "{case.id}" stands there twice; give every case its own')
        found[case.id] = case
    if not found:
        raise DataError(f'--worklist "{path}" is empty; write one case a line: {_WANTED}')
    return tuple(found.values())


def _case(row: dict[str, object], where: str, folder: Path) -> Case:
    images, options = row.get("image"), row.get("options", [])
    image = images[0] if isinstance(images, list) and len(images) == 1 else images
    id, text, answer = str(row.get("id", "")), row.get("question"), row.get("answer", "")
    if not isinstance(image, str) or not isinstance(text, str) or not isinstance(options, list) or not isinstance(answer, str):
        raise DataError(f"{where}: no case of one picture and one question; write {_WANTED}")
    if not re.fullmatch(r"[\w.-]{1,64}", id):
        raise DataError(f'{where}: the id "{id[:70]}" goes into the audit log and wants 1 to 64 letters, digits, dots and dashes, and nobody\'s name')
    try:
        asked = question("", text, tuple(map(str, options)))
    except ConfigError as error:
        raise DataError(f"{where}: {re.sub('--options', 'options', str(error))}") from error
    if answer and options and answer not in asked.options:
        raise DataError(f'{where}: the answer "{answer}" is none of the options; correct it, or leave it out')
    file, keys = place(resolved(image, folder))
    if not Path(file).is_file():
        raise DataError(f'{where}: there is no picture "{file}"; name it from where the work list lies')
    if (size := Path(file).stat().st_size) > (most := Limits().body_bytes):
        raise DataError(f'{where}: "{file}" has {size / 2**20:.0f} MiB, and a page is shown {most >> 20} at most; write the part that is asked about to a file')
    if kind_of(Path(file)).startswith(".nii") and "slice" not in keys:
        raise DataError(f'{where}: a volume has many slices; name the one that is asked about: "{image}#axis=2&slice=…"')
    if unknown := sorted(keys.keys() - Place.model_fields.keys()):
        raise DataError(f'{where}: a case has no "{unknown[0]}"; write one of {", ".join(Place.model_fields)}')
    return Case(id, text, asked.options, LETTERS[asked.options.index(answer)] if answer and options else "", Path(file), Place.model_validate(keys))


def order(ids: Sequence[str], reader: int, seed: int) -> list[str]:
    """All cases, as the reader of this number (from 0) reads them: a row of a Williams square over the cases, which a seed has shuffled.

    Among as many readers as there are cases each case is once at each place, and with an even number of cases each follows each other once
    (Williams 1949); with an odd number it takes twice as many readers. A reader who is added changes nobody's order.

    >>> [order("abcd", reader, seed=1) for reader in range(4)]
    [['c', 'a', 'd', 'b'], ['a', 'b', 'c', 'd'], ['b', 'd', 'a', 'c'], ['d', 'c', 'b', 'a']]
    """
    shuffled, n = sorted(ids, key=lambda id: digest(f"{seed} {id}")), len(ids)
    zigzag = [k // 2 + 1 if k % 2 else (n - k // 2) % n for k in range(n)]  # 0, 1, n-1, 2, n-2, …
    row = [shuffled[(place + reader) % n] for place in zigzag]
    return row[::-1] if n and reader // n % 2 else row
