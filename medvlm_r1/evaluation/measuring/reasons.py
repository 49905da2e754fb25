"""Does the reasoning matter? What the arms of one model say about it, and as rows of a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medvlm_r1.evaluation.asking.arms import FORCED
from medvlm_r1.evaluation.measuring.agreement import agreement, contradictions, thought_effect
from medvlm_r1.evaluation.measuring.claims import claims
from medvlm_r1.evaluation.measuring.flips import flips
from medvlm_r1.evaluation.measuring.metrics import comparable
from medvlm_r1.evaluation.samples import Sample


@dataclass(frozen=True)
class Reason:
    """One row: a share or a difference (``is_difference``), in fractions of 1.

    >>> Reason("Answers that are what their thought names last", 0.97, (0.95, 0.98), 885, "").is_difference
    False
    """

    what: str
    value: float
    ci95: tuple[float, float] | None
    n: int
    meaning: str
    is_difference: bool = False


def reasons(arms: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """What can be told of one model from the arms that it was asked under; see ``agreement``, ``claims`` and ``counterfactual``.

    Nothing of arms of which no answer could be had.
    """
    image = arms["image"]
    found: dict[str, Any] = {"agreement": agreement(image), "contradictions": contradictions(image)}
    if told := claims(image):
        found["claims"] = told
    found |= {name: thought_effect(image, arms[name]) for name in FORCED if name in arms and comparable(arms[name], image)}
    if "counterfactual" in arms and comparable(arms["counterfactual"], image):
        found["counterfactual"] = flips(image, arms["counterfactual"])
    return found


def rows(found: Mapping[str, Any]) -> list[Reason]:
    """The result of ``reasons`` as a reader wants it; what no sample could show is left out."""
    table = [*_agreement(found["agreement"]), *_contradicted(found.get("contradictions")), *_claims(found.get("claims"))]
    for name, what in {"empty-thought": "emptied", "half-thought": "cut after half of its words", "swapped-thought": "taken from another question"}.items():
        table += _effect(found.get(name), what)
    return table + _counterfactual(found.get("counterfactual"))


def _agreement(found: dict[str, Any]) -> list[Reason]:
    if not found["n"]:
        return []
    silent = found["names_none"] + found["no_thought"]
    meaning = f"of the answers whose thought names an option; {silent:,} name none"
    return [Reason("The answer is what the thought names last", found["agrees"], found["ci95"], found["n"], meaning)]


def _contradicted(found: dict[str, Any] | None) -> list[Reason]:
    if not found or not found["contradicted"]:
        return []
    without = "" if found["accuracy_without"] is None else f", {100 * found['accuracy_without']:.1f} % without them"
    meaning = f"of all answers; a reader is warned of these; accuracy {100 * found['accuracy']:.1f} %{without}"
    return [Reason("Answers that contradict their thought", found["contradicted"], found["ci95"], found["n"], meaning)]


def _claims(found: dict[str, Any] | None) -> list[Reason]:
    if not found or not found["n_claims"]:
        return []
    elsewhere = f"; {100 * found['elsewhere']:.1f} % hold of another patient's picture too" if found["elsewhere"] is not None else ""
    return [
        Reason(
            "Claims of the thought that the picture confirms", found["confirmed"], found["ci95"], found["n_claims"], f"by the phantom's ground truth{elsewhere}"
        )
    ]


def _effect(found: dict[str, Any] | None, what: str) -> list[Reason]:
    if not found:
        return []
    gap = found["difference"]
    after = f"accuracy {100 * found['own']:.1f} % with its own thought, {100 * found['other']:.1f} % with this one"
    table = [Reason(f"Thought {what}", gap["mean_difference"], gap["ci95"], found["n"], after, is_difference=True)]
    if what.startswith("taken") and found["follows"]["n"]:
        follows = found["follows"]
        table.append(Reason("… the answer goes with the foreign thought", follows["share"], follows["ci95"], follows["n"], "where that names another option"))
    return table


def _counterfactual(found: dict[str, Any] | None) -> list[Reason]:
    if not found or not found["n_right_before"]:
        return []
    n, chance = found["n_right_before"], f"of those right before; guessing would follow in {100 * found['chance']:.1f} %"
    shares = {
        "Lesion changed: the answer follows": (found["follows"], chance),
        "… the answer stays as it was": (found["sticks"], "and is wrong now"),
        "… the thought names the new fact": (found["thought"]["names_new"], "which only the changed picture shows"),
    }
    return [Reason(what, share["share"], share["ci95"], n, meaning) for what, (share, meaning) in shares.items()]
