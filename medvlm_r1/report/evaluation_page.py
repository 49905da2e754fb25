"""One self-contained HTML page over one or many models: how good, against what, does it look at the image, and every answer.

Every number on the page is computed here from samples; the template only lays
them out. Names of models, arms and settings are shown as they come, escaped.
"""

import base64
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from medvlm_r1.cells import CELLS
from medvlm_r1.evaluation.asking.meanings import MEANINGS
from medvlm_r1.evaluation.measuring import reasons
from medvlm_r1.evaluation.measuring.calibration import calibration
from medvlm_r1.evaluation.measuring.looking import RULE
from medvlm_r1.evaluation.measuring.metrics import accuracy, by_modality, chance, split_by
from medvlm_r1.evaluation.measuring.rotation import letters, steadiness
from medvlm_r1.evaluation.samples import STATUSES
from medvlm_r1.report import charts, gallery, method, open_answers
from medvlm_r1.report.calibration_charts import reliability_diagram, risk_coverage_curve
from medvlm_r1.report.charts import Change, Mark
from medvlm_r1.report.glance import glances
from medvlm_r1.report.learning import learning_curves
from medvlm_r1.report.pages import drawn, page
from medvlm_r1.report.story import Story, table_rows, verdict
from medvlm_r1.report.thumbnails import LoadImage, Picture, thumbnails
from medvlm_r1.wording import coefficient, duration, flat, interval, modality_name, p_value, percent, points

CONFIDENCE = {"option_probs": "the option's probability", "agreement": "agreement of sampled answers"}
EXAMPLES = 6  # shown where a page runs no script
_DRAWN = Picture("", 0, 0, "the page's script draws it")
_HERE = Path(__file__).parent
_FILTERS: dict[str, Callable[..., str]] = {
    "percent": percent, "points": points, "modality": modality_name, "interval": interval, "p_value": p_value, "duration": duration, "coefficient": coefficient,
}  # fmt: skip


def render_report(story: Story, load_image: LoadImage, phase: Callable[[str], None] = lambda name: None) -> str:
    """The page as one string of HTML that loads nothing from anywhere.

    ``load_image`` opens a sample's image reference; where it raises ImageError the
    card says so. ``phase`` hears the name of each part of the work as it begins.
    """
    phase("numbers")
    context = _numbers(story) | open_answers.context(story)
    phase("pictures")
    pictures = thumbnails(gallery.references(story), load_image)
    phase("page")
    limits = gallery.kept(story)
    script = Markup((_HERE / "gallery.js").read_text(encoding="utf-8"))
    return page(
        "report.html.j2",
        _FILTERS,
        context | {
            "modality": modality_name,
            "highlight": gallery.highlight,
            "marks": gallery.marks,
            "cells": CELLS,
            "limits": limits,
            "examples": gallery.choose(story.asked, EXAMPLES),
            "shots": lambda sample: [pictures.get(reference, _DRAWN) for reference in sample.images[: gallery.MAX_PICTURES]],
            "gallery_data": gallery.as_json(gallery.gallery_data(story, pictures, limits)),
            "picture_blocks": [gallery.as_json(block) for block in gallery.picture_blocks(pictures)],
            "script": script,
            "script_hash": content_hash(script),
        },
    )  # fmt: skip


def content_hash(script: str) -> str:
    """What a Content-Security-Policy calls a script that it allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _numbers(story: Story) -> dict[str, Any]:
    """All that the template shows beside the gallery."""
    numbers, comparisons = story.numbers, story.comparisons
    closed = story.models if story.has_closed else {}
    rows = table_rows(story, numbers)
    calibrated = [(f"{story.label(name)}, by {CONFIDENCE[by]}", cells) for name, arms in closed.items() for by, cells in calibration(arms["image"]).items()]
    return {
        "story": story,
        "numbers": numbers,
        "meanings": MEANINGS,
        "verdict": verdict(story, numbers, [_greedy(pair) for pair in comparisons]) if closed else open_answers.verdict(story),
        "drawn": drawn(reference for sample in story.asked for reference in sample.images),
        "glances": glances(story, numbers, rows),
        "rule": RULE,
        "rows": rows,
        "has_sampled": any(cell.get("sampled") is not None for row in rows for cell in row["cells"]),
        "comparisons": comparisons,
        "forest": _forest(story, rows),
        "arms": {name: of_model for name, of_model in numbers.items() if len(of_model.arms) > 1},
        "by_prior": {name: found for name, found in story.by_prior.items() if found},
        "steady": {name: found for name, arms in closed.items() if (found := steadiness(arms.get("rotate", ())))},
        "letters": {name: chosen for name, arms in closed.items() if (chosen := letters(arms.get("rotate", arms["image"])))},
        "reasons": {name: table for name, arms in closed.items() if (table := reasons.rows(reasons.reasons(arms)))},
        "calibrated": calibrated,
        "reliability": Markup("").join(reliability_diagram(label, cells) for label, cells in calibrated),
        "risk_coverage": Markup("").join(risk_coverage_curve(label, cells) for label, cells in calibrated),
        "curves": learning_curves(story.curves),
        "curve_legend": charts.legend(list(story.curves)),
        "question_types": _question_types(story) if closed and story.base != story.trained else [],
        "status_names": STATUSES,
        "n_failed": sum(s.status == "failed" for arms in story.answers.values() for samples in arms.values() for s in samples),
        "settings": list(flat(story.settings)),
        "flows": method.flows(story),
        "methods": (told := method.items(story)),
        "eligible": dict(told)["Eligible"],
        "n_questions": len({s.id for arms in closed.values() for s in arms["image"]}),
    }


def _greedy(pair: dict[str, Any]) -> dict[str, Any]:
    """A comparison by greedy answers, as the table under the headline counts: two kinds of accuracy there would be one too many."""
    return pair | pair["greedy"] | {"measure": "greedy"}


def _forest(story: Story, rows: Sequence[dict[str, Any]]) -> Markup:
    titles = [modality_name(m) for m in story.modalities] + ["Mean"] if rows else []
    panels = []
    for column, title in enumerate(titles):
        cells = [(row, row["cells"][column]) for row in rows if row["cells"][column]]
        marks = [Mark(r["label"], c["accuracy"], c.get("ci95"), r["role"], c.get("sampled")) for r, c in cells]
        guess = next((c["accuracy"] for r, c in cells if r["name"] == "chance"), None)
        panels.append(charts.forest(title, marks, guess))
    return Markup("").join(panels)


def _question_types(story: Story) -> list[dict[str, Any]]:
    """Per modality a chart of base → trained by question type, on the questions that both were asked."""
    before_of = {s.id: s for s in story.models[story.base]["image"]}
    after = [s for s in story.asked if s.id in before_of]
    found = []
    for modality, part in by_modality(after).items():
        kinds = split_by(part, lambda s: s.question_type or "not stated")
        changes = [Change(kind, accuracy([before_of[s.id] for s in few]), accuracy(few), len(few)) for kind, few in sorted(kinds.items())]
        guess = chance(part)["mean"]
        found.append({"title": modality_name(modality), "chart": charts.dumbbells(modality_name(modality), changes, guess)})
    return found
