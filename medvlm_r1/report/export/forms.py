"""The forms of an evaluation that other tools read, by name."""

from datetime import UTC, datetime
from pathlib import Path

from medvlm_r1.errors import DataError, RunError
from medvlm_r1.files import output_errors
from medvlm_r1.report.comparing import read
from medvlm_r1.report.export import card, inspect_log, spreadsheet

NEEDED = ("arms", "overall", "settings")
NEEDED_SETTINGS = ("model", "data", "template", "max_tokens")


def export(folder: Path, form: str, out: Path | None = None) -> list[Path]:
    """Write the evaluation in ``folder`` as "csv", "card" or "inspect" into ``out`` (folder/export/FORM if left out); returns the files.

    Raises DataError where the folder is no evaluation, RunError where ``out`` holds something: what is there stays.
    """
    out = out or folder / "export" / form
    found = read(folder.name, folder)
    if missing := [key for key in NEEDED if key not in found.summary] or [key for key in NEEDED_SETTINGS if key not in found.settings]:
        raise DataError(f'"{folder / "summary.json"}" has no "{missing[0]}": it is not of medvlm-r1 eval; evaluate again')
    with output_errors(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise RunError(f'"{out}" is in use; choose another --out, or remove it')
        out.mkdir(parents=True, exist_ok=True)
        if form == "inspect":
            made = datetime.fromtimestamp((folder / "summary.json").stat().st_mtime, UTC)
            return inspect_log.write(found, out, made)
        return {"csv": spreadsheet, "card": card}[form].write(found, out)
