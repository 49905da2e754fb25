"""What a finished training run is told by: summary.json and report.html in its folder."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medvlm_r1.files import read_rows, writing
from medvlm_r1.report.learning import ends, phases, render_learning, sentence, skipped_steps


def tell(run_dir: Path) -> str:
    """Write both; returns the page's first sentence."""
    config = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))["config"]
    rows = read_rows(run_dir / "metrics.jsonl")
    found = ends(rows)
    changes = {key: {"first": before, "last": after} for key, (before, after) in found.items()}
    skipped = skipped_steps(rows)
    summary = {"steps": len(rows), "skipped_steps": skipped, "changes": changes, "seconds": phases(rows), "settings": config}
    page = render_learning(config, rows, _first_and_last(run_dir / "rollouts.jsonl"))
    with writing(run_dir):
        (run_dir / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        (run_dir / "report.html").write_text(page, encoding="utf-8")
    return sentence(found, len(rows), skipped)


def _first_and_last(path: Path) -> list[dict[str, Any]]:
    """The rows of the first and of the last step; the file may be larger than the memory."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="\n") as file:
        return first_and_last(map(json.loads, file))


def first_and_last(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the first and of the last step.

    >>> [row["step"] for row in first_and_last({"step": step} for step in (1, 1, 2, 2, 3, 3))]
    [1, 1, 3, 3]
    >>> [row["step"] for row in first_and_last({"step": step} for step in (1, 1))]
    [1, 1]
    """
    first: list[dict[str, Any]] = []
    last: list[dict[str, Any]] = []
    for row in rows:
        if not first or row["step"] == first[0]["step"]:
            first.append(row)
            continue
        if last and row["step"] != last[0]["step"]:
            last = []
        last.append(row)
    return first + last
