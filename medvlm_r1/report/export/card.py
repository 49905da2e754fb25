"""A model card: the results where the hub's leaderboards look for them, and beside them what they do not mean."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from medvlm_r1 import INTENDED_USE, __version__
from medvlm_r1.evaluation.asking.meanings import MEANINGS
from medvlm_r1.evaluation.measuring.free_text import KINDS
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.reasoning import EXTRACTION, OPEN_EXTRACTION
from medvlm_r1.report.comparing import Evaluation
from medvlm_r1.report.method import data_sha256
from medvlm_r1.wording import called, coefficient

TASK = "visual-question-answering"
METRICS = {"exact": "exact_match", "f1": "f1", "recall": "recall", "yes_no": "accuracy"}  # as the hub calls them
Answers = Mapping[str, Sequence[Sample]]


def write(found: Evaluation, out: Path) -> list[Path]:
    """``README.md`` in ``out``, as the hub wants a model's card to be called."""
    ModelCard(card(found.arms, found.summary, found.open)).save(out / "README.md")
    return [out / "README.md"]


def card(arms: Answers, summary: Mapping[str, Any], free: Answers = MappingProxyType({})) -> str:
    """Metadata and text, for everybody to read: what lies where on this machine, and which address answered, is left out.

    ``free``: the answers to questions without options, which have a table of their own.
    """
    settings = public(summary["settings"])
    asked = [*arms.get("image", ()), *free.get("image", ())]
    asked_sha256 = data_sha256((s.id, s.question, s.options, s.gold) for s in asked)
    rules = f"`{EXTRACTION}`, of questions without options `{OPEN_EXTRACTION}`" if free else f"`{EXTRACTION}`"
    data = ModelCardData(
        model_name=settings["name"], language="en", pipeline_tag="image-text-to-text", tags=["medical", "radiology", TASK],
        eval_results=_results(summary, settings["data"], asked_sha256),
    )  # fmt: skip
    parts = [
        f"# {settings['name']}",
        f"{INTENDED_USE} Not a medical device; no patient's care may depend on an answer.",
        "## Does it look at the image?\n\n" + looking(summary),
        *([f"## Results\n\n{_table(summary)}\n\n{_notes(summary)}"] if arms else []),
        *([f"## Questions without options\n\n{open_table(summary['open'])}\n\n{_open_notes(summary)}"] if free else []),
        f"## Questions\n\n{len({s.id for s in asked})} questions of `{settings['data']}`, SHA-256 of their texts, options and "
        f"answers `{asked_sha256}`. Template `{settings['template']}`, answers read by rule {rules}: no letter is ever guessed.",
        f"## Command\n\n    {command(settings, dict.fromkeys((*arms, *free)))}\n\nmedvlm-r1 {__version__}; answered by `{settings['answered_by']}`.",
    ]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


