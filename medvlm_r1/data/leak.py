"""Nothing that is tested may be trained on: not the picture, not another of the same patient."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from PIL import Image

from medvlm_r1.data.images import SCHEMES, content_hash, load_image, place, scheme_of
from medvlm_r1.errors import DataError, ImageError
from medvlm_r1.types import Example


@dataclass(frozen=True)
class Leak:
    """A training question and a test question that share something.

    >>> Leak("q17", "t3", "the group", "patient-0031").kind
    'the group'
    """

    train_id: str
    test_id: str
    kind: str
    value: str


def require_apart(train: Sequence[Example], test: Sequence[Example], open_image: Callable[[str], Image.Image] | None = load_image) -> None:
    """Raises DataError, naming the first pair, if training shares a file, a group or the pixels of a picture with the test.

    ``open_image`` None leaves the pixels out, which is the only slow part.
    """
    found = leaks(train, test) or (leaks_by_pixels(train, test, open_image) if open_image else [])
    if found:
        first, n_questions = found[0], len({leak.train_id for leak in found})
        raise DataError(
            f'{n_questions} of {len(train)} training questions share something with the test set: "{first.train_id}" and the test question '
            f'"{first.test_id}" have {first.kind} "{first.value}" in common; split the data again (`medvlm-r1 data split`) or take other questions'
        )


def leaks(train: Iterable[Example], test: Iterable[Example]) -> list[Leak]:
    """The training questions that share a file or a group with a test question, each with the first thing shared.

    >>> a, b = (Example(id, (f"{id}.png",), "Which?", (), "x", "ct", group="p1") for id in ("q1", "q2"))
    >>> leaks([a], [b])
    [Leak(train_id='q1', test_id='q2', kind='the group', value='p1')]
    """
    owner = {key: e.id for e in test for key in keys_of(e)}
    shared = ((e, next((key for key in keys_of(e) if key in owner), None)) for e in train)
    return [Leak(e.id, owner[key], key[0], key[-1]) for e, key in shared if key]


def leaks_by_pixels(train: Sequence[Example], test: Sequence[Example], open_image: Callable[[str], Image.Image]) -> list[Leak]:
    """The training questions with a picture whose decoded pixels are those of a test picture, whatever the files are called.

    A test picture that cannot be opened has the pixels of none.
    """
    hashes: dict[str, str] = {}

    def hash_of(reference: str) -> str:
        if reference not in hashes:
            hashes[reference] = content_hash(open_image(reference))
        return hashes[reference]

    owner: dict[str, tuple[str, str]] = {}
    for e in test:
        for reference in e.images:
            try:
                owner[hash_of(reference)] = (e.id, reference)
            except ImageError:
                hashes[reference] = ""
    pairs = ((e, reference) for e in train for reference in e.images if hash_of(reference) in owner)
    return [Leak(e.id, owner[hash_of(reference)][0], "the pixels of", owner[hash_of(reference)][1]) for e, reference in pairs]


def keys_of(example: Example) -> list[tuple[str, ...]]:
    """What ties a question to others: its files and its group. Two slices of one volume are one file; a group is one source's own.

    >>> keys_of(Example("q1", ("/v.nii#slice=1", "/v.nii#slice=2"), "Which?", (), "x", "ct", group="p1", source="A"))
    [('the file', '/v.nii'), ('the group', 'A', 'p1')]
    """
    files = [("the file", reference if scheme_of(reference) in SCHEMES else os.path.realpath(place(reference)[0])) for reference in example.images]
    return [*dict.fromkeys(files), *([("the group", example.source, example.group)] if example.group else [])]


def components(examples: Sequence[Example]) -> list[list[Example]]:
    """The parts that no split may cut: questions tied by a file or a group, directly or through others. In order of appearance.

    >>> ask = lambda id, image, group: Example(id, (image,), "Which?", (), "x", "ct", group=group)
    >>> rows = [ask("q1", "a", "p1"), ask("q2", "b", "p2"), ask("q3", "b", "p1"), ask("q4", "c", "p4")]
    >>> [[e.id for e in part] for part in components(rows)]
    [['q1', 'q2', 'q3'], ['q4']]
    """
    parent = list(range(len(examples)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    first_row: dict[tuple[str, ...], int] = {}
    for row, example in enumerate(examples):
        for key in keys_of(example):
            a, b = root(first_row.setdefault(key, row)), root(row)
            parent[max(a, b)] = min(a, b)  # the first row stays on top
    parts: dict[int, list[Example]] = defaultdict(list)
    for row, example in enumerate(examples):
        parts[root(row)].append(example)
    return list(parts.values())
