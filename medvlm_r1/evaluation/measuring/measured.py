"""Every number of a report's tables, computed once from its samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from medvlm_r1.evaluation.measuring.looking import Looking, judge
from medvlm_r1.evaluation.measuring.metrics import Arms, arm_table, by_question_type, comparable, compare, overall, statuses
from medvlm_r1.evaluation.measuring.statistics import holm


@dataclass(frozen=True)
class ArmNumbers:
    """One model under one arm. ``against`` is image minus this arm, None for "image" itself; ``p_holm`` is over the model's arms."""

    table: dict[str, Any]
    mean: dict[str, Any]
    statuses: dict[str, float]
    n: int
    against: dict[str, Any] | None = None
    p_holm: float | None = None


@dataclass(frozen=True)
class ModelNumbers:
    """One model: arm -> numbers, whether it looks, and its accuracy by modality and question type."""

    arms: dict[str, ArmNumbers]
    looking: Looking
    by_type: dict[str, dict[str, dict[str, Any]]]


def measure(arms: Arms, trained_under: Sequence[str] = ()) -> ModelNumbers:
    """All numbers of one model; every arm is compared with "image" on the questions that both have."""
    against = {name: compare(arms["image"], samples, same=False) for name, samples in arms.items() if name != "image" and comparable(arms["image"], samples)}
    adjusted = dict(zip(against, holm([found["greedy"]["p"] for found in against.values()]), strict=True))
    numbers = {
        name: ArmNumbers(arm_table(samples), overall(samples), statuses(samples), len(samples), against.get(name), adjusted.get(name))
        for name, samples in arms.items()
    }
    return ModelNumbers(numbers, judge(arms, against, trained_under), by_question_type(arms["image"]))


def between(models: Mapping[str, Arms]) -> list[dict[str, Any]]:
    """Each model against each other on the questions that both were asked, the last first; p adjusted by Holm.

    A row is what ``metrics.compare`` gives, with "after", "before", "p_holm", and
    "p_mcnemar_holm" for the exact test of the greedy answers; "greedy" has its own "p_holm".
    """
    rows = []
    for before, after in reversed(list(combinations(models, 2))):
        new, old = models[after]["image"], models[before]["image"]
        if comparable(new, old):
            rows.append({"after": after, "before": before} | compare(new, old, same=False))
    p_holm, p_greedy = holm([row["p"] for row in rows]), holm([row["greedy"]["p"] for row in rows])
    p_mcnemar = holm([row["greedy"]["p_mcnemar"] for row in rows])
    for row, p, greedy, exact in zip(rows, p_holm, p_greedy, p_mcnemar, strict=True):
        row |= {"p_holm": p, "p_mcnemar_holm": exact, "greedy": row["greedy"] | {"p_holm": greedy}}
    return rows
