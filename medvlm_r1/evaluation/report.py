"""One self-contained HTML page that tells what a training run did, and whether the model looks at the image.

Every number on the page is computed here from samples; the template only lays
them out. Names of arms and settings are shown as they come, escaped.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from medvlm_r1 import INTENDED_USE, __version__
from medvlm_r1.evaluation import charts, gallery
from medvlm_r1.evaluation.charts import Change, Mark
from medvlm_r1.evaluation.metrics import by_modality, chance, split_by, statuses
from medvlm_r1.evaluation.samples import STATUSES, Sample
from medvlm_r1.evaluation.story import (
    Pair,
    Story,
    compared,
    duration,
    gains,
    interval,
    modality_name,
    p_value,
    pair,
    percent,
    points,
    table_rows,
    verdict,
)

CURVES = {
    "reward": "Reward, total",
    "reward/format": "Reward for the format",
    "reward/accuracy": "Reward for the right letter",
    "kl": "KL divergence from the base",
    "completion_length": "Length of a completion, tokens",
    "loss": "Loss",
}


def render_report(story: Story, load_image: gallery.LoadImage) -> str:
    """The page as one string of HTML that loads nothing from anywhere.

    ``load_image`` opens a sample's image reference; where it raises ImageError
    the card says so. Raises DataError for a story without an evaluated arm.
    """
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    environment.filters.update(percent=percent, points=points, modality=modality_name, interval=interval, p_value=p_value, duration=duration)
    environment.globals.update(modality=modality_name, highlight=gallery.highlight)
    rows = table_rows(story)
    comparisons = compared(story)
    names = (story.label(story.base), story.label(story.trained))
    pairs = pair(story.arms[story.base], story.arms[story.trained]) if story.base != story.trained else []
    return environment.get_template("report.html.j2").render(
        story=story,
        intended_use=INTENDED_USE,
        version=__version__,
        verdict=verdict(story, comparisons),
        gains=gains(story, rows, comparisons),
        rows=rows,
        has_sampled=any(cell.get("sampled") is not None for row in rows for cell in row["cells"]),
        comparisons=comparisons,
        forest=_forest(story, rows),
        curves=_curves(story),
        curve_legend=charts.legend(list(story.curves)),
        question_types=_question_types(story, pairs),
        statuses=[(story.label(n), statuses(story.arms[n])) for n in [*story.models, *([story.blank] if story.blank else [])]],
        status_names=STATUSES,
        sections=gallery.sections(pairs, names),
        n_pairs=len(pairs),
        names=names,
        pictures=lambda sample: gallery.pictures(sample, load_image),
        settings=list(_flat(story.settings)),
        n_questions=len(story.arms[story.trained]),
    )


def _forest(story: Story, rows: Sequence[dict[str, Any]]) -> Markup:
    titles = [modality_name(m) for m in story.modalities] + ["Mean"]
    panels = []
    for column, title in enumerate(titles):
        cells = [(row, row["cells"][column]) for row in rows if row["cells"][column]]
        marks = [Mark(r["label"], c["accuracy"], c.get("ci95"), r["role"], c.get("sampled")) for r, c in cells]
        guess = next((c["accuracy"] for r, c in cells if r["name"] == "chance"), None)
        panels.append(charts.forest(title, marks, guess))
    return Markup("").join(panels)


def _curves(story: Story) -> Markup:
    panels = []
    for key, title in CURVES.items():
        series = {
            run: [(float(row["step"]), float(row[key])) for row in rows if isinstance(row.get(key), (int, float))]
            for run, rows in story.curves.items()
        }
        panels.append(charts.curves(title, series))
    return Markup("").join(panels)


def _question_types(story: Story, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Per modality a chart of base → trained by question type, and its numbers."""
    before_of = {b.id: b for b, _ in pairs}
    after = [a for _, a in pairs]
    found = []
    for modality, part in by_modality(after).items():
        kinds = split_by(part, lambda s: s.question_type or "not stated")
        changes = [
            Change(kind, _right([before_of[s.id] for s in few]), _right(few), len(few)) for kind, few in sorted(kinds.items())
        ]
        guess = chance(part)["mean"]
        found.append({"title": modality_name(modality), "rows": changes, "chart": charts.dumbbells(modality_name(modality), changes, guess)})
    return found


def _right(samples: Sequence[Sample]) -> float:
    return sum(s.correct for s in samples) / len(samples)


def _flat(values: dict[str, Any], prefix: str = "") -> Any:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
