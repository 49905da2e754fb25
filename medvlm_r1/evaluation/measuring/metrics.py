"""From samples to the numbers of ``summary.json``. Pure; every share is a fraction of 1.

"mean" is always the mean over modalities, as the paper prints it, not over questions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from medvlm_r1.errors import DataError
from medvlm_r1.evaluation.measuring.calibration import calibration
from medvlm_r1.evaluation.measuring.clusters import cluster_gap, cluster_mean, cluster_rate, design_effect
from medvlm_r1.evaluation.measuring.statistics import Estimate, holm, maj_at_k, mcnemar, minimum_detectable_difference, pass_at_k
from medvlm_r1.evaluation.samples import STATUSES, Sample

Arms = dict[str, list[Sample]]


@dataclass(frozen=True)
class Measure:
    """What an answer is worth, from 0 to 1: the greedy one, and the mean of those drawn (None: none were)."""

    greedy: Callable[[Sample], float]
    drawn: Callable[[Sample], float | None]


ACCURACY = Measure(lambda s: float(s.correct), lambda s: s.sampled_accuracy)


def split_by(samples: Sequence[Sample], key: Callable[[Sample], str]) -> dict[str, list[Sample]]:
    """Samples by a key, in order of first appearance."""
    parts: dict[str, list[Sample]] = {}
    for sample in samples:
        parts.setdefault(key(sample), []).append(sample)
    return parts


def by_modality(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """Samples by modality, in order of first appearance."""
    return split_by(samples, lambda s: s.modality)


def per_question(samples: Sequence[Sample], value: Callable[[Sample], float]) -> tuple[list[Sample], list[float]]:
    """One sample of each question, and the question's mean value: one asked in several rotations counts once."""
    asked = split_by(samples, lambda s: s.id)
    return [few[0] for few in asked.values()], [_mean([value(s) for s in few]) for few in asked.values()]


def accuracy(samples: Sequence[Sample], by: Measure = ACCURACY) -> float:
    """Share of questions answered right by greedy answers (or the mean of another measure); whatever was not read as an answer is wrong."""
    return _mean(per_question(samples, by.greedy)[1])


def sampled_accuracy(samples: Sequence[Sample], by: Measure = ACCURACY) -> float | None:
    """Mean over questions of the share of right completions at temperature 1; None if none were drawn."""
    if not samples or any(by.drawn(s) is None for s in samples):
        return None
    return _mean(per_question(samples, _drawn(by))[1])


def _drawn(by: Measure) -> Callable[[Sample], float]:
    return lambda sample: by.drawn(sample) or 0.0


def _passes(sample: Sample, k: int) -> float:
    return pass_at_k(len(sample.sampled_answers), sum(sample.sampled_correct), k)


def _agrees(sample: Sample, k: int) -> float:
    return maj_at_k(sample.sampled_answers[:k], sample.gold)


def pass_curve(samples: Sequence[Sample]) -> dict[str, float]:
    """pass@k for k = 1, 2, 4, … up to the number of completions that every question has.

    With few options this says little: eight guesses among three are nearly always enough.
    """
    most = min((len(s.sampled_answers) for s in samples), default=0)
    sizes = [2**i for i in range(most.bit_length())]
    return {str(k): _mean(per_question(samples, partial(_passes, k=k))[1]) for k in sizes}


def majority_curve(samples: Sequence[Sample]) -> dict[str, float]:
    """maj@k: accuracy of the most frequent answer of the first k completions, k = 1, 2, 4, … and all that every question has."""
    most = min((len(s.sampled_answers) for s in samples), default=0)
    sizes = sorted({2**i for i in range(most.bit_length())} | {most} - {0})
    return {str(k): _mean(per_question(samples, partial(_agrees, k=k))[1]) for k in sizes}


def chance(samples: Sequence[Sample]) -> dict[str, Any]:
    """Expected accuracy of guessing an option: mean of 1/k per modality, and over modalities."""
    cells: dict[str, Any] = {
        modality: {"accuracy": sum(1 / len(s.options) if s.options else 0.0 for s in part) / len(part), "n": len(part)}
        for modality, part in by_modality(samples).items()
    }
    return cells | {"mean": _mean([cell["accuracy"] for cell in cells.values()])}


def arm_table(samples: Sequence[Sample]) -> dict[str, Any]:
    """One arm: a cell for each modality, and "mean", the mean of their greedy accuracies."""
    cells: dict[str, Any] = {modality: _cell(part) for modality, part in by_modality(samples).items()}
    return cells | {"mean": _mean([cell["accuracy"] for cell in cells.values()])}


