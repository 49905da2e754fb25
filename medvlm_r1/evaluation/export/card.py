"""A model card: the results where the hub's leaderboards look for them, and beside them what they do not mean."""

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from medvlm_r1 import INTENDED_USE, __version__
from medvlm_r1.evaluation.meanings import MEANINGS
from medvlm_r1.evaluation.metrics import Arms
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.reasoning import EXTRACTION

TASK = "visual-question-answering"


def write(arms: Arms, summary: Mapping[str, Any], out: Path) -> list[Path]:
    """``README.md`` in ``out``, as the hub wants a model's card to be called."""
    ModelCard(card(arms, summary)).save(out / "README.md")
    return [out / "README.md"]


def card(arms: Arms, summary: Mapping[str, Any]) -> str:
    """Metadata and text."""
    settings = summary["settings"]
    digest = data_sha256(arms["image"])
    data = ModelCardData(
        model_name=str(settings["model"]), language="en", pipeline_tag="image-text-to-text", tags=["medical", "radiology", TASK],
        eval_results=_results(summary, digest),
    )  # fmt: skip
    parts = [
        f"# {settings['model']}",
        f"{INTENDED_USE} Not a medical device; no patient's care may depend on an answer.",
        "## Does it look at the image?\n\n" + looking(summary),
        f"## Results\n\n{_table(summary)}\n\n{_notes(summary)}",
        f"## Questions\n\n{len({s.id for s in arms['image']})} questions of `{settings['data']}`, SHA-256 of their texts, options and "
        f"answers `{digest}`. Template `{settings['template']}`, answers read by rule `{EXTRACTION}`: no letter is ever guessed.",
        f"## Command\n\n    {command(settings, summary['arms'])}\n\nmedvlm-r1 {__version__}; answered by `{settings.get('answered_by', 'unknown')}`.",
    ]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


def data_sha256(samples: Sequence[Sample]) -> str:
    """64 hex digits over what was asked, in any order; pictures are not in it."""
    rows = {json.dumps([s.id, s.question, s.options, s.gold], ensure_ascii=False) for s in samples}
    return hashlib.sha256("\n".join(sorted(rows)).encode("utf-8", "backslashreplace")).hexdigest()


def looking(summary: Mapping[str, Any]) -> str:
    """The evaluation's own sentence where it has one, else one about the blank pictures."""
    if "looking" in summary:
        return str(summary["looking"]["sentence"])
    found = summary.get("paired", {}).get("image-blank")
    if found is None:
        return "Not tested: it was not asked with blank pictures."
    greedy = found["greedy"]
    low, high = greedy["ci95"]
    gain = f"({_points(greedy['mean_difference'])} points, 95 % interval {_points(low)} to {_points(high)})"
    if low > 0:
        return f"Yes: with its picture it is right more often than with a blank one {gain}."
    return f"Not shown: with its picture it is not clearly better than with a blank one {gain}."


def command(settings: Mapping[str, Any], arms: Mapping[str, Any]) -> str:
    """What to type for the same samples again.

    >>> command({"model": "nano", "data": "phantom:mri?split=test", "samples": 0, "max_tokens": 48}, {"image": {}, "blank": {}})
    "medvlm-r1 eval --model nano --data 'phantom:mri?split=test' --arms image,blank --samples 0 --max-tokens 48 --out runs/eval"
    """
    words = ["medvlm-r1", "eval", "--model", settings["model"], "--data", settings["data"], "--arms", ",".join(arms)]
    for name in ("train", "samples", "max_tokens", "max_pixels", "dtype", "template"):
        if settings.get(name) is not None:
            words += [f"--{name.replace('_', '-')}", settings[name]]
    return shlex.join(map(str, [*words, "--out", "runs/eval"]))


def _results(summary: Mapping[str, Any], digest: str) -> list[EvalResult]:
    """One for each modality and their mean, of the questions with their own pictures."""
    data = str(summary["settings"]["data"])
    cells = {m: cell for m, cell in summary["arms"]["image"].items() if isinstance(cell, Mapping)} | {"mean": summary["overall"]["image"]}
    return [
        EvalResult(
            task_type=TASK, dataset_type=data, dataset_name=data, dataset_config=modality,  # by the config they are told apart
            dataset_args={"questions": cell["n"], "sha256": digest},
            metric_type="accuracy", metric_name=f"accuracy, greedy, {modality}", metric_value=round(cell["accuracy"], 4),
            metric_args={"ci95": [round(x, 4) for x in cell["ci95"]], "extraction": EXTRACTION},
        )
        for modality, cell in cells.items()
    ]  # fmt: skip


def _table(summary: Mapping[str, Any]) -> str:
    """Markdown, in per cent; arms above, what needs no model below."""
    modalities = [m for m, cell in summary["arms"]["image"].items() if isinstance(cell, Mapping)]
    lines = ["| accuracy, % | " + " | ".join([*modalities, "mean"]) + " |", "|---" * (len(modalities) + 2) + "|"]
    for arm, cells in summary["arms"].items():
        shown = [_cell(cells.get(m)) for m in modalities] + [_cell(summary["overall"][arm])]
        lines.append(f"| {arm}: {MEANINGS.get(arm, arm)} | " + " | ".join(shown) + " |")
    for name, cells in summary.get("baselines", {}).items():
        found = [cells.get(m) for m in modalities]
        known = [cell["accuracy"] for cell in found if cell]
        mean = f"{100 * sum(known) / len(known):.1f}" if len(known) == len(modalities) else "–"
        lines.append(f"| {name.replace('_', ' ')}, without a model | " + " | ".join([_cell(cell) for cell in found] + [mean]) + " |")
    return "\n".join(lines)


def _cell(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "–"
    interval = f" ({100 * cell['ci95'][0]:.1f} to {100 * cell['ci95'][1]:.1f})" if "ci95" in cell else ""
    return f"{100 * cell['accuracy']:.1f}{interval}"


def _notes(summary: Mapping[str, Any]) -> str:
    notes = "One greedy answer a question; 95 % intervals; the mean is over modalities. Chance guesses an option; "
    notes += "text prior knows the texts of other questions and sees no picture."
    failed = sum(summary.get("failed", {}).values())
    return notes + (f" **Incomplete: {failed} answers are missing and count as wrong.**" if failed else "")


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"
