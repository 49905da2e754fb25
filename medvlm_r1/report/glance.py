"""The first screen: how good each model is, how good it is without its picture, and so whether it looks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from medvlm_r1.evaluation.measuring.looking import LEANS, LOOKS, NOT_SHOWN, NOT_TESTED, PARTLY, SHOWN, UNCLEAR, Looking, deciding_arms
from medvlm_r1.evaluation.measuring.measured import ModelNumbers
from medvlm_r1.evaluation.measuring.metrics import overall, shared
from medvlm_r1.evaluation.measuring.reliance import Reliance
from medvlm_r1.report.charts import ROW_PX, dot, line
from medvlm_r1.report.story import Story
from medvlm_r1.wording import interval, percent

MARKS = {LOOKS: ("✓", "good"), PARTLY: ("◐", "doubt"), UNCLEAR: ("~", "doubt"), LEANS: ("!", "bad"), NOT_SHOWN: ("✗", "bad"), NOT_TESTED: ("?", "open")}
_HALVES = {"chance": (0, 0.6 * ROW_PX), "text-prior": (0.4 * ROW_PX, ROW_PX)}  # where both are equal, both are seen


@dataclass(frozen=True)
class Glance:
    """One model's row: accuracy with its pictures, ``without`` them under the arm where it does best, and the mark.

    Where that arm asked fewer questions, ``mean`` is of the same ``asked_both``.
    """

    label: str
    mean: dict[str, Any]
    asked_both: int | None
    without: dict[str, Any] | None
    shown: str
    reliance: Reliance | None
    looking: Looking
    sign: str
    kind: str
    strip: Markup


def spoken(name: str, summary: Mapping[str, Any]) -> str:
    """The row as the terminal shows it, from ``summary.json``.

    >>> whole = {"accuracy": 0.703, "ci95": [0.653, 0.75]}
    >>> baselines = {"chance": {"mri": {"accuracy": 0.355}, "mean": 0.355}, "text_prior": {"mri": {"accuracy": 1.0}}}
    >>> looking = {"level": "looks", "sentence": "Its own picture is worth …."}
    >>> spoken("Base", {"arms": {"image": {"mri": whole, "mean": 0.703}}, "overall": {"image": whole}, "baselines": baselines, "looking": looking})
    'Base: 70.3 % right (65.3–75.0, chance 35.5, text prior 100.0); looks. Its own picture is worth ….'

    A baseline that does not know every modality is left out: its mean would be another.
    """
    whole, looking = summary["overall"]["image"], summary["looking"]
    modalities = summary["arms"]["image"].keys() - {"mean"}
    beside = [interval(whole["ci95"])]
    for baseline, cells in summary.get("baselines", {}).items():
        rates = [cells[modality]["accuracy"] for modality in modalities if modality in cells]
        beside += [f"{baseline.replace('_', ' ')} {percent(sum(rates) / len(rates))}"] if rates and len(rates) == len(modalities) else []
    return f"{name}: {percent(whole['accuracy'])} % right ({', '.join(beside)}); {looking.get('words') or looking['level']}. {looking['sentence']}"


def glances(story: Story, numbers: Mapping[str, ModelNumbers], baselines: Sequence[dict[str, Any]]) -> list[Glance]:
    """A row per model, in the story's order; ``baselines`` are rows of the main table."""
    means = {row["name"].replace("_", "-"): row["cells"][-1] for row in baselines}
    levels = [(name, means[name]["accuracy"]) for name in _HALVES if means.get(name)]
    return [_glance(story, name, of_model, levels) for name, of_model in numbers.items()]


def _glance(story: Story, name: str, numbers: ModelNumbers, levels: Sequence[tuple[str, float]]) -> Glance:
    looking, image = numbers.looking, numbers.arms["image"]
    found = {arm: r for arm, r in looking.reliance.items() if arm in deciding_arms(looking.trained_under)} or looking.reliance
    arm = min(found, key=lambda arm: found[arm].difference, default="")
    sign, kind = MARKS[looking.level]
    without = numbers.arms[arm].mean if arm else None
    is_part = without is not None and without["n"] < image.mean["n"]
    mean = overall(shared(story.models[name]["image"], story.models[name][arm])) if is_part else image.mean
    strip = _strip(story.label(name), mean, {SHOWN[other]: numbers.arms[other].mean["accuracy"] for other in found}, levels, kind)
    return Glance(story.label(name), mean, mean["n"] if is_part else None, without, SHOWN.get(arm, ""), found.get(arm), looking, sign, kind, strip)


def _strip(label: str, mean: dict[str, Any], without: Mapping[str, float], levels: Sequence[tuple[str, float]], kind: str) -> Markup:
    """From 0 to 100 %: hollow under each arm without the picture, filled with it; the line is what the picture is worth at least."""
    middle = ROW_PX / 2
    parts = [line("grid", x, x, 0, ROW_PX) for x in (0, 0.5, 1)]
    parts += [line(name, value, value, *_HALVES[name]) for name, value in levels]
    spoken = f"{label}: {percent(mean['accuracy'])} % right"
    if without:
        parts.append(line(f"worth {kind}", max(without.values()), mean["accuracy"], middle, middle))
        parts += [dot("dot before", value, middle) for value in without.values()]
        spoken += "".join(f", with {shown} {percent(value)} %" for shown, value in without.items())
    parts.append(dot(f"dot {kind}", mean["accuracy"], middle))
    return Markup('<svg role="img" aria-label="{}" width="100%" height="{}">{}</svg>').format(spoken, ROW_PX, Markup("").join(parts))
