"""The first screen: how good each model is, how good it is without its picture, and so whether it looks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from medvlm_r1.evaluation.charts import ROW_PX, dot, line
from medvlm_r1.evaluation.looking import LEANS, LOOKS, NOT_SHOWN, NOT_TESTED, WITHOUT_PICTURE, Looking, Reliance
from medvlm_r1.evaluation.measured import ModelNumbers
from medvlm_r1.evaluation.story import Story
from medvlm_r1.evaluation.wording import percent

MARKS = {LOOKS: ("✓", "good"), LEANS: ("!", "doubt"), NOT_SHOWN: ("✗", "bad"), NOT_TESTED: ("?", "open")}


@dataclass(frozen=True)
class Glance:
    """One model's row: accuracy with its pictures and ``without`` (the arm that decided), and the mark."""

    name: str
    label: str
    mean: dict[str, Any]
    n: int
    without: dict[str, Any] | None
    arm: str | None
    reliance: Reliance | None
    looking: Looking
    sign: str
    kind: str
    strip: Markup


def glances(story: Story, numbers: Mapping[str, ModelNumbers], baselines: Sequence[dict[str, Any]]) -> list[Glance]:
    """A row per model, in the story's order; ``baselines`` are rows of the main table."""
    levels = [(row["name"].replace("_", "-"), row["cells"][-1]["accuracy"]) for row in baselines if row["cells"][-1] and row["name"] in ("chance", "text_prior")]
    return [_glance(story, name, of_model, levels) for name, of_model in numbers.items()]


def _glance(story: Story, name: str, numbers: ModelNumbers, levels: Sequence[tuple[str, float]]) -> Glance:
    looking, image = numbers.looking, numbers.arms["image"]
    arm = next((arm for arm in ("blank", "mismatch", *WITHOUT_PICTURE) if arm in looking.reliance), None)
    without = numbers.arms[arm].mean if arm else None
    sign, kind = MARKS[looking.level]
    strip = _strip(story.label(name), image.mean, without, levels, kind)
    return Glance(name, story.label(name), image.mean, image.n, without, arm, looking.reliance.get(arm or ""), looking, sign, kind, strip)


def _strip(label: str, mean: dict[str, Any], without: dict[str, Any] | None, levels: Sequence[tuple[str, float]], kind: str) -> Markup:
    """From 0 to 100 %: hollow without the picture, filled with it; the line between is what the picture is worth."""
    middle = ROW_PX / 2
    parts = [line("grid", x, x, 0, ROW_PX) for x in (0, 0.5, 1)]
    parts += [line(name, value, value, 0, ROW_PX) for name, value in levels]
    spoken = f"{label}: {percent(mean['accuracy'])} % right"
    if without:
        parts += [line(f"worth {kind}", without["accuracy"], mean["accuracy"], middle, middle), dot("dot before", without["accuracy"], middle)]
        spoken += f", without its picture {percent(without['accuracy'])} %"
    parts.append(dot(f"dot {kind}", mean["accuracy"], middle))
    return Markup('<svg role="img" aria-label="{}" width="100%" height="{}">{}</svg>').format(spoken, ROW_PX, Markup("").join(parts))
