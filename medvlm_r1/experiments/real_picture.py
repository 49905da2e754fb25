"""The study on the real base as one picture: what each arm gets right of fresh MRI, CT and X-ray."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from medvlm_r1.experiments.study import HEADINGS, MODALITIES
from medvlm_r1.report import charts, pages

TITLE = "What letters alone teach a base that has seen patients' pictures"
# Arm -> its row's name, and what it stands for in colour.
ROWS = {
    "base": ("base", "baseline"),
    "base-direct": ("base, letter", "baseline"),
    "sft": ("SFT", "model"),
    "early": ("GRPO, half", "model"),
    "grpo": ("GRPO", "trained"),
    "contrast": ("with contrast", "model"),
}
CAPTION = (
    "A dot is the share of greedy answers that are right, with its 95 % interval over {}; a diamond that of answers drawn at temperature 1; dashed is chance. "
    "Trained on MRI alone. Numbers: study.json."
)


def marks(result: Mapping[str, Any], modality: str) -> list[charts.Mark]:
    """A row of each arm that there is."""
    cells = {name: {way: result["arms"][name]["measures"][way][modality] for way in ("greedy", "sampled")} for name in ROWS if name in result["arms"]}
    return [charts.Mark(ROWS[name][0], of["greedy"]["value"], of["greedy"]["ci95"], ROWS[name][1], of["sampled"]["value"]) for name, of in cells.items()]


def page(result: Mapping[str, Any]) -> str:
    """A page of its own, ``study.html``."""
    seeds = len(result["arms"]["grpo"]["english"])
    panels = Markup("").join(charts.forest(HEADINGS[m], marks(result, m), result["chance"][m]["accuracy"]) for m in MODALITIES)
    caption = CAPTION.format("patients" if seeds == 1 else f"{seeds} seeds and the patients")
    return pages.page("figure.html.j2", {}, {"title": TITLE, "caption": caption, "legend": "", "panels": panels, "drawn": ""})
