"""The forms of an evaluation that other tools read, by name."""

from datetime import UTC, datetime
from pathlib import Path

from medvlm_r1.errors import DataError, RunError
from medvlm_r1.files import output_errors
from medvlm_r1.report.comparing import Evaluation, story
from medvlm_r1.report.export import card, inspect_log, latex, spreadsheet
from medvlm_r1.report.export.runs import evaluations

NEEDED = ("arms", "overall", "settings")
NEEDED_SETTINGS = ("model", "data", "template", "max_tokens")
OF_SEVERAL = ("csv", "latex")


def export(folder: Path, form: str, out: Path | None = None) -> list[Path]:
    """Write what ``folder`` holds as "csv", "latex", "card" or "inspect" into ``out`` (folder/export/FORM if left out); returns the files.

    A comparison's folder and the demo's hold several evaluations, which tables may be of, and a card or a log may not.
    Raises DataError where the folder is no evaluation, RunError where ``out`` holds something: what is there stays.
    """
    out = out or folder / "export" / form
    found = evaluations(folder)
    if len(found) > 1 and form not in OF_SEVERAL:
        names = ", ".join(evaluation.name for evaluation in found)
        raise DataError(f'"{folder}" holds several evaluations ({names}), and --to {form} is of one; name that one, or write --to csv or --to latex')
    if len(found) == 1:
        _check(found[0])
    with output_errors(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise RunError(f'"{out}" is in use; choose another --out, or remove it')
        out.mkdir(parents=True, exist_ok=True)
        if form == "inspect":
            made = datetime.fromtimestamp((folder / "summary.json").stat().st_mtime, UTC)
            return inspect_log.write(found[0], out, made)
        if form == "card":
            return card.write(found[0], out)
        return latex.write(story(found), out) if form == "latex" else spreadsheet.write(found, story(found), out)


def _check(found: Evaluation) -> None:
    if missing := [key for key in NEEDED if key not in found.summary] or [key for key in NEEDED_SETTINGS if key not in found.settings]:
        raise DataError(f'"{found.folder / "summary.json"}" has no "{missing[0]}": it is not of medvlm-r1 eval; evaluate again')
