"""Which part of a question set its ``split`` names, in whatever words, and which part may be trained on."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medvlm_r1.errors import DataError
from medvlm_r1.types import Example

_WORDS = {
    "train": r"train(?:ing|val)?",
    "test": r"test(?:ing|set)?|^eval(?:uation)?$|hold-?_?out|held-?_?out",
    "validation": r"val(?:id(?:ation)?)?|dev(?:elopment)?",
}
_PART = re.compile("|".join(rf"(?P<{part}>(?<![a-z])(?:{words})(?![a-z]))" for part, words in _WORDS.items()))


def part_of(name: str) -> str:
    """ "train", "validation" or "test" where a name says so, else "".

    >>> [part_of(name) for name in ("train", "Training", "test_clean.csv", "held-out", "val", "dev", "validation-00000-of-00001.parquet")]
    ['train', 'train', 'test', 'test', 'validation', 'validation', 'validation']
    >>> [part_of(name) for name in ("eval", "medical_evaluation.json", "trained.json", "fold1", "")]
    ['test', '', '', '', '']
    """
    match = _PART.search(name.lower())
    return match.lastgroup or "" if match else ""


def split_of(path: Path) -> str:
    """The part that a file's name tells, or its folder's where the file has a number for a name.

    >>> [split_of(Path(name)) for name in ("train.json", "data/test-00000-of-00001.parquet", "default/validation/0000.parquet", "test/a.json")]
    ['train', 'test', 'validation', '']
    """
    return part_of(path.parent.name if path.stem.isdecimal() else path.name)


def to_train(examples: Sequence[Example], name: str) -> tuple[list[Example], str]:
    """The questions of a whole set that may be trained on, and what to say about the others ("" where there are none).

    Those of the train part where there is one, else all that no test and no
    validation part holds. Raises DataError where nothing is left.

    >>> rows = [Example(f"q{i}", (), "Which?", (), "a", "ct", split=split) for i, split in enumerate(("train", "test", "val", "test"))]
    >>> kept, said = to_train(rows, "q.jsonl")
    >>> [e.id for e in kept], said
    (['q0'], 'q.jsonl: only its train part is trained on, 1 of 4 questions; left out: 2 of "test", 1 of "val"; to choose otherwise write --data "q.jsonl?split=…"')
    """
    parts = {e.split: part_of(e.split) for e in examples}
    has_train = "train" in parts.values()
    kept = [e for e in examples if parts[e.split] == ("train" if has_train else "")]
    left_out = Counter(e.split for e in examples if parts[e.split] != ("train" if has_train else ""))
    if not left_out:
        return kept, ""
    said = ", ".join(f"{n} of {_quoted(split)}" for split, n in left_out.most_common())
    if not kept:
        split = next(iter(left_out))
        raise DataError(f'{name} has nothing to train on: {said}; give a set with a train part, or write "{_asked(name, split)}" if you mean it')
    which = "its train part" if has_train else "what no test or validation part holds"
    otherwise = f'to choose otherwise write --data "{_asked(name, "…")}"'
    return kept, f"{name}: only {which} is trained on, {len(kept)} of {len(examples)} questions; left out: {said}; {otherwise}"


def trained_on(examples: Sequence[Example], name: str) -> str:
    """What to say to somebody who evaluates a whole set, its train part included; "" where it has no such part, or no other.

    >>> rows = [Example(f"q{i}", (), "Which?", (), "a", "ct", split=split) for i, split in enumerate(("train", "test"))]
    >>> trained_on(rows, "q.jsonl")
    'q.jsonl: 1 of 2 questions are of its train part, and a model that learnt from them knows them; for the others write --data "q.jsonl?split=test"'
    >>> trained_on(rows[:1], "q.jsonl")
    ''
    """
    n_train = sum(part_of(e.split) == "train" for e in examples)
    other = next((e.split for e in examples if part_of(e.split) == "test"), next((e.split for e in examples if part_of(e.split) != "train"), ""))
    if not n_train or not other:
        return ""
    remedy = f'for the others write --data "{_asked(name, other)}"'
    return f"{name}: {n_train} of {len(examples)} questions are of its train part, and a model that learnt from them knows them; {remedy}"


def _asked(name: str, split: str) -> str:
    return f"{name}{'&' if '?' in name else '?'}split={split}"


def _quoted(split: str) -> str:
    return f'"{split}"' if split else "no part"