def public(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by names alone; ``name`` is the model's for a reader, ``model`` the one to type.

    >>> found = public({"model": "http://10.0.0.7/v1", "answered_by": "http://10.0.0.7/v1#big", "data": "/home/me/q.jsonl?split=test"})
    >>> found["name"], found["model"], found["answered_by"], found["data"]
    ('big', 'http://HOST:PORT/v1#big', 'big', 'q.jsonl?split=test')
    >>> public({"model": "nano", "data": "hub:flaviagiampiccolo/vqa-rad?split=test"})["data"]
    'hub:flaviagiampiccolo/vqa-rad?split=test'
    """
    model, answered_by = str(settings["model"]), str(settings.get("answered_by", "unknown"))
    is_served = "://" in model
    name = called(called(answered_by if is_served and "#" not in model else model))  # vLLM serves a folder under its path
    return dict(settings) | {
        "name": name,
        "model": f"http://HOST:PORT/v1#{name}" if is_served else _place(model),
        "answered_by": name if is_served else answered_by,
        "data": _file(settings["data"]),
        "train": settings.get("train") and _file(settings["train"]),
        "judge": settings.get("judge") and f"http://HOST:PORT/v1#{called(called(str(settings['judge'])))}",
    }


def _place(model: str) -> str:
    """As given, but of an absolute path the last part, or run, folder and step of a checkpoint."""
    place = Path(model)
    return "/".join(place.parts[-3:] if place.parent.name == "checkpoints" else place.parts[-1:]) if place.is_absolute() else model


def _file(data: str) -> str:
    path, mark, chosen = str(data).partition("?")
    if path.startswith("hub:"):
        return data
    return (Path(path).name or path) + mark + chosen


def looking(summary: Mapping[str, Any]) -> str:
    """The evaluation's own judgement."""
    found = summary.get("looking")
    return f"**{_first_capital(found.get('words') or found['level'])}.** {found['sentence']}" if found else "**Not tested.**"


def _first_capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def command(settings: Mapping[str, Any], arms: Mapping[str, Any]) -> str:
    """What to type for the same samples again.

    >>> command({"model": "nano", "data": "phantom:mri?split=test", "samples": 0, "max_tokens": 48}, {"image": {}, "blank": {}})
    "medvlm-r1 eval --model nano --data 'phantom:mri?split=test' --arms image,blank --samples 0 --max-tokens 48 --out runs/eval"
    """
    words = ["medvlm-r1", "eval", "--model", settings["model"], "--data", settings["data"], "--arms", ",".join(arms)]
    for name in ("train", "in_domain", "samples", "max_tokens", "max_pixels", "dtype", "template"):
        if settings.get(name) is not None:
            words += [f"--{name.replace('_', '-')}", settings[name]]
    words += ["--probs"] if settings.get("probs") else []
    words += ["--judge", settings["judge"]] if settings.get("judge") else []
    return shlex.join(map(str, [*words, "--out", "runs/eval"]))


def _results(summary: Mapping[str, Any], data: str, asked_sha256: str) -> list[EvalResult]:
    """One for each modality and their mean, of the questions with their own pictures; and the means of those without options."""
    cells = {m: cell for m, cell in summary["arms"].get("image", {}).items() if isinstance(cell, Mapping)}
    closed = cells | ({"mean": summary["overall"]["image"]} if cells else {})
    rows = [(m, "accuracy", f"accuracy, greedy, {m}", cell["accuracy"], cell, EXTRACTION) for m, cell in closed.items()]
    for kind, of_kind in _open(summary).get("image", {}).items():
        name = f"{KINDS[kind].name}, greedy, questions without options"
        rows.append((f"open, {kind}", METRICS[kind], name, of_kind["mean"]["value"], of_kind["mean"], OPEN_EXTRACTION))
    return [
        EvalResult(
            task_type=TASK, dataset_type=data, dataset_name=data, dataset_config=config,  # by the config they are told apart
            dataset_args={"questions": cell["n"], "sha256": asked_sha256},
            metric_type=metric, metric_name=name, metric_value=round(value, 4),
            metric_args={"ci95": cell["ci95"] and [round(x, 4) for x in cell["ci95"]], "extraction": rule},
        )
        for config, metric, name, value, cell, rule in rows
    ]  # fmt: skip


def _open(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    return (summary.get("open") or {}).get("arms", {})


def open_table(found: Mapping[str, Any]) -> str:
    """Markdown, in per cent, from ``open`` of the summary: a row for each arm and measure."""
    asked = (m for kinds in found["arms"].values() for cells in kinds.values() for m in cells)
    modalities = sorted(dict.fromkeys(asked), key=lambda m: m == "mean")
    lines = ["| % | " + " | ".join(modalities) + " |", "|---" * (len(modalities) + 1) + "|"]
    for arm, kinds in found["arms"].items():
        for kind, cells in kinds.items():
            shown = [_cell({"accuracy": cells[m]["value"], "ci95": cells[m]["ci95"]} if m in cells else None) for m in modalities]
            lines.append(f"| {arm}, {KINDS[kind].name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _open_notes(summary: Mapping[str, Any]) -> str:
    found = summary["open"]
    notes = "By words alone (a synonym counts as wrong), one greedy answer a question; 95 % intervals; the mean is over modalities. "
    notes += "Yes/no: of questions whose reference is yes or no, and only where the answer begins with one."
    judge = found["judge"].get("image")
    if judge:
        kappa = f", kappa {coefficient(judge['kappa'])}" if judge["kappa"] is not None else ""
        notes += f" A language model as judge (`{called(called(found['judged_by']['model']))}`, `{found['judged_by']['version']}`) calls "
        notes += f"{100 * judge['right']:.1f} % right; it agrees with the rule in {100 * judge['agrees']:.1f} % of {judge['judged']} answers{kappa}."
    return notes + _incomplete(summary)


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
    interval = f" ({100 * cell['ci95'][0]:.1f} to {100 * cell['ci95'][1]:.1f})" if cell.get("ci95") else ""
    return f"{100 * cell['accuracy']:.1f}{interval}"


def _notes(summary: Mapping[str, Any]) -> str:
    notes = "One greedy answer a question; 95 % intervals; the mean is over modalities. Chance guesses an option; "
    notes += "text prior knows the texts of other questions and sees no picture."
    return notes + _incomplete(summary)


def _incomplete(summary: Mapping[str, Any]) -> str:
    failed = sum(summary.get("failed", {}).values())
    return f" **Incomplete: {failed} answers are missing and count as wrong.**" if failed else ""
