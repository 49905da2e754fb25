"""What the order of the options does: the same question under every rotation, and which letters are chosen. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from medvlm_r1.evaluation.measuring.metrics import split_by
from medvlm_r1.evaluation.measuring.share import share
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.types import LETTERS


@dataclass(frozen=True)
class Share:
    """So many of n, as a fraction, and its interval, which moves whole groups.

    >>> Share(0.9, [0.826, 0.945], 100).value
    0.9
    """

    value: float
    ci95: list[float] | None
    n: int


@dataclass(frozen=True)
class Steadiness:
    """Over the questions that were asked in every rotation of their options.

    ``same`` chose the same option text each time, ``right`` was right each time,
    ``sometimes`` was right at least once.
    """

    same: Share
    right: Share
    sometimes: Share


def steadiness(samples: Sequence[Sample]) -> Steadiness | None:
    """None where no question was asked in all its rotations (as many as it has options, two at least)."""
    whole = [part for part in split_by(samples, lambda s: s.id).values() if len(part) == len(part[0].options) > 1]
    if not whole:
        return None
    same = [len(chosen := {chosen_text(s) for s in part}) == 1 and None not in chosen for part in whole]
    always, sometimes = ([how(s.correct for s in part) for part in whole] for how in (all, any))
    found = [share(hits, [part[0] for part in whole]) for hits in (same, always, sometimes)]
    return Steadiness(*(Share(each["share"], each["ci95"], each["n"]) for each in found))


def chosen_text(sample: Sample) -> str | None:
    """The text of the chosen option; None where no letter was read."""
    return sample.options[LETTERS.index(sample.answer)] if sample.answer else None


def letters(samples: Sequence[Sample]) -> dict[str, tuple[float, float]]:
    """Letter -> the share of the questions where it was chosen, and where it is right.

    The first need not add up to 1: what could not be read chose none.
    """
    asked = [s for s in samples if s.options]
    most = max((len(s.options) for s in asked), default=0)
    return {x: (sum(s.answer == x for s in asked) / len(asked), sum(s.gold == x for s in asked) / len(asked)) for x in LETTERS[:most]}
