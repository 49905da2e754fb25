"""What a report tells, as plain numbers and one sentence: computed from samples, without any layout."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from medvlm_r1.errors import DataError
from medvlm_r1.evaluation.metrics import accuracy, arm_table, by_modality, chance, compare, overall, sampled_accuracy
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.evaluation.statistics import holm

Pair = tuple[Sample, Sample]

MODALITIES = {"mri": "MRI", "ct": "CT", "xray": "X-ray", "oct": "OCT", "us": "Ultrasound", "ultrasound": "Ultrasound"}
LABELS = {
    "chance": "Chance",
    "text_prior": "Text prior",
    "blank_image": "Blank image",
    "base": "Base",
    "sft": "SFT",
    "grpo": "GRPO",
}

@dataclass(frozen=True)
class Story:
    """All that a report tells.

    arms: name -> samples, in row order; the last that was shown images is the
        trained model, "base" (else the first) what it started from. An arm whose
        samples say ``arm="blank"`` is the trained model without its images.
    baselines: "chance" and "text_prior" -> modality -> {"accuracy", "ci95"} or a
        plain number; chance is computed where it is not given.
    curves: run -> rows of its metrics.jsonl. seconds: phase -> seconds.
    settings: name -> value, may be nested; ``in_domain`` is the modality trained on (or a list).
    """

    title: str
    arms: dict[str, list[Sample]]
    labels: dict[str, str] = field(default_factory=dict)
    baselines: dict[str, dict[str, Any]] = field(default_factory=dict)
    curves: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not any(samples and samples[0].arm != "blank" for samples in self.arms.values()):
            raise DataError("a report needs at least one evaluated arm that was shown images")

    @property
    def models(self) -> list[str]:
        """The arms that were shown images, in row order."""
        return [name for name, samples in self.arms.items() if samples and samples[0].arm != "blank"]

    @property
    def trained(self) -> str:
        return self.models[-1]

    @property
    def base(self) -> str:
        return "base" if "base" in self.models else self.models[0]

    @property
    def blank(self) -> str | None:
        return next((name for name, samples in self.arms.items() if samples and samples[0].arm == "blank"), None)

    @property
    def modalities(self) -> list[str]:
        return list(by_modality(self.arms[self.trained]))

    def label(self, name: str) -> str:
        known = LABELS | ({self.blank: LABELS["blank_image"]} if self.blank else {}) | self.labels
        return known.get(name, name)

    def in_domain(self, modality: str) -> bool | None:
        """Whether it was trained on; None where the settings do not say."""
        known = self.settings.get("in_domain")
        return None if known is None else modality in ([known] if isinstance(known, str) else known)


def table_rows(story: Story) -> list[dict[str, Any]]:
    """Rows of the main table: baselines, blank image, models. Cells in the order of modalities, then the mean."""
    baselines = {"chance": chance(story.arms[story.trained])} | story.baselines
    if story.blank:
        baselines.pop("blank_image", None)
    rows = [
        {"name": name, "label": story.label(name), "role": "baseline", "cells": _baseline_cells(story, cells)}
        for name, cells in baselines.items()
    ]
    for name in [*([story.blank] if story.blank else []), *story.models]:
        role = "baseline" if name == story.blank else "trained" if name == story.trained else "model"
        table = arm_table(story.arms[name])
        cells = [table.get(m, {}) for m in story.modalities] + [overall(story.arms[name])]
        rows.append({"name": name, "label": story.label(name), "role": role, "cells": cells})
    return rows


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


def pair(before: Sequence[Sample], after: Sequence[Sample]) -> list[Pair]:
    """The questions that both have, in the order of ``after``."""
    old = {s.id: s for s in before}
    return [(old[s.id], s) for s in after if s.id in old]


def compared(story: Story) -> list[dict[str, Any]]:
    """The trained model against each other arm on the questions both have, p adjusted by Holm."""
    others = [*([story.blank] if story.blank else []), *[n for n in story.models if n != story.trained]]
    found = []
    for name in others:
        pairs = pair(story.arms[name], story.arms[story.trained])
        if pairs:
            result = compare([a for _, a in pairs], [b for b, _ in pairs])
            found.append({"name": name, "label": story.label(name), "means": _means(pairs, result["measure"])} | result)
    for row, p in zip(found, holm([row["p"] for row in found]), strict=True):
        row["p_holm"] = p
    return found


def _means(pairs: Sequence[Pair], measure: str) -> tuple[float, float]:
    """Mean over modalities before and after, by the measure that was compared."""
    cells = [[(accuracy(few), sampled_accuracy(few)) for few in by_modality(side).values()] for side in zip(*pairs, strict=True)]
    values = [[drawn if measure == "sampled" and drawn is not None else greedy for greedy, drawn in side] for side in cells]
    return sum(values[0]) / len(values[0]), sum(values[1]) / len(values[1])


def gains(story: Story, rows: Sequence[dict[str, Any]], comparisons: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The trained model's lead over every other row, means over modalities, with 95 % intervals.

    Leads over baselines are of greedy answers, unpaired: half-widths add in squares.
    """
    trained = rows[-1]["cells"][-1]
    paired = {c["name"]: c for c in comparisons}
    found = []
    for row in rows[:-1]:
        mean = row["cells"][-1]
        if row["name"] in paired:
            c = paired[row["name"]]
            lead = {"difference": c["mean_difference"], "ci95": c["ci95"], "measure": c["measure"]}
        elif mean:
            low, high = mean.get("ci95") or (mean["accuracy"], mean["accuracy"])
            difference = trained["accuracy"] - mean["accuracy"]
            below = ((trained["accuracy"] - trained["ci95"][0]) ** 2 + (high - mean["accuracy"]) ** 2) ** 0.5
            above = ((trained["ci95"][1] - trained["accuracy"]) ** 2 + (mean["accuracy"] - low) ** 2) ** 0.5
            lead = {"difference": difference, "ci95": [difference - below, difference + above], "measure": "greedy"}
        else:
            continue
        found.append({"label": row["label"]} | lead)
    return found


