"""``medvlm-r1 export``: an evaluation in the form that somebody else's tool reads."""

from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path

from medvlm_r1.errors import DataError, RunError
from medvlm_r1.files import writing
from medvlm_r1.report.comparing import read
from medvlm_r1.report.export import card, inspect_log, spreadsheet

NEEDED = ("arms", "overall", "settings")
NEEDED_SETTINGS = ("model", "data", "template", "max_tokens")


def run(arguments: Namespace) -> list[Path]:
    """Write the files into ``--out`` and return their paths; what is there already stays."""
    folder: Path = arguments.evaluation
    out: Path = arguments.out or folder / "export" / arguments.to
    found = read(folder.name, folder)
    if missing := [key for key in NEEDED if key not in found.summary] or [key for key in NEEDED_SETTINGS if key not in found.settings]:
        raise DataError(f'"{folder / "summary.json"}" has no "{missing[0]}": it is not of medvlm-r1 eval; evaluate again')
    with writing(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise RunError(f'"{out}" is in use; choose another --out, or remove it')
        out.mkdir(parents=True, exist_ok=True)
        arms = {name: list(samples) for name, samples in found.arms.items()}
        if arguments.to == "inspect":
            made = datetime.fromtimestamp((folder / "summary.json").stat().st_mtime, UTC)
            return inspect_log.write(arms, found.summary, out, made)
        return {"csv": spreadsheet, "card": card}[arguments.to].write(arms, found.summary, out)
