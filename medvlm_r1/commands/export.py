"""``medvlm-r1 export``: an evaluation in the form that somebody else's tool reads."""

from argparse import Namespace
from pathlib import Path

from medvlm_r1.commands.options import Commands, add

EXAMPLES = """
  medvlm-r1 export runs/eval --to csv                             samples.csv and table.csv in runs/eval/export/csv
  medvlm-r1 export runs/both --to latex                           tables.tex and methods.tex, of all that compare compared
  medvlm-r1 export runs/eval --to card --out my-model/card        README.md, a model card with the results in its metadata
  medvlm-r1 export runs/eval --to inspect --out logs/mine         then: inspect view --log-dir logs
"""


def register(commands: Commands) -> None:
    """Which evaluation, in which form."""
    sub = add(commands, "export", "an evaluation for a spreadsheet or a paper, as a model card, or for the viewer of Inspect AI", EXAMPLES, run)
    sub.add_argument("evaluation", type=Path, metavar="DIR", help="a folder that eval has written; for csv and latex also compare's and the demo's")
    sub.add_argument("--to", choices=("csv", "latex", "card", "inspect"), required=True, help="tables, tables for LaTeX, a README.md for the hub, or logs")
    sub.add_argument("--out", type=Path, metavar="OUT", help="a new folder for the files (default: DIR/export/TO)")


def run(arguments: Namespace) -> int:
    """The files that were written, one a line."""
    from medvlm_r1.report.export.forms import export

    print(*export(arguments.evaluation, arguments.to, arguments.out), sep="\n")
    return 0
