"""A reader study from the audit log: one row a read, and how often the model turned a right answer into a wrong one."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medvlm_r1.errors import DataError

COLUMNS = (
    "read", "reader", "case", "order", "read_first", "opened", "n_options", "own", "seconds_own", "model", "model_status", "audit_id", "action", "final",
    "seconds_final", "reference", "own_right", "model_right", "final_right", "switch",
)  # fmt: skip
Row = dict[str, Any]


def read_log(path: Path) -> list[Mapping[str, Any]]:
    """The lines of an audit log. Raises DataError where they cannot be read; whether they are whole, ``audit_log.verify`` says."""
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f'"{path}" is no audit log ({error}); name a file that medvlm-r1 serve --audit-log wrote') from error


def reads(lines: Iterable[Mapping[str, Any]]) -> list[Row]:
    """One row a read, in the order in which they were begun; what has not come is None.

    >>> log = [{"event": "read-opened", "time": 0.0, "read": "r1", "reader": "anna", "case": "c1", "order": 1, "n_options": 2, "read_first": True},
    ...        {"event": "read-own", "read": "r1", "own": "A", "seconds": 31.5},
    ...        {"event": "read-shown", "read": "r1", "audit_id": "00-0", "status": "answered", "model": "B"},
    ...        {"event": "read-final", "read": "r1", "action": "agree", "final": "B", "seconds": 4.0, "reference": "A"}]
    >>> row = reads(log)[0]
    >>> row["own_right"], row["model_right"], row["final_right"], row["switch"]
    (True, False, False, 'right-wrong')
    """
    found: dict[str, Row] = {}
    for line in lines:
        if line["event"] == "read-opened":
            opened = datetime.fromtimestamp(line["time"], UTC).isoformat(timespec="seconds")
            found[line["read"]] = dict.fromkeys(COLUMNS) | {name: line[name] for name in COLUMNS if name in line} | {"opened": opened}
        elif (row := found.get(line.get("read", ""))) is None:
            continue
        elif line["event"] == "read-own":
            row |= {"own": line["own"], "seconds_own": line["seconds"]}
        elif line["event"] == "read-shown":
            row |= {"model": line["model"], "model_status": line["status"], "audit_id": line["audit_id"]}
        elif line["event"] == "read-final":
            row |= {"action": line["action"], "final": line["final"], "seconds_final": line["seconds"], "reference": line["reference"]}
    return [row | _judged(row) for row in found.values()]


def _judged(row: Row) -> Row:
    """Right or not, where that is known; an answer that was not given is neither.

    >>> _judged({"own": "", "model": "B", "final": None, "reference": "B"})
    {'own_right': None, 'model_right': True, 'final_right': None, 'switch': None}
    """
    right = {f"{who}_right": row[who] == row["reference"] if row["reference"] and row[who] else None for who in ("own", "model", "final")}
    return {**right, "switch": switch(row["own"], row["final"], row["reference"])}


def switch(own: str | None, final: str | None, reference: str | None) -> str | None:
    """From the reader's own answer to the final one; None where there are not both, or words that the log does not hold.

    >>> switch("A", "B", "A"), switch("B", "A", "A"), switch("B", "C", "A"), switch("A", "A", "B"), switch("A", "B", None), switch(None, "A", "A")
    ('right-wrong', 'wrong-right', 'wrong-wrong', 'none', 'changed', None)
    """
    if not own or not final or "text" in (own, final):
        return None
    if own == final:
        return "none"
    if not reference:
        return "changed"
    return "-".join("right" if answer == reference else "wrong" for answer in (own, final))


def table(rows: Iterable[Row]) -> str:
    """As CSV; empty where nothing is known, 1 and 0 for right and wrong."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: int(value) if isinstance(value, bool) else value for name, value in row.items()} for row in rows)
    return text.getvalue()


def summary(rows: Iterable[Row]) -> str:
    """In one sentence.

    >>> summary([{"final": "B", "switch": "right-wrong"}, {"final": None, "switch": None}])
    '1 of 2 reads ended; right → wrong 1, wrong → right 0'
    """
    listed = list(rows)
    kinds = [row["switch"] for row in listed]
    ended = sum(row["final"] is not None for row in listed)
    return f"{ended} of {len(listed)} reads ended; right → wrong {kinds.count('right-wrong')}, wrong → right {kinds.count('wrong-right')}"
