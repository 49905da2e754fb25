"""The audit as one self-contained HTML page: the verdict and its picture first, then each check with its numbers."""

from collections.abc import Callable, Iterator
from typing import Any

from markupsafe import Markup

from medvlm_r1.audit.verdict import CUE_WORDS, percent
from medvlm_r1.report import charts, thumbnails
from medvlm_r1.report.charts import Bar
from medvlm_r1.report.pages import drawn, page
from medvlm_r1.wording import interval, modality_name
from medvlm_r1.wording import percent as number

CUES = {"position": "the best letter"} | CUE_WORDS | {"commonest": "the commonest answer"}
LEAKS = {
    "names_source": "The question or an option holds its source's name",
    "path_names_answer": "The picture's folder or file name holds the answer",
    "wording_fixes_answer": "The wording of the question always goes with one answer",
    "source_fixes_answer": "The source has one answer only",
}


def render_audit(report: dict[str, Any], load_image: thumbnails.LoadImage) -> str:
    """The page as one string of HTML that loads nothing from anywhere. ``report`` is what ``auditing.run`` returns."""
    filters: dict[str, Callable[..., Any]] = {"percent": percent, "number": number, "modality": modality_name, "interval": interval}
    curve = {modality_name(m): [(c["train"], c["accuracy"]) for c in cells] for m, cells in report["learning_curve"].items()}
    context = {
        "report": report,
        "drawn": drawn([report["data"]]),
        "bars": _bars(report),
        "growth": charts.growth("Text prior, % right", curve, {modality_name(m): c for m, c in report["chance"].items()}, "training questions"),
        "legend": charts.legend(list(curve)),
        "cues": CUES,
        "cue_rows": list(_cue_rows(report)),
        "leak_names": LEAKS,
        "pairs": [(pair, [thumbnails.picture(pair[key], load_image) for key in ("reference", "other")]) for pair in report["duplicates"]["examples"]],
    }
    return page("audit.html.j2", filters, context)


def _bars(report: dict[str, Any]) -> Markup:
    panels = []
    for modality, cell in report["text_prior"].items():
        guess, own = report["chance"][modality], report["within"].get(modality)
        rows = [Bar("Chance", guess, role="baseline"), Bar("Text prior", cell["accuracy"], tuple(cell["ci95"]))]
        if own and report["train"]:
            rows.append(Bar("… own modality", own["accuracy"], tuple(own["ci95"]), "own"))
        panels.append(charts.bars(modality_name(modality), rows, guess))
    return Markup("").join(panels)


def _cue_rows(report: dict[str, Any]) -> Iterator[tuple[str, float, dict[str, float]]]:
    """(modality, chance, cue -> accuracy)."""
    for modality, guess in report["chance"].items():
        found = {"position": report["positions"][modality]["accuracy"], "commonest": report["balance"][modality]["share"]}
        yield modality, guess, found | report["cues"][modality]
