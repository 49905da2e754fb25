"""Datasets: lazy views over examples, and the reader of what the command line calls D.

A view holds row numbers, not copies. D is a manifest, a folder that holds one, a
drawn set, or a set of the hub: its parquet files in a folder here, or its name there.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import overload

from medvlm_r1.data import hub, tables
from medvlm_r1.data.clean import tidy
from medvlm_r1.data.manifest import FIELDS, read_manifest
from medvlm_r1.data.modality import modality_of
from medvlm_r1.data.phantom import sets
from medvlm_r1.errors import DataError, nearest
from medvlm_r1.types import Example


class Dataset(Sequence[Example]):
    """An immutable sequence of examples; every method returns a new view of the same rows.

    >>> rows = [Example(f"q{i}", (), "Which?", ("a", "b"), "a", "mri") for i in range(10)]
    >>> view = Dataset(rows).shuffle(seed=1).head(3)
    >>> len(view), view[0] is rows[view.rows[0]]
    (3, True)

    ``notes`` says what was cleaned or left out when the whole was read, a sentence a kind.
    """

    def __init__(self, examples: Sequence[Example], rows: Sequence[int] | None = None, notes: Sequence[str] = ()):
        self._examples, self.notes = examples, tuple(notes)
        self.rows = range(len(examples)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Example]:
        return (self._examples[row] for row in self.rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> "Dataset": ...

    def __getitem__(self, index: int | slice) -> "Example | Dataset":
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

    def where(self, /, **filters: str | Sequence[str]) -> "Dataset":
        """The examples whose fields have these values, or one of several.

        Raises DataError on an unknown field or a value that no example has.

        >>> rows = [Example("q1", (), "Which?", (), "a", "mri"), Example("q2", (), "Which?", (), "a", "ct")]
        >>> [e.id for e in Dataset(rows).where(modality="ct")], len(Dataset(rows).where(modality=("ct", "mri")))
        (['q2'], 2)
        """
        rows = list(self.rows)
        for key, wanted in filters.items():
            if key not in FIELDS:
                raise DataError(f'cannot filter by "{key}"{nearest(key, FIELDS)}')
            values = {str(getattr(self._examples[row], key)) for row in rows}
            several = (wanted,) if isinstance(wanted, str) else wanted
            if strange := [value for value in several if value not in values]:
                raise DataError(f'no question has {key}="{strange[0]}"{nearest(strange[0], values)}')
            rows = [row for row in rows if getattr(self._examples[row], key) in several]
        return Dataset(self._examples, rows, self.notes)


def load_dataset(spec: str, fetch: Callable[[str], Path] = hub.fetch) -> Dataset:
    """The dataset that ``spec`` names.

    ``spec`` is a manifest (JSON Lines or an array, plain or gzipped), a folder with a
    ``manifest.jsonl`` (or ``.gz``), ``phantom:mri``, or tables of the hub: ``hub:OWNER/NAME``,
    or its parquet files in a folder here. Each may end in a filter, ``?modality=mri&split=test``,
    over any key of the manifest; a key that stands there twice takes either value.
    Raises DataError, naming file and line. ``fetch`` brings a set of the hub here.
    """
    if not spec:
        raise DataError("no data: give --data with a manifest (see docs/data.md) or phantom:mri")
    name, filters = parsed(spec)
    scheme, _, rest = name.partition(":")
    if scheme == "phantom":
        split = filters.get("split", ())
        return Dataset(sets.load(rest, split[0] if len(split) == 1 else None)).where(**filters)
    if scheme == "hub" or tables.holds(Path(name)):
        folder, corpus = (fetch(rest), tables.corpus_of(rest)) if scheme == "hub" else (Path(name), tables.ANY)
        examples, notes = tables.read(folder, corpus, name)
        return Dataset(examples, notes=notes).where(**filters)
    examples, notes = read_manifest(_manifest_of(name), filters)
    return Dataset(examples, notes=notes)


def parsed(spec: str) -> tuple[str, dict[str, tuple[str, ...]]]:
    """The name in a spec, and its filter.

    >>> parsed("q.jsonl?modality=MRI&split=train&split=val")
    ('q.jsonl', {'modality': ('mri',), 'split': ('train', 'val')})
    """
    name, _, query = spec.partition("?")
    filters: dict[str, tuple[str, ...]] = {}
    for part in query.split("&"):
        key, equals, value = part.partition("=")
        if part and not (key and equals and value):
            raise DataError(f'dataset "{spec}": the filter "{part}" is no key=value; write it as ?modality=mri&split=test')
        if part:  # spelled as freely as a file may spell it
            filters[key] = (*filters.get(key, ()), modality_of(value) if key == "modality" else tidy(value))
    return name, filters


def _manifest_of(name: str) -> Path:
    path = Path(name)
    if path.is_dir():
        found = [path / file for file in ("manifest.jsonl", "manifest.jsonl.gz") if (path / file).is_file()]
        if not found:
            raise DataError(f'dataset "{name}" is a folder without manifest.jsonl or parquet files; convert it with `medvlm-r1 data convert`')
        return found[0]
    if not path.exists():
        raise DataError(f'dataset "{name}" does not exist{_similar(path)}')
    if not path.name.endswith(_NAMES):
        raise DataError(f'dataset "{name}" is no manifest; its name must end in .jsonl or .jsonl.gz; tables are converted with `medvlm-r1 data convert`')
    return path


def _similar(path: Path) -> str:
    beside = [str(path.parent / p.name) for p in path.parent.iterdir()] if path.parent.is_dir() else []
    known = [f"phantom:{name}" for name in PHANTOM_NAMES] + beside
    hint = nearest(str(path), known)
    if hint.startswith("; did"):
        return hint
    return "; give a manifest (.jsonl, .jsonl.gz), a folder with manifest.jsonl, or one of " + ", ".join(known[: len(PHANTOM_NAMES)])


PHANTOM_NAMES = ("mri", "ct", "xray", "text-shortcut", "text-reversed", "pointing-mri", "pointing-ct", "pointing-xray")
_NAMES = tuple(f".{suffix}{packed}" for suffix in ("jsonl", "ndjson", "json") for packed in ("", ".gz"))