def verdict(story: Story, comparisons: Sequence[dict[str, Any]]) -> str:
    """One sentence: what training changed, and whether the picture matters."""
    gain = next((c for c in comparisons if c["name"] == story.base), None)
    blank = next((c for c in comparisons if c["name"] == story.blank), None)
    clauses = [_gain_clause(story, gain), _image_clause(blank)]
    return ", and ".join(clause for clause in clauses if clause) + "."


def _gain_clause(story: Story, gain: dict[str, Any] | None) -> str:
    n = len(story.arms[story.trained])
    trained = story.label(story.trained)
    if gain is None:
        return f"{trained} answers {percent(overall(story.arms[story.trained])['accuracy'])} % of {n} questions right"
    before, after = gain["means"]
    low, high = gain["ci95"]
    verb = "raised" if low > 0 else "lowered" if high < 0 else "did not clearly change"
    what = "sampled answers that are right" if gain["measure"] == "sampled" else "questions answered right"
    size = f"{points(gain['mean_difference'])} points, 95 % interval {interval(gain['ci95'], signed=True)}"
    return f"{trained} {verb} the share of {what}, on {n:,} held-out questions, from {percent(before)} % to {percent(after)} % ({size})"


def _image_clause(blank: dict[str, Any] | None) -> str:
    if blank is None:
        return "whether it looks at the image was not tested"
    greedy = blank["greedy"]
    drop = f"{points(greedy['mean_difference'])} points, {interval(greedy['ci95'], signed=True)}"
    if greedy["ci95"][0] > 0:
        return f"the picture matters: it answers better with it than with a blank one ({drop})"
    return f"nothing shows that it looks at the image: the picture makes no clear difference to a blank one ({drop})"


def modality_name(name: str) -> str:
    """As a reader writes it; unknown ones as they come."""
    return MODALITIES.get(name, name)


def percent(fraction: float) -> str:
    """One decimal, without the sign: 0.7822 is "78.2"."""
    return f"{100 * fraction:.1f}"


def points(difference: float) -> str:
    """A difference in percentage points, with its sign.

    >>> points(0.171), points(-0.02), points(0.0001)
    ('+17.1', '−2.0', '0.0')
    """
    text = f"{100 * difference:+.1f}".replace("-", "−")
    return "0.0" if text in ("+0.0", "−0.0") else text


def interval(ci95: Sequence[float], signed: bool = False) -> str:
    """Two per cents; ``signed`` for differences.

    >>> interval([0.754, 0.808]), interval([-0.01, 0.2], signed=True)
    ('75.4–80.8', '−1.0 to +20.0')
    """
    return f"{points(ci95[0])} to {points(ci95[1])}" if signed else f"{percent(ci95[0])}–{percent(ci95[1])}"


def p_value(p: float) -> str:
    """Three decimals, or "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def duration(seconds: float) -> str:
    """Seconds as a reader says them.

    >>> duration(4.21), duration(75)
    ('4.2 s', '1 min 15 s')
    """
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
