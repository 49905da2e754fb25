"""What an export reads: one evaluation, all that a comparison compares, or the models of the demo."""

import json
from pathlib import Path
from typing import Any

from medvlm_r1.evaluation.samples import read_samples
from medvlm_r1.report.comparing import Evaluation, read


def evaluations(folder: Path) -> list[Evaluation]:
    """At least one, in the order of the page. Raises DataError where the folder holds none."""
    summary = _summary(folder)
    if "folders" in summary:
        return [read(name, Path(place)) for name, place in summary["folders"].items()]
    models = [name for name in summary.get("arms", ()) if (folder / f"samples-{name}-image.jsonl").exists()]
    if models and not (folder / "samples-image.jsonl").exists():
        return [_of_demo(folder, name, summary) for name in models]
    return [read(folder.name, folder)]


def _summary(folder: Path) -> dict[str, Any]:
    """What it holds, or nothing where ``read`` has to say why not."""
    try:
        found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _of_demo(folder: Path, name: str, summary: dict[str, Any]) -> Evaluation:
    files = sorted(folder.glob(f"samples-{name}-*.jsonl"), key=lambda file: (not file.stem.endswith("-image"), file.name))
    arms = {file.stem.removeprefix(f"samples-{name}-"): read_samples(file) for file in files}
    settings = {"data": "phantom:mri, phantom:ct, phantom:xray; split=test"} | summary.get("settings", {}).get(name, {})
    return Evaluation(name, arms, {"settings": settings, "baselines": summary.get("baselines", {})}, folder=folder)
