"""What a question set holds, in counts."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from medvlm_r1.errors import ImageError
from medvlm_r1.types import Example


def summary(examples: Sequence[Example]) -> dict[str, Any]:
    """Counts by modality, split, question type, number of options, images a question, and source.

    >>> e = Example("q1", ("a.png",), "Which plane?", ("axial", "coronal"), "axial", "mri", split="test")
    >>> f = Example("q2", ("a.png",), "What is it?", (), "A cyst.", "ct")
    >>> found = summary([e, f])
    >>> found["modality"], found["options"], found["images"], found["split"]
    ({'ct': 1, 'mri': 1}, {'0': 1, '2': 1}, 1, {'': 1, 'test': 1})
    """
    return {
        "questions": len(examples),
        "images": len({reference for e in examples for reference in e.images}),
        "groups": len({(e.source, e.group) for e in examples if e.group}),
        **{key: _counts(getattr(e, key) for e in examples) for key in ("modality", "split", "question_type", "source")},
        "options": _counts(str(len(e.options)) for e in examples),
        "images_per_question": _counts(str(len(e.images)) for e in examples),
    }


def image_sizes(examples: Sequence[Example], size_of: Callable[[str], tuple[int, int]]) -> dict[str, Any]:
    """Widths and heights of every picture once: {"read", "failed", "width": [least, median, greatest], "height": …}."""
    sizes, failed = [], 0
    for reference in dict.fromkeys(reference for e in examples for reference in e.images):
        try:
            sizes.append(size_of(reference))
        except ImageError:
            failed += 1
    spread = {name: _spread([size[axis] for size in sizes]) for axis, name in enumerate(("width", "height"))} if sizes else {}
    return {"read": len(sizes), "failed": failed, **spread}


def ids_sha256(examples: Sequence[Example]) -> str:
    """The checksum of a set of questions: SHA-256 over the sorted ids, one a line. Order does not matter.

    >>> e, f = (Example(id, (), "Which?", (), "a", "ct") for id in ("q1", "q2"))
    >>> ids_sha256([e, f]) == ids_sha256([f, e]) != ids_sha256([e])
    True
    """
    return hashlib.sha256("\n".join(sorted(e.id for e in examples)).encode()).hexdigest()


def _counts(values: Any) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _spread(values: list[int]) -> list[int]:
    ordered = sorted(values)
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]]
