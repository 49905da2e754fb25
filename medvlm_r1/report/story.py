"""What a report tells, as plain numbers and one sentence: computed from samples, without any layout."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from medvlm_r1.errors import DataError
from medvlm_r1.evaluation.measuring import free_text
from medvlm_r1.evaluation.measuring.looking import LEANS, LOOKS, NOT_SHOWN, PARTLY, UNCLEAR, Looking
from medvlm_r1.evaluation.measuring.measured import ModelNumbers, between, measure
from medvlm_r1.evaluation.measuring.metrics import Arms, accuracy, by_modality, chance, sampled_accuracy, shared
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.wording import interval, modality_name, percent, points

LABELS = {"chance": "Chance", "text_prior": "Text prior", "base": "Base", "sft": "SFT", "grpo": "GRPO"}


@dataclass(frozen=True)
class Story:
    """All that a report tells.

    models: name -> arm -> samples, in row order; every model has the arm "image".
        The last is the model that the page is about, the first what it is held against.
    open: the same for the questions without options, which stand apart; where all are such, the arms of ``models`` are empty.
    is_lineage: the last was trained from the first, so that training "raised" or "lowered" what differs.
    labels: what a model or baseline is called where its name is not what a reader should see.
    baselines: "chance" and "text_prior" -> modality -> {"accuracy", "ci95"} or a
        plain number; chance is computed where it is not given.
    curves: run -> rows of its metrics.jsonl. seconds: phase -> seconds.
    by_prior: model -> what ``evaluation.measuring.by_prior`` found. trained_under: model -> the arms that its training showed it.
    settings: name -> value, may be nested; ``in_domain`` is the modality trained on (or a list).
    """

    title: str
    models: dict[str, Arms]
    labels: dict[str, str] = field(default_factory=dict)
    baselines: dict[str, dict[str, Any]] = field(default_factory=dict)
    curves: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    is_lineage: bool = False
    open: dict[str, Arms] = field(default_factory=dict)
    by_prior: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    trained_under: dict[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.models:
            raise DataError("a report needs at least one evaluated model")
        for name, arms in [*(self.models.items() if self.has_closed or not self.open else ()), *self.open.items()]:
            if not arms.get("image"):
                raise DataError(f'the model "{name}" has no answers under the arm "image", which the others are compared with; evaluate it')

    @property
    def has_closed(self) -> bool:
        """Whether any question has options."""
        return any(self.models.values())

    @property
    def trained(self) -> str:
        return list(self.models)[-1]

    @property
    def base(self) -> str:
        return next(iter(self.models))

    @cached_property
    def numbers(self) -> dict[str, ModelNumbers]:
        """Every model's numbers of questions with options."""
        return {name: measure(arms, self.trained_under.get(name, ())) for name, arms in self.models.items() if arms}

    @cached_property
    def comparisons(self) -> list[dict[str, Any]]:
        """Each model against each other, on questions with options."""
        return between(self.models) if self.has_closed else []

    @cached_property
    def open_numbers(self) -> dict[str, dict[str, Any]]:
        """Every model's numbers of questions without options, as ``free_text.numbers``."""
        return {name: free_text.numbers(arms) for name, arms in self.open.items()}

    @cached_property
    def open_comparisons(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Each model against each other, on questions without options."""
        return free_text.between(self.open)

    @property
    def asked(self) -> list[Sample]:
        """The trained model's answers to its own pictures; to questions with options, where there are any."""
        return (self.models if self.has_closed else self.open)[self.trained]["image"]

    @property
    def answers(self) -> dict[str, Arms]:
        """All answers, with options or without: model -> arm -> samples."""
        return {
            name: {arm: [*arms.get(arm, ()), *free.get(arm, ())] for arm in dict.fromkeys((*arms, *free))}
            for name, arms in self.models.items()
            for free in (self.open.get(name, {}),)
        }

    @property
    def modalities(self) -> list[str]:
        """Those of the trained model first, then what only others were asked."""
        return _modalities(self.models)

    @property
    def open_modalities(self) -> list[str]:
        """The same of questions without options."""
        return _modalities(self.open)

    def label(self, name: str) -> str:
        return (LABELS | self.labels).get(name, name)

    def in_domain(self, modality: str) -> bool | None:
        """Whether it was trained on; None where the settings do not say."""
        known = self.settings.get("in_domain")
        return None if known is None else modality in ([known] if isinstance(known, str) else known)


def _modalities(models: Mapping[str, Arms]) -> list[str]:
    return list(dict.fromkeys(m for arms in reversed(list(models.values())) for m in by_modality(arms.get("image", ()))))


def table_rows(story: Story, numbers: Mapping[str, ModelNumbers]) -> list[dict[str, Any]]:
    """Rows of the main table: baselines, the trained model without pictures, models. A cell per modality, then the mean."""
    if not story.has_closed:
        return []
    rows = [{"name": name, "label": story.label(name), "role": "baseline", "cells": _baseline_cells(story, cells)} for name, cells in baselines(story).items()]
    for name, of_model in numbers.items():
        if name == story.trained and "blank" in of_model.arms:
            rows.append(_row(story, f"{story.label(name)}, grey pictures", "baseline", of_model, "blank"))
        rows.append(_row(story, story.label(name), "trained" if name == story.trained else "model", of_model, "image"))
    return sorted(rows, key=lambda row: row["role"] != "baseline")


def baselines(story: Story) -> dict[str, dict[str, Any]]:
    """Chance and text prior, as far as they are known."""
    return {"chance": chance(story.asked)} | {name: cells for name, cells in story.baselines.items() if name != "blank_image"}


def _row(story: Story, label: str, role: str, numbers: ModelNumbers, arm: str) -> dict[str, Any]:
    found = numbers.arms[arm]
    return {"name": arm, "label": label, "role": role, "cells": [found.table.get(m, {}) for m in story.modalities] + [found.mean]}


def _baseline_cells(story: Story, cells: dict[str, Any]) -> list[dict[str, Any]]:
    """Numbers or cells, and their mean where every modality has one."""
    parts = [c if isinstance(c, dict) else {"accuracy": c} for c in (cells[m] for m in story.modalities if m in cells)]
    if len(parts) < len(story.modalities):
        return [_as_cell(cells.get(m)) for m in story.modalities] + [{}]
    mean: dict[str, Any] = {"accuracy": sum(c["accuracy"] for c in parts) / len(parts)}
    if all(c.get("ci95") for c in parts):  # independent parts: half-widths add in squares
        half = sum((c["ci95"][1] - c["ci95"][0]) ** 2 for c in parts) ** 0.5 / 2 / len(parts)
        mean["ci95"] = [max(0.0, mean["accuracy"] - half), min(1.0, mean["accuracy"] + half)]
    return [*parts, mean]


def _as_cell(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {} if value is None else {"accuracy": value}


def verdict(story: Story, numbers: Mapping[str, ModelNumbers], comparisons: Sequence[dict[str, Any]]) -> str:
    """One or two sentences: how good the trained model is or what training changed, whether it looks, and who is best without looking."""
    gain = next((c for c in comparisons if (c["after"], c["before"]) == (story.trained, story.base)), None)
    trained = numbers[story.trained]
    said = f"{_gain_clause(story, gain, trained)}, {_joined(trained.looking)}."
    right = {name: of_model.arms["image"].mean["accuracy"] for name, of_model in numbers.items()}
    best = max(right, key=lambda name: right[name])
    if right[best] > right[story.trained] and numbers[best].looking.level in (NOT_SHOWN, LEANS):
        said += f" {story.label(best)} has the highest accuracy and {_JOINED[numbers[best].looking.level]}."
    return said


_JOINED = {LOOKS: "looks at the image", LEANS: "leans on the text", NOT_SHOWN: "is not shown to look at the image"}


def _joined(looking: Looking) -> str:
    return {
        LOOKS: f"and it {looking.words.replace(LOOKS, 'looks at the image', 1)}",
        PARTLY: f"and it {looking.words}",
        LEANS: "but it leans on the text",
        UNCLEAR: "and whether it looks at the image is unclear",
        NOT_SHOWN: "but it is not shown to look at the image",
    }.get(looking.level, "and whether it looks at the image was not tested")


def _gain_clause(story: Story, gain: dict[str, Any] | None, trained: ModelNumbers) -> str:
    label = story.label(story.trained)
    if gain is None:
        found = trained.arms["image"]
        return f"{label} answers {percent(found.mean['accuracy'])} % right ({_of(story, found.mean['n'])})"
    before, after = _means(story, gain)
    difference = f"{points(gain['mean_difference'])} points, 95 % interval {interval(gain['ci95'], signed=True)}"
    if not story.is_lineage:
        asked = "sampled answers to " if gain["measure"] == "sampled" else ""
        mine, theirs = f"{percent(after)} % of {asked}questions right", f"{percent(before)} %"
        return f"{label} gets {mine}, {story.label(story.base)} {theirs} ({_of(story, gain['n'])}; {difference})"
    low, high = gain["ci95"] or (-1.0, 1.0)
    verb = "raised" if low > 0 else "lowered" if high < 0 else "did not clearly change"
    what = "sampled answers that are right" if gain["measure"] == "sampled" else "questions answered right"
    change = f"from {percent(before)} % to {percent(after)} % ({difference})"
    return f"{label} {verb} the share of {what} ({_of(story, gain['n'])}) {change}"


def _of(story: Story, n: int) -> str:
    names = [modality_name(m) for m in story.modalities]
    return f"{n:,} questions" + (f", mean over {', '.join(names)}" if len(names) > 1 else "")


def _means(story: Story, gain: dict[str, Any]) -> tuple[float, float]:
    """Mean over modalities before and after, by the measure that was compared."""
    before, after = (story.models[gain[side]]["image"] for side in ("before", "after"))
    return _mean(shared(before, after), gain["measure"]), _mean(shared(after, before), gain["measure"])


def _mean(samples: Sequence[Sample], measure: str) -> float:
    values = [sampled_accuracy(few) if measure == "sampled" else accuracy(few) for few in by_modality(samples).values()]
    return sum(value or 0.0 for value in values) / len(values)
