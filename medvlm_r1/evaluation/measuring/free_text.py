"""The numbers of questions without options: by the words of the answers, and by the yes or no they begin with.

Every question counts in one kind alone: where its reference is yes or no, under "yes_no"; else under
"exact", "f1" and "recall". Means, intervals and differences are those of ``metrics``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeVar

from medvlm_r1.evaluation.measuring.judged import judged
from medvlm_r1.evaluation.measuring.metrics import Arms, Measure, by_modality, cell, comparable, compare, overall, statuses
from medvlm_r1.evaluation.measuring.statistics import holm
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.rewards.text import Overlap, is_exact, is_right, is_yes_no

_Key = TypeVar("_Key")
_OF_VERDICTS = ("gained", "lost", "p_mcnemar")  # they count answers that are right or wrong, and say nothing of a share of words


@dataclass(frozen=True)
class Kind:
    """One number: what it is called, which questions it is of, how it is measured, and whether it is a verdict (0 or 1).

    >>> KINDS["f1"].name, KINDS["f1"].is_verdict
    ('F1', False)
    """

    name: str
    of_yes_no: bool
    measure: Measure
    is_verdict: bool

    def part(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples whose questions it is of."""
        return [s for s in samples if is_yes_no(s.gold) == self.of_yes_no]


def _by(score: Callable[[str, str], float]) -> Measure:
    """An answer that was not read is worth nothing."""

    def worth(answer: str | None, reference: str) -> float:
        return 0.0 if answer is None else float(score(answer, reference))

    def drawn(sample: Sample) -> float | None:
        worths = [worth(answer, sample.gold) for answer in sample.sampled_answers]
        return sum(worths) / len(worths) if worths else None

    return Measure(lambda s: worth(s.answer, s.gold), drawn)


KINDS = {
    "exact": Kind("Exact match", False, _by(is_exact), True),
    "f1": Kind("F1", False, _by(lambda answer, reference: Overlap.of(answer, reference).f1), False),
    "recall": Kind("Recall", False, _by(lambda answer, reference: Overlap.of(answer, reference).recall), False),
    "yes_no": Kind("Yes/no", True, _by(is_right), True),
}


def numbers(arms: Arms) -> dict[str, Any]:
    """One model's numbers, ready for ``summary.json`` and the page; {} where it was asked no such question.

    ``arms``: arm -> number -> modality -> {value, ci95, n, sampled}, and "mean" over the modalities.
    ``paired``: image minus each other arm on the questions that both asked; p adjusted by Holm over
    the arms, for each number apart. ``judge``: what ``judged`` finds in each arm; empty without a judge.
    """
    if not arms.get("image"):
        return {}
    others = {f"image-{name}": (arms["image"], samples) for name, samples in arms.items() if name != "image"}
    return {
        "n": {"free_text": len({s.id for s in KINDS["exact"].part(arms["image"])}), "yes_no": len({s.id for s in KINDS["yes_no"].part(arms["image"])})},
        "arms": {name: _table(samples) for name, samples in arms.items()},
        "status": {name: statuses(samples) for name, samples in arms.items()},
        "paired": _adjusted({name: _difference(image, other) for name, (image, other) in others.items()}),
        "judge": {name: found for name, samples in arms.items() if (found := judged(samples))},
    }


def between(models: Mapping[str, Arms]) -> dict[tuple[str, str], dict[str, Any]]:
    """(after, before) -> number -> difference of the later model and the earlier, as ``metrics.compare``; the last pair first."""
    pairs = [(after, before) for before, after in reversed(list(combinations(models, 2)))]
    return _adjusted({(after, before): _difference(models[after]["image"], models[before]["image"]) for after, before in pairs})


def _table(samples: Sequence[Sample]) -> dict[str, Any]:
    parts = {name: (kind, few) for name, kind in KINDS.items() if (few := kind.part(samples))}
    return {
        name: {modality: _named(cell(some, kind.measure)) for modality, some in by_modality(few).items()} | {"mean": _named(overall(few, kind.measure))}
        for name, (kind, few) in parts.items()
    }


def _named(found: dict[str, Any]) -> dict[str, Any]:
    return {"value" if key == "accuracy" else key: value for key, value in found.items()}


def _difference(after: Sequence[Sample], before: Sequence[Sample]) -> dict[str, Any]:
    found = {}
    for name, kind in KINDS.items():
        new, old = kind.part(after), kind.part(before)
        if comparable(new, old):
            row = compare(new, old, same=False, by=kind.measure)
            greedy = row["greedy"] if kind.is_verdict else {key: value for key, value in row["greedy"].items() if key not in _OF_VERDICTS}
            found[name] = row | {"greedy": greedy}
    return found


def _adjusted(pairs: dict[_Key, dict[str, Any]]) -> dict[_Key, dict[str, Any]]:
    """Each p beside its value adjusted over the pairs, for each number apart; of the greedy answers too."""
    for name in KINDS:
        rows = [pair[name] for pair in pairs.values() if name in pair]
        for part in (rows, [row["greedy"] for row in rows]):
            for row, p in zip(part, holm([row["p"] for row in part]), strict=True):
                row["p_holm"] = p
    return {name: pair for name, pair in pairs.items() if pair}
