"""Train and test parts that share no picture and no group, the same on every machine, with checksums."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from medvlm_r1.data.leak import components, leaks
from medvlm_r1.data.manifest import write_manifest
from medvlm_r1.data.summary import ids_sha256
from medvlm_r1.errors import DataError, RunError
from medvlm_r1.files import digest
from medvlm_r1.types import Example

PAPER_MODALITIES = ("mri", "ct", "xray")
PAPER_TRAIN = 600  # MRI
PAPER_TEST = 300  # of each modality
PAPER_SHA256 = "c0f78d8a7e84a21405b7f9c98fe195c9083020c52d31a4d18f4c9bd748746484"  # checksum() of the 900


def split(examples: Sequence[Example], test: float = 0.2, seed: int = 0) -> list[Example]:
    """The examples with ``split`` set to "train" or "test": about the share ``test`` of each modality, no group and no file cut.

    The draw depends on the ids and the seed, not on the order of the rows.
    """
    if not 0 < test < 1:
        raise DataError(f"the share of the test part must lie between 0 and 1, got {test}; write 0.2 for a fifth")
    wanted = {modality: test * n for modality, n in Counter(e.modality for e in examples).items()}
    taken: Counter[str] = Counter()
    side: dict[str, str] = {}
    for part in drawn(components(examples), seed):
        modality = part[0].modality
        # Half the part must fit, so that the share is missed by half a part at most.
        name = "test" if taken[modality] + len(part) / 2 <= wanted[modality] else "train"
        taken.update(e.modality for e in part if name == "test")
        side.update((e.id, name) for e in part)
    done = [replace(e, split=side[e.id]) for e in examples]
    for name in ("train", "test"):
        if not any(e.split == name for e in done):
            raise DataError(f"nothing is left for the {name} part: {len(done)} questions hang together by files and groups; give more data, or other groups")
    return done


def paper_split(examples: Sequence[Example], seed: int = 0, test: Sequence[Example] = ()) -> list[Example]:
    """The paper's parts: its 900 test questions, out of ``test`` or else of ``examples``, and 600 MRI questions of ``examples``.

    The 900 are known by ``fingerprint``, and PAPER_SHA256 proves that they are all
    there. Which 600 the authors trained on is not published, so ``seed`` draws them
    from the MRI questions that share no file, file name or group with the 900.
    """
    known = paper_fingerprints()
    tested: dict[str, Example] = {}
    for example in test or examples:
        if (mark := fingerprint(example)) in known:
            tested.setdefault(mark, replace(example, split="test"))
    if checksum(tested.values()) != PAPER_SHA256:
        counts = Counter(e.modality for e in tested.values())
        found = ", ".join(f"{counts[modality]} {modality}" for modality in PAPER_MODALITIES)
        raise DataError(
            f"found {found} of the paper's {PAPER_TEST} test questions each; convert the whole of OmniMedVQA, or give the authors' file with --test-set"
        )
    order = {name: n for n, name in enumerate(PAPER_MODALITIES)}
    return _paper_train(examples, tested, seed) + sorted(tested.values(), key=lambda e: (order[e.modality], e.id))


def _paper_train(examples: Sequence[Example], tested: dict[str, Example], seed: int) -> list[Example]:
    names = {Path(reference).name for e in tested.values() for reference in e.images}  # the authors' copy has other folders
    tied = {leak.train_id for leak in leaks(examples, tested.values())}
    pool = [e for e in examples if e.modality == "mri" and e.id not in tied and names.isdisjoint(Path(reference).name for reference in e.images)]
    train = [replace(e, split="train") for part in drawn(components(pool), seed) for e in part][:PAPER_TRAIN]
    if len(train) < PAPER_TRAIN:
        raise DataError(f"{len(train)} MRI questions share nothing with the test set, and the paper trains on {PAPER_TRAIN}; convert the whole of OmniMedVQA")
    return train


def drawn(parts: Iterable[list[Example]], seed: int) -> list[list[Example]]:
    """The parts in the order that ``seed`` draws: that of the SHA-256 of the seed and each part's least id; inside a part, by id."""
    return sorted((sorted(part, key=lambda e: e.id) for part in parts), key=lambda part: digest(f"{seed}\n{part[0].id}"))


def fingerprint(example: Example) -> str:
    """16 hex digits by which a question is known in any copy of its corpus: image names, question, options, answer.

    Folders, case, spaces and the order of the options do not count.

    >>> e = Example("q1", ("images/a.png",), "Which plane?", ("axial", "coronal"), "axial", "mri")
    >>> f = Example("q2", ("data/x/a.png",), "Which  plane?", ("Coronal", "Axial"), "Axial", "mri")
    >>> fingerprint(e) == fingerprint(f)
    True
    """
    names = sorted(Path(reference).name for reference in example.images)
    texts = [" ".join(names), example.question, *sorted(option.casefold() for option in example.options), example.answer]
    return digest("\n".join(" ".join(text.casefold().split()) for text in texts))[:16]


def checksum(examples: Iterable[Example]) -> str:
    """SHA-256 over the sorted fingerprints: equal for two copies of the same questions, under whatever ids."""
    return hashlib.sha256("\n".join(sorted(map(fingerprint, examples))).encode()).hexdigest()


@lru_cache(maxsize=1)
def paper_fingerprints() -> frozenset[str]:
    """Those of the 900 test questions that the authors published; none of their text is kept here."""
    lines = files("medvlm_r1.data").joinpath("paper_test_900.txt").read_text("utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


def save(examples: Sequence[Example], out: Path) -> dict[str, Any]:
    """Write ``out``/manifest.jsonl and split.json; returns the latter: counts and checksums of each part. The pictures stay where they are."""
    if (out / "manifest.jsonl").exists():
        raise RunError(f'"{out}" already holds a manifest; choose another folder, or remove it')
    parts = {name: [e for e in examples if e.split == name] for name in ("train", "test")}
    out.mkdir(parents=True, exist_ok=True)
    write_manifest(out / "manifest.jsonl", examples)
    report = {
        name: {
            "questions": len(part),
            "modality": dict(sorted(Counter(e.modality for e in part).items())),
            "groups": len({(e.source, e.group or e.id) for e in part}),
            "ids_sha256": ids_sha256(part),
            "content_sha256": checksum(part),
        }
        for name, part in parts.items()
    }
    (out / "split.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report
