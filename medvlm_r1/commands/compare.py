"""``medvlm-r1 compare``: several evaluations of the same questions, tested in pairs, on one page."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from medvlm_r1.commands.options import Commands, add

EXAMPLES = """
  medvlm-r1 compare runs/base runs/grpo --out runs/both
  medvlm-r1 compare "2B=runs/eval-2b" "72B=runs/served" runs/mine --out runs/three --json
"""


def register(commands: Commands) -> None:
    """Folders in, a folder out."""
    sub = add(commands, "compare", "several evaluations of the same questions: paired tests and one report", EXAMPLES, run)
    sub.add_argument("evaluations", nargs="+", metavar="[NAME=]DIR", help="what eval left, base first; NAME stands for it on the page")
    sub.add_argument("--out", type=Path, required=True, help="where summary.json and report.html go")
    sub.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(arguments: Namespace) -> int:
    """summary.json and report.html in --out."""
    from medvlm_r1.report.comparing import compare_folders

    summary = compare_folders(arguments.evaluations, arguments.out)
    show(summary["models"], summary, arguments)
    return 0


def show(models: dict[str, dict[str, Any]], summary: dict[str, Any], arguments: Namespace) -> None:
    """The page's first screen in a line per model (and one for its questions without options), or all of it as JSON."""
    from medvlm_r1.report.open_answers import told

    lines = [line for name, numbers in models.items() for line in told(name, numbers)] + [f"report: {arguments.out / 'report.html'}"]
    print(json.dumps(summary, indent=2) if arguments.json else "\n".join(lines))
