"""The study of looking as one picture: what training on a shortcut does to three kinds of questions, from step to step."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from medvlm_r1.report import charts, pages

PANELS = {"honest": "Honest questions", "prior-wrong": "Those in which the texts mislead", "reversed": "The shortcut turned round"}
LINES = {  # name -> the arm behind so many steps
    "plain": {0: "base", 30: "early", 60: "plain", 100: "plain-100"},
    "contrast, partners alone": {0: "base", 60: "contrast", 100: "contrast-100"},
    "contrast with strangers": {0: "base", 60: "stranger", 100: "stranger-100"},
    "the same, λ = 0.5": {0: "base", 60: "stranger-half", 100: "stranger-half-100"},
}


def points(result: Mapping[str, Any], measure: str) -> dict[str, charts.Points]:
    """Of each line (steps, per cent right)."""
    arms = result["arms"]
    return {name: [(float(step), 100 * arms[arm]["measures"][measure]["value"]) for step, arm in line.items()] for name, line in LINES.items()}


def page(result: Mapping[str, Any]) -> str:
    """A page of its own, ``study.html``."""
    seeds = len(result["arms"]["plain"]["seeds"])
    panels = Markup("").join(charts.curves(title, points(result, measure)) for measure, title in PANELS.items())
    told = {
        "title": "Trained on questions whose option texts give the answers away",
        "caption": f"Greedy answers right, per cent, mean of {seeds} {'seed' if seeds == 1 else 'seeds'}, behind so many steps of GRPO; plain alone was stopped at 30, too. Numbers: study.json.",
        "legend": charts.legend(list(LINES)),
        "panels": panels,
        "drawn": pages.drawn(["phantom:text-shortcut"]),
    }
    return pages.page("figure.html.j2", {}, told)
