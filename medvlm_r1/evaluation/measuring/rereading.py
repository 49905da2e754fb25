"""The same answers read by the second rule, strict-2: how much of an accuracy is a matter of form."""

from collections.abc import Sequence
from dataclasses import replace

from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.evaluation.strict2 import STRICT_2, is_untagged, parse_2

__all__ = ["STRICT_2", "outside_tags", "reread"]


def reread(samples: Sequence[Sample]) -> list[Sample]:
    """The samples with answer, status and correctness by strict-2; a letter that strict-1 read stays, and so does what was cut off, failed or has no options.

    >>> s = Sample("q1", "ct", "", "", "Plane?", ("axial", "coronal"), "B", (), "image", "<answer>B) coronal</answer>", None, "unparsed", False, 3)
    >>> [(t.answer, t.status, t.correct) for t in reread([s])]
    [('B', 'answered', True)]
    """
    return [_read(s) if s.status == "unparsed" and s.options else s for s in samples]


def outside_tags(samples: Sequence[Sample]) -> float:
    """The share of all answers that strict-2 found outside any answer tag: the riskiest of what it reads."""
    return sum(s.answer is not None and is_untagged(s.text) for s in reread(samples)) / len(samples)


def _read(sample: Sample) -> Sample:
    letter = parse_2(sample.text, sample.options).answer
    return sample if letter is None else replace(sample, answer=letter, status="answered", correct=letter == sample.gold)
