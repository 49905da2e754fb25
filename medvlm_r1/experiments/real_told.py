"""What the study on the real base found: numbers by arm and modality, differences with intervals, and their tables. No file, no model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medvlm_r1.evaluation.measuring import metrics, thoughts
from medvlm_r1.evaluation.measuring.agreement import thought_effect
from medvlm_r1.evaluation.measuring.seeds import by_seed
from medvlm_r1.evaluation.measuring.thoughts import by_luck, has_form
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.experiments.study import HEADINGS, MODALITIES, estimate, points

TESTS = ("image", "blank", "mismatch", "half-thought", "swapped-thought")
SCOPES = {"all": MODALITIES, "mri": ("mri",), "ct+xray": ("ct", "xray")}
PAIRS = (("grpo", "base"), ("grpo", "sft"), ("grpo", "early"), ("contrast", "grpo"))
COMPARED = ("sampled", "greedy", "blank", "mismatch")
Found = tuple[Mapping[str, Sequence[Sample]], float]
Value = Callable[[Sample], float]


def _right(sample: Sample) -> float:
    return float(sample.correct)


def _of_drawn(value: Callable[[thoughts.Said], bool]) -> Value:
    """The mean over a question's drawn answers."""
    return lambda sample: _mean([float(value(said)) for said in thoughts.drawn(sample)])


def _of_greedy(value: Callable[[thoughts.Said], bool]) -> Value:
    return lambda sample: float(value(thoughts.greedy(sample)))


NAMES: dict[str, Callable[[thoughts.Said], bool]] = {
    "finding is the choice": lambda said: said.finds_choice,
    "finding is right": lambda said: said.finds_gold,
    "last named is the choice": lambda said: said.names_choice,
}
# Measure -> the test whose answers it is about, and what one is worth.
MEASURES: dict[str, tuple[str, Value]] = {
    "sampled": ("image", _of_drawn(lambda said: said.is_right)),
    "greedy": ("image", _right),
    **{shown: (shown, _right) for shown in TESTS[1:]},
    **{name: ("image", _of_greedy(value)) for name, value in NAMES.items()},
    **{f"{name}, sampled": ("image", _of_drawn(value)) for name, value in NAMES.items()},
}
OF_THOUGHTS = [*TESTS[3:], *(name for name in MEASURES if name.partition(",")[0] in NAMES)]


def results(named: Mapping[str, tuple[str, bool]], found: Mapping[str, Sequence[Found]]) -> dict[str, Any]:
    """Of every arm the means over seeds, by scope; of every pair the differences, with intervals of seeds and patients together.

    ``named``: each arm's label, and whether it is asked to think. ``found``: what it answers under each seed, or once for all of them, as the base.
    """
    paired = {
        f"{a} - {b}": {m: {s: _told(m, SCOPES[s], found[a], _beside(found[a], found[b])) for s in SCOPES} for m in COMPARED}
        for a, b in PAIRS
        if a in named and b in named
    }
    arms = {name: {"label": label} | _numbers(found[name], thinks) for name, (label, thinks) in named.items()}
    return {"chance": metrics.chance(found["base"][0][0]["image"]), "arms": arms, "paired": paired}


def _beside(per_seed: Sequence[Found], other: Sequence[Found]) -> Sequence[Found]:
    """The other's answers for each seed of the first: what was asked once stands beside all of them."""
    return list(other) * len(per_seed) if len(other) == 1 else other


def _numbers(per_seed: Sequence[Found], thinks: bool) -> dict[str, Any]:
    scopes = {"all": MODALITIES} | {modality: (modality,) for modality in MODALITIES}
    measures = {name: {scope: _told(name, wanted, per_seed) for scope, wanted in scopes.items()} for name in MEASURES if thinks or name not in OF_THOUGHTS}
    found = {"measures": measures, "form": _form(per_seed, thinks), "english": [perplexity for _, perplexity in per_seed]}
    if not thinks:
        return found
    effects = {name: [thought_effect(answers["image"], answers[name]) for answers, _ in per_seed if name in answers] for name in TESTS[3:]}
    return found | {"right_under_wrong_thoughts": {scope: _lucky(per_seed, wanted) for scope, wanted in scopes.items()}, "thought_changed": effects}