def _cell(samples: Sequence[Sample]) -> dict[str, Any]:
    return cell(samples) | {"pass_at_k": pass_curve(samples), "maj_at_k": majority_curve(samples)}


def cell(samples: Sequence[Sample], by: Measure = ACCURACY) -> dict[str, Any]:
    """The mean of a measure with its interval, the number of questions and of patients, and the mean of drawn answers."""
    firsts, right = per_question(samples, by.greedy)
    groups = [s.cluster for s in firsts]
    found = cluster_rate(right, groups)
    return {"accuracy": found.value, "ci95": found.ci95, "n": len(right), "groups": len(set(groups)), "sampled": sampled_accuracy(samples, by)}


def overall(samples: Sequence[Sample], by: Measure = ACCURACY) -> dict[str, Any]:
    """Mean over modalities with an interval that moves whole groups, greedy and sampled."""
    greedy = _rate(*per_question(samples, by.greedy))
    counts = {"n": len({s.id for s in samples}), "groups": len({s.cluster for s in samples})}
    numbers: dict[str, Any] = {"accuracy": greedy.value, "ci95": greedy.ci95} | counts
    if any(by.drawn(s) is None for s in samples):
        return numbers | {"sampled": None, "sampled_ci95": None}
    drawn = _rate(*per_question(samples, _drawn(by)))
    return numbers | {"sampled": drawn.value, "sampled_ci95": drawn.ci95}


def out_of_distribution_gap(samples: Sequence[Sample], trained: str) -> dict[str, Any] | None:
    """Greedy accuracy in the trained modality minus the mean over the others: what does not carry over. None without both.

    The modalities' questions differ in difficulty before any training, so a gap alone
    blames nobody: set it beside the base's.
    """
    modalities = [s.modality for s in samples]
    if trained not in modalities or len(set(modalities)) < 2:
        return None
    firsts, right = per_question(samples, ACCURACY.greedy)
    found = cluster_gap(right, [s.cluster for s in firsts], [s.modality for s in firsts], trained)
    return {"trained": trained, "gap": found.value, "ci95": found.ci95}


def statuses(samples: Sequence[Sample]) -> dict[str, float]:
    """Share of the greedy completions with each status; they add up to 1."""
    return {status: sum(s.status == status for s in samples) / len(samples) for status in STATUSES}


def by_question_type(samples: Sequence[Sample]) -> dict[str, dict[str, dict[str, Any]]]:
    """modality -> question type -> {accuracy, ci95, n, sampled}."""
    return {
        modality: {kind: _cell(few) for kind, few in sorted(split_by(part, lambda s: s.question_type).items())}
        for modality, part in by_modality(samples).items()
    }


Pair = tuple[list[Sample], list[Sample]]  # what two sides said to one question; several samples where it was asked several times


def compare(after: Sequence[Sample], before: Sequence[Sample], same: bool = True, by: Measure = ACCURACY) -> dict[str, Any]:
    """Two models, or two arms of one, on the same questions: after − before.

    ``mean_difference`` is the mean over modalities of the mean difference per
    question, of sampled accuracy where both have it, else of greedy answers
    (``measure`` says which); its interval and p move and flip whole groups.
    ``greedy`` holds the same for greedy answers, and the exact McNemar test of
    all questions together. A question asked several times counts by its mean,
    and in McNemar's test where it is all right on one side and all wrong on the other.
    ``minimum_detectable`` is the true difference that as many questions, as often
    discordant, would find 4 times out of 5; see ``_detectable`` for what it leaves out.
    Questions with a completion that could not be had, on either side, are left out.
    Raises DataError if the questions differ, or none is left; with ``same=False`` those that both have are compared.
    """
    if same:
        require_same(after, before)
    pairs = _pairs(after, before)
    greedy = [accuracy(a, by) - accuracy(b, by) for a, b in pairs]
    sampled = [x - y for a, b in pairs if (x := sampled_accuracy(a, by)) is not None and (y := sampled_accuracy(b, by)) is not None]
    measure = "sampled" if len(sampled) == len(pairs) else "greedy"
    chosen = sampled if measure == "sampled" else greedy
    gained, lost = greedy.count(1.0), greedy.count(-1.0)
    return {
        **_difference(pairs, chosen),
        "measure": measure,
        "n": len(pairs),
        "by_modality": _per_modality(pairs, chosen),
        "greedy": {
            **_difference(pairs, greedy),
            "gained": gained,
            "lost": lost,
            "p_mcnemar": mcnemar(gained, lost),
            "by_modality": _per_modality(pairs, greedy),
        },
    }


