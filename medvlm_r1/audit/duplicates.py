"""Pictures that occur twice, within a question set and across the split, exactly or nearly.

C classes of pictures with the same hash; N pictures; those of the training set
come behind those that are audited.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medvlm_r1.audit.hashing import NEAR_BITS, Failure, Fingerprint, LoadImage, fingerprints, near_pairs
from medvlm_r1.audit.prior import cluster, numbers
from medvlm_r1.data.images import DRAWN, SCHEMES, place, scheme_of
from medvlm_r1.types import Example

WHICH = ("files", "all", "none")
SKIPPED = ("missing", "unreadable", "drawn", "not_asked")
EXAMPLES = 6
_NONE = -1  # no group


@dataclass(frozen=True)
class Twin:
    """Two pictures that look alike; ``where`` is "within" or "across", ``bits`` is 0 to NEAR_BITS.

    >>> Twin("test/1.png", "train/7.png", "across", 2, exact=False, answers=("glioma", "no tumour")).answers
    ('glioma', 'no tumour')
    """

    reference: str
    other: str
    where: str
    bits: int
    exact: bool
    answers: tuple[str, str]


@dataclass(frozen=True)
class Pictures:
    """The hashed pictures of one or two question sets, side by side, and the group each belongs to."""

    found: list[Fingerprint]
    group_N: np.ndarray
    is_train_N: np.ndarray
    examples: list[Example]  # the first question that shows each


def duplicates(examples: Sequence[Example], train: Sequence[Example] | None, load_image: LoadImage, which: str, done: Callable[[int], None]) -> dict[str, Any]:
    """Counts of the pictures of ``examples`` that have a twin, and a few pairs.

    within: a twin among the audited, in another group (patient); across: one in
    ``train``. "near" counts the exact ones too. ``which`` names the pictures to
    open: "files", "all" (drawn ones too) or "none". "skipped" counts those of
    ``examples`` that were not opened; ``done`` hears of every one that was.
    """
    sides = [_references(examples), _references(train or ())]
    skipped = dict.fromkeys(SKIPPED, 0)
    reasons: list[str] = []
    kept: list[tuple[Fingerprint, bool]] = []
    for is_train, side in enumerate(sides):
        fates = {reference: _fate(reference, which) for reference in side}
        for result in fingerprints([reference for reference, fate in fates.items() if not fate], load_image):
            if isinstance(result, Failure):
                fates[result.reference] = "unreadable"
                reasons.append(result.reason)
            else:
                kept.append((result, bool(is_train)))
            done(1)
        if not is_train:
            skipped |= Counter(fate for fate in fates.values() if fate)
    pictures = _pictures(kept, sides)
    return {
        "pictures": len(sides[0]),
        "hashed": int((~pictures.is_train_N).sum()),
        "skipped": skipped,
        "reasons": reasons[:EXAMPLES],
        "shared_references": len(sides[0].keys() & sides[1].keys()),
        "near_bits": NEAR_BITS,
    } | _twins(pictures, has_train=train is not None)


def twinned(examples: Sequence[Example], train: Sequence[Example], load_image: LoadImage) -> list[Example]:
    """The questions with a picture that has a twin, exact or near, among the pictures of ``train``; broken ones have none."""
    sides = [_references(examples), _references(train)]
    found = [[f for f in fingerprints(list(side), load_image) if isinstance(f, Fingerprint)] for side in sides]
    pictures = _pictures([(f, bool(is_train)) for is_train, side in enumerate(found) for f in side], sides)
    near_N = _near(pictures)[1]
    seen = {pictures.found[row].reference for row in np.flatnonzero(near_N)}
    return [e for e in examples if not seen.isdisjoint(e.images)]


def n_pictures(examples: Sequence[Example], train: Sequence[Example] | None, which: str) -> int:
    """How many pictures ``duplicates`` will open."""
    return sum(not _fate(reference, which) for side in (examples, train or ()) for reference in _references(side))


def _references(examples: Sequence[Example]) -> dict[str, Example]:
    """Each picture once, with the first question that shows it."""
    found: dict[str, Example] = {}
    for example in examples:
        for reference in example.images:
            found.setdefault(reference, example)
    return found


def _fate(reference: str, which: str) -> str:
    """Why a picture is not opened, or ""."""
    is_drawn = scheme_of(reference) in DRAWN
    if which == "none":
        return "not_asked"
    if is_drawn:
        return "drawn" if which == "files" else ""
    return "" if scheme_of(reference) in SCHEMES or Path(place(reference)[0]).exists() else "missing"


def _pictures(kept: Sequence[tuple[Fingerprint, bool]], sides: Sequence[dict[str, Example]]) -> Pictures:
    shown = [sides[is_train][f.reference] for f, is_train in kept]
    is_train_N = np.array([is_train for _, is_train in kept], dtype=bool)
    return Pictures([f for f, _ in kept], numbers([cluster(e) for e in shown]), is_train_N, shown)


def _twins(pictures: Pictures, has_train: bool) -> dict[str, Any]:
    exact_N = numbers([f.pixels for f in pictures.found])
    nothing = np.empty((0, 2), dtype=np.int64)
    exact_within, exact_across = _has_twin(exact_N, nothing, pictures)
    near_within, near_across = _near(pictures)
    pairs = [*_examples(pictures, near_across, "across"), *_examples(pictures, near_within, "within")]
    return {
        "within": _counts(exact_within, near_within, pictures),
        "across": _counts(exact_across, near_across, pictures) if has_train else None,
        "examples": [asdict(pair) for pair in pairs],
    }


def _near(pictures: Pictures) -> tuple[np.ndarray, np.ndarray]:
    bits_C, class_N = np.unique(np.array([f.bits for f in pictures.found], dtype=np.uint64), return_inverse=True)
    return _has_twin(class_N, near_pairs(bits_C), pictures)


def _counts(is_exact_N: np.ndarray, is_near_N: np.ndarray, pictures: Pictures) -> dict[str, Any]:
    near_of = Counter(pictures.examples[row].modality for row in np.flatnonzero(is_near_N))
    return {"exact": int(is_exact_N.sum()), "near": int(is_near_N.sum()), "near_by_modality": dict(near_of)}


def _has_twin(class_N: np.ndarray, adjacent_P2: np.ndarray, pictures: Pictures) -> tuple[np.ndarray, np.ndarray]:
    """For each audited picture: is there another of its class, or of an adjacent one, of another group; and one in training?

    Of each class only its least and greatest group are kept: a picture has a
    neighbour of another group exactly when one of the two is not its own.
    """
    n, audited = int(class_N.max(initial=-1)) + 1, ~pictures.is_train_N
    least_C, most_C, trained_C = np.full(n, np.iinfo(np.int64).max), np.full(n, _NONE), np.zeros(n, dtype=bool)
    np.minimum.at(least_C, class_N[audited], pictures.group_N[audited])
    np.maximum.at(most_C, class_N[audited], pictures.group_N[audited])
    trained_C[class_N[~audited]] = True
    near_least_C, near_most_C, near_trained_C = least_C.copy(), most_C.copy(), trained_C.copy()
    for here, there in (adjacent_P2.T, adjacent_P2.T[::-1]):
        np.minimum.at(near_least_C, here, least_C[there])
        np.maximum.at(near_most_C, here, most_C[there])
        np.logical_or.at(near_trained_C, here, trained_C[there])
    group_N = pictures.group_N
    differs_N = (near_least_C[class_N] != group_N) | (near_most_C[class_N] != group_N)
    return differs_N & audited, near_trained_C[class_N] & audited


def _examples(pictures: Pictures, has_twin_N: np.ndarray, where: str) -> Iterator[Twin]:
    """Pairs from all over the set, each picture in one of them only, the most alike of each picture's partners."""
    rows = np.flatnonzero(has_twin_N)
    bits_N = np.array([f.bits for f in pictures.found], dtype=np.uint64)
    used: set[int] = set()
    spread = np.random.default_rng(0).permutation(rows)  # nobody chose them
    for row in spread:
        if len(used) >= 2 * EXAMPLES:
            return
        if int(row) in used:
            continue
        other_side = pictures.is_train_N if where == "across" else ~pictures.is_train_N & (pictures.group_N != pictures.group_N[row])
        distance_N = np.where(other_side, np.bitwise_count(bits_N ^ bits_N[row]), 65)
        other = int(distance_N.argmin())
        if other in used:
            continue
        used |= {int(row), other}
        first, second = pictures.found[row], pictures.found[other]
        answers = (pictures.examples[row].answer, pictures.examples[other].answer)
        yield Twin(first.reference, second.reference, where, int(distance_N[other]), first.pixels == second.pixels, answers)