def _told(measure: str, modalities: Sequence[str], after: Sequence[Found], before: Sequence[Found] | None = None) -> dict[str, Any] | None:
    """Mean over seeds and modalities, of a difference where there is something before; of questions that all sides were asked. None where there are none.

    Sides are read seed by seed: the first of one with the first of the other.
    """
    test, value = MEASURES[measure]
    sides = [{s.id: s for s in answers.get(test, ())} for answers, _ in (*after, *(before or ()))]
    common = [s for id, s in sides[0].items() if s.modality in modalities and all(id in side for side in sides)]
    if not common:
        return None
    values_SN = [[value(side[s.id]) for s in common] for side in sides]
    if before is not None:
        n = len(after)
        values_SN = [[a - b for a, b in zip(*both, strict=True)] for both in zip(values_SN[:n], values_SN[n:], strict=True)]
    patients = [s.cluster for s in common]
    told = values_SN if len(set(patients)) > 1 else [[_mean(of_question) for of_question in zip(*values_SN, strict=True)]]  # one patient shows no variance
    found = estimate(told, patients, [s.modality for s in common])
    return {"value": found.value, "ci95": found.ci95, "p": found.p, "n": len(common), "seeds": by_seed(values_SN, [s.modality for s in common])}


def _lucky(per_seed: Sequence[Found], modalities: Sequence[str]) -> dict[str, Any]:
    """Of right letters the share under thoughts that name another option, all seeds together, and each seed's."""
    samples = [[s for s in answers["image"] if s.modality in modalities] for answers, _ in per_seed]
    ways = {"greedy": lambda s: [thoughts.greedy(s)], "sampled": thoughts.drawn}
    return {
        way: by_luck([said for one in samples for s in one for said in of(s)]) | {"seeds": [by_luck([said for s in one for said in of(s)]) for one in samples]}
        for way, of in ways.items()
    }


def _form(per_seed: Sequence[Found], thinks: bool) -> dict[str, float]:
    """Share of answers that keep to the form."""
    samples = [s for answers, _ in per_seed for s in answers["image"]]
    return {
        "greedy": _mean([float(has_form(s.text, thinks)) for s in samples]),
        "sampled": _mean([float(has_form(text, thinks)) for s in samples for text in s.sampled_texts]),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def table(result: Mapping[str, Any]) -> str:
    """Markdown: accuracy by modality; what becomes of it under other pictures and thoughts, and what the thoughts name; the differences."""
    arms, chance = result["arms"].values(), result["chance"]
    lines = [f"| sampled / greedy | {' | '.join(HEADINGS[m] for m in MODALITIES)} | mean |", "|---" * 5 + "|"]
    lines.append("| chance | " + " | ".join(f"{100 * v:.1f}" for v in (*(chance[m]["accuracy"] for m in MODALITIES), chance["mean"])) + " |")
    for arm in arms:
        cells = [" / ".join(_with_ends(arm["measures"][way][scope]) for way in ("sampled", "greedy")) for scope in (*MODALITIES, "all")]
        lines.append(f"| {arm['label']} | {' | '.join(cells)} |")
    head = ["blank", "other patient", "half thought", "other thought", *NAMES, "right under a wrong thought", "form", "perplexity"]
    lines += ["", f"| greedy | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|", *map(_second, arms)]
    for measure in COMPARED:
        lines += ["", f"| {measure} | all three | MRI | CT + X-ray |", "|---" * 4 + "|"]
        for name, found in result["paired"].items():
            a, b = (result["arms"][side]["label"] for side in name.split(" - "))
            lines.append(f"| {a}, minus {b} | {' | '.join(_difference(found[measure][scope]) for scope in SCOPES)} |")
    return "\n".join(lines)


def _second(arm: Mapping[str, Any]) -> str:
    of = {name: _percent(found["all"]) for name, found in arm["measures"].items()}
    cells = [of.get(name, "–") for name in TESTS[1:]]
    cells += [f"{of[f'{name}, sampled']} / {of[name]}" if name in of else "–" for name in NAMES]
    luck = arm.get("right_under_wrong_thoughts", {}).get("all")
    cells += [" / ".join(f"{luck[way]['by_luck']} of {luck[way]['right']}" for way in ("sampled", "greedy")) if luck else "–"]
    cells += [" / ".join(f"{100 * arm['form'][way]:.1f}" for way in ("sampled", "greedy")), f"{_mean(arm['english']):.1f}"]
    return f"| {arm['label']} | {' | '.join(cells)} |"


def _percent(found: Mapping[str, Any] | None) -> str:
    return "–" if found is None else f"{100 * found['value']:.1f}"


def _with_ends(found: Mapping[str, Any]) -> str:
    ends = f" ({100 * found['ci95'][0]:.0f}–{100 * found['ci95'][1]:.0f})" if found["ci95"] else ""
    return _percent(found) + ends


def _difference(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    return points(found["value"], found["ci95"]) if found["ci95"] else f"{100 * found['value']:+.1f}"
