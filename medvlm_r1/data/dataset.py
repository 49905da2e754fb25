"""Datasets: lazy views over examples, and the reader of manifests.

A view holds row numbers, not copies. ``load_dataset`` reads what the command
line calls D: a manifest, a folder that holds one, or a drawn set.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import overload

from medvlm_r1.data.images import scheme_of
from medvlm_r1.data.manifest import FIELDS, read_manifest
from medvlm_r1.data.phantom import sets
from medvlm_r1.errors import DataError, nearest
from medvlm_r1.types import Example


class Dataset(Sequence[Example]):
    """An immutable sequence of examples; every method returns a new view of the same rows.

    >>> rows = [Example(f"q{i}", (), "Which?", ("a", "b"), "a", "mri") for i in range(10)]
    >>> view = Dataset(rows).shuffle(seed=1).head(3)
    >>> len(view), view[0] is rows[view.rows[0]]
    (3, True)
    """

    def __init__(self, examples: Sequence[Example], rows: Sequence[int] | None = None):
        self._examples = examples
        self.rows = range(len(examples)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Example]:
        return (self._examples[row] for row in self.rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> "Dataset": ...

    def __getitem__(self, index):
        if isinstance(index, slice):
            return Dataset(self._examples, self.rows[index])
        return self._examples[self.rows[index]]

    def __repr__(self) -> str:
        return f"Dataset({len(self)} examples)"

    def head(self, n: int) -> "Dataset":
        """The first ``n`` examples, or all where there are fewer."""
        return self[: max(n, 0)]

    def shuffle(self, seed: int) -> "Dataset":
        """All examples in an order that depends only on ``seed`` and their number."""
        rows = list(self.rows)
        random.Random(seed).shuffle(rows)
        return Dataset(self._examples, rows)

    def mix(self, *others: "Dataset", seed: int) -> "Dataset":
        """The examples of this and of the others, shuffled together. Raises DataError on a repeated id."""
        together = [example for part in (self, *others) for example in part]
        seen: set[str] = set()
        for example in together:
            if example.id in seen:
                raise DataError(f'cannot mix: two questions have the id "{example.id}"; rename one, or drop the set that repeats it')
            seen.add(example.id)
        return Dataset(together).shuffle(seed)

    def where(self, /, **filters: str) -> "Dataset":
        """The examples whose fields have these values.

        Raises DataError on an unknown field or a value that no example has.

        >>> rows = [Example("q1", (), "Which?", (), "a", "mri"), Example("q2", (), "Which?", (), "a", "ct")]
        >>> [e.id for e in Dataset(rows).where(modality="ct")]
        ['q2']
        """
        rows = list(self.rows)
        for key, value in filters.items():
            if key not in FIELDS:
                raise DataError(f'cannot filter by "{key}"{nearest(key, FIELDS)}')
            kept = [row for row in rows if getattr(self._examples[row], key) == value]
            if not kept:
                values = {str(getattr(self._examples[row], key)) for row in rows}
                raise DataError(f'no question has {key}="{value}"{nearest(value, values)}')
            rows = kept
        return Dataset(self._examples, rows)


def load_dataset(spec: str) -> Dataset:
    """The dataset that ``spec`` names.

    ``spec`` is a manifest (``.jsonl`` or ``.jsonl.gz``), a folder with a ``manifest.jsonl``
    (or ``.gz``), or ``phantom:mri``; each may end in a filter, ``?modality=mri&split=test``,
    over any key of the manifest. Raises DataError, naming file and line.
    """
    if not spec:
        raise DataError("no data: give --data with a manifest (see docs/data.md) or phantom:mri")
    name, _, query = spec.partition("?")
    filters, scheme = _filters(query, spec), scheme_of(name)
    if scheme in LOADERS:
        examples = LOADERS[scheme](name.removeprefix(f"{scheme}:"), filters.pop("split", None))
        return Dataset(examples).where(**filters)
    return Dataset(read_manifest(_manifest_of(name), filters))


def _filters(query: str, spec: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in query.split("&") if part]
    for key, equals, value in pairs:
        if not (key and equals and value):
            raise DataError(f'dataset "{spec}": the filter "{key}{equals}{value}" is no key=value; write it as ?modality=mri&split=test')
    return {key: value for key, _, value in pairs}


def _manifest_of(name: str) -> Path:
    path = Path(name)
    if path.is_dir():
        found = [path / file for file in ("manifest.jsonl", "manifest.jsonl.gz") if (path / file).is_file()]
        if not found:
            raise DataError(f'dataset "{name}" is a folder without manifest.jsonl; convert it with `medvlm-r1 data convert`')
        return found[0]
    if not path.exists():
        raise DataError(f'dataset "{name}" does not exist{_similar(path)}')
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise DataError(f'dataset "{name}" is no manifest; its name must end in .jsonl or .jsonl.gz')
    return path


def _similar(path: Path) -> str:
    beside = [str(path.parent / p.name) for p in path.parent.iterdir()] if path.parent.is_dir() else []
    known = [f"{scheme}:{name}" for scheme in LOADERS for name in PHANTOM_NAMES] + beside
    hint = nearest(str(path), known)
    if hint.startswith("; did"):
        return hint
    return "; give a manifest (.jsonl, .jsonl.gz), a folder with manifest.jsonl, or one of " + ", ".join(known[: len(PHANTOM_NAMES)])


PHANTOM_NAMES = ("mri", "ct", "xray", "text-shortcut")
LOADERS: dict[str, Callable[[str, str | None], Sequence[Example]]] = {"phantom": sets.load}