def summary(arms: Arms, baselines: dict[str, dict[str, Any]], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """``summary.json`` but for the seconds; ``pairs`` names (after, before) arms to compare.

    ``baselines`` is kept as given, with chance added from the questions themselves.
    """
    first = next(iter(arms.values()))
    paired = {f"{a}-{b}": compare(arms[a], arms[b], same=False) for a, b in pairs if comparable(arms[a], arms[b])}
    for pair, p in zip(paired.values(), holm([pair["p"] for pair in paired.values()]), strict=True):
        pair["p_holm"] = p
    for pair, p in zip(paired.values(), holm([pair["greedy"]["p"] for pair in paired.values()]), strict=True):
        pair["greedy"]["p_holm"] = p
    return {
        "arms": {name: arm_table(samples) for name, samples in arms.items()},
        "overall": {name: overall(samples) for name, samples in arms.items()},
        "paired": paired,
        "baselines": {"chance": chance(first)} | baselines,
        "calibration": {name: calibration(samples) for name, samples in arms.items()},
        "status": {name: statuses(samples) for name, samples in arms.items()},
        "by_question_type": {name: by_question_type(samples) for name, samples in arms.items()},
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _rate(samples: Sequence[Sample], values: Sequence[float]) -> Estimate:
    return cluster_rate(values, [s.cluster for s in samples], [s.modality for s in samples])


def require_same(after: Sequence[Sample], before: Sequence[Sample]) -> None:
    """Raises DataError unless both sides hold the same questions, each once."""
    new, old = {s.id: s for s in after}, {s.id: s for s in before}
    if len(old) != len(before) or len(new) != len(after):
        raise DataError("a question id occurs twice in an evaluation; ids must be unique to pair two models")
    if new.keys() != old.keys():
        odd = min(new.keys() ^ old.keys())
        raise DataError(f'"{odd}" is in only one of the two evaluations; evaluate both on the same questions')
    for a, b in ((a, old[id]) for id, a in new.items()):
        if (a.question, a.options, a.gold, a.modality) != (b.question, b.options, b.gold, b.modality):
            raise DataError(f'"{a.id}" has other options or another question in the two evaluations; evaluate both on the same questions')


def _pairs(after: Sequence[Sample], before: Sequence[Sample]) -> list[Pair]:
    new, old = split_by(shared(after, before), lambda s: s.id), split_by(before, lambda s: s.id)
    if not new:
        raise DataError("the two evaluations have no answered question in common; evaluate both on the same questions")
    return [(a, old[id]) for id, a in new.items()]


def shared(samples: Sequence[Sample], others: Sequence[Sample]) -> list[Sample]:
    """The samples of questions that the others have too, with every completion there on both sides."""
    ids = {s.id for s in others} - {s.id for s in (*samples, *others) if s.status == "failed"}
    return [s for s in samples if s.id in ids]


def comparable(after: Sequence[Sample], before: Sequence[Sample]) -> bool:
    """Whether there is a question that both have, with every completion there."""
    return bool(shared(after, before))


def _difference(pairs: Sequence[Pair], values: Sequence[float]) -> dict[str, Any]:
    firsts = [a for [a, *_], _ in pairs]
    found = cluster_mean(values, [s.cluster for s in firsts], [s.modality for s in firsts])
    return {"mean_difference": found.value, "ci95": found.ci95, "p": found.p, "minimum_detectable": _detectable(pairs, values)}


def _detectable(pairs: Sequence[Pair], values: Sequence[float]) -> float | None:
    """Connor's difference, of n questions divided by the design effect of their groups; None where nothing was discordant.

    The mean square of the differences stands for the discordant share, which it is for
    greedy answers. All questions count alike here, so a small modality's larger part in
    the mean over modalities is left out, and so is the noise of the two estimates it is made from.
    """
    discordant = _mean([value * value for value in values])
    independent = len(values) / design_effect(values, [a.cluster for [a, *_], _ in pairs])
    return minimum_detectable_difference(independent, discordant) if discordant else None


def _per_modality(pairs: Sequence[Pair], values: Sequence[float]) -> dict[str, Any]:
    parts: dict[str, list[int]] = {}
    for i, ([a, *_], _) in enumerate(pairs):
        parts.setdefault(a.modality, []).append(i)
    return {m: _difference([pairs[i] for i in part], [values[i] for i in part]) for m, part in parts.items()}
