"""What a run began with, so that it goes on with the same: its values, its questions and pictures, its model."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from medvlm_r1.errors import RunError
from medvlm_r1.files import digest, disk_errors
from medvlm_r1.models.encode import Encoder
from medvlm_r1.types import Example

FILE = "inputs.json"
END_BYTES, PIECES, PIECE_BYTES = 2**20, 64, 2**16
SHOWN = 3


def changes(then: Any, now: Any, key: str = "") -> list[str]:
    """How nested values differ, key by key.

    >>> changes({"optim": {"lr": 1e-6}, "seed": 0}, {"optim": {"lr": 2e-6}, "seed": 0})
    ['optim.lr was 1e-06 and is 2e-06']
    >>> changes({"a": 1}, {"b": None})
    ['a was 1 and is not there', 'b was not there and is null']
    """
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        return [line for name in dict.fromkeys([*then, *now]) for line in changes(then.get(name, ...), now.get(name, ...), f"{key}.{name}".lstrip("."))]
    return [] if then == now else [f"{key} was {_said(then)} and is {_said(now)}"]


def _said(value: Any) -> str:
    return "not there" if value is ... else json.dumps(value)


def listed(lines: list[str]) -> str:
    """The first few.

    >>> listed(["a", "b", "c", "d", "e"])
    'a; b; c; and 2 more'
    """
    return "; ".join(lines[:SHOWN] + ([f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []))


def of_model(directory: Path) -> dict[str, str]:
    """A digest of each file that decides what a model computes; of large ones their size, both ends, the header included, and pieces between.

    Gigabytes are not read twice. Adapters that were merged change every matrix, and leave both ends as they were.
    """
    files = sorted([*directory.glob("*.json"), *directory.glob("*.safetensors")])
    return {file.name: _sampled(file) for file in files}


def _sampled(file: Path) -> str:
    with file.open("rb") as opened:
        size = opened.seek(0, 2)
        places = [max(0, size - END_BYTES) * n // PIECES for n in range(PIECES + 1)]  # the first and the last are whole ends
        hashed = sha256(f"{size} ".encode())
        for place in dict.fromkeys(places):
            opened.seek(place)
            hashed.update(opened.read(END_BYTES if place in (places[0], places[-1]) else PIECE_BYTES))
        return hashed.hexdigest()[:16]


def of_questions(examples: Iterable[Example], encoder: Encoder) -> dict[str, str]:
    """A digest of each question with its options, answer and what its pictures hold, by id; wherever the pictures lie.

    A question that is shown with several patients' pictures comes once with each.
    """
    found: dict[str, set[str]] = {}

    def told(example: Example) -> str:
        return json.dumps(asdict(example) | {"images": [encoder.pixels(reference).key for reference in example.images]})

    for example in examples:
        found.setdefault(example.id, set()).add(digest(told(example))[:16])
    return {id: next(iter(those)) if len(those) == 1 else digest(" ".join(sorted(those)))[:16] for id, those in found.items()}


def check(run_dir: Path, found: Mapping[str, Mapping[str, str]]) -> None:
    """Write down what a new run begins with; raises RunError that says what of it has changed since."""
    file = run_dir / FILE
    with disk_errors(run_dir):
        if not file.exists():
            file.write_text(json.dumps(found) + "\n", encoding="utf-8")
            return
        try:
            began = dict(json.loads(file.read_text(encoding="utf-8")))
        except ValueError as error:
            raise RunError(f'"{file}" is damaged ({error}); restore it, or choose another --run-dir') from error
    told = [line for kind in found if kind in began for line in _differing(kind, began[kind], found[kind])]  # a run of before may not know one
    if told:
        raise RunError(f"{run_dir} began with something else: {listed(told)}; put it back as it was, or choose another --run-dir")


def _differing(kind: str, then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """
    >>> _differing("question", {"q1": "a", "q2": "b"}, {"q1": "c", "q3": "d"})
    ['question "q1" has changed', 'question "q2" is gone', 'question "q3" is new']
    """
    fates = {
        name: "is gone" if name not in now else "is new" if name not in then else "has changed" for name in [*then, *now] if then.get(name) != now.get(name)
    }
    return [f'{kind} "{name}" {fate}' for name, fate in fates.items()]
