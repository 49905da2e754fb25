"""The audit log: a chain whose first bad line is named."""

import json
import resource

import pytest

from medvlm_r1.errors import DataError, RunError
from medvlm_r1.serving.audit_log import FIRST, AuditLog, verify


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "audit.jsonl"
    audit = AuditLog(path, clock=iter(range(100)).__next__)
    for n in range(5):
        audit.write("answer", {"audit_id": f"{n}", "answer": "A"})
    audit.close()
    return path


def test_a_whole_log_has_a_head_and_goes_on(log):
    found = verify(log)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert (found.n, found.head) == (5, rows[-1]["hash"]) and rows[0]["prev"] == FIRST
    assert [row["prev"] for row in rows[1:]] == [row["hash"] for row in rows[:-1]] and [row["time"] for row in rows] == [0, 1, 2, 3, 4]
    audit = AuditLog(log)
    with pytest.raises(RunError, match="in use"):
        AuditLog(log)
    audit.write("answer", {})
    audit.close()
    assert verify(log, anchor=found.head).n == 6


def test_a_line_is_written_where_no_file_can_be_opened_any_more(tmp_path):
    """As many idle connections as a process may have files: what was written must not be written again under the same number."""
    audit, (soft, hard) = AuditLog(tmp_path / "audit.jsonl"), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError):
            open(tmp_path / "other", "w").close()
        audit.write("answer", {"answer": "A"})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    audit.write("answer", {"answer": "B"})
    audit.close()
    assert verify(tmp_path / "audit.jsonl").n == 2


DAMAGE = {
    "flipped": (lambda lines: [lines[0], lines[1].replace(b'"A"', b'"B"'), *lines[2:]], 2, "it was changed"),
    "taken out": (lambda lines: [lines[0], *lines[2:]], 2, "does not follow"),
    "reordered": (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], 2, "does not follow"),
    "doubled": (lambda lines: [*lines[:3], lines[2], *lines[3:]], 4, "does not follow"),
    "the first gone": (lambda lines: lines[1:], 1, "does not follow"),
    "cut in the middle of a line": (lambda lines: [*lines[:4], lines[4][:-9]], 5, "no line of an audit log"),
    "cut at the last line's end": (lambda lines: [*lines[:4], lines[4][:-1]], 5, "cut off"),
    "something else": (lambda lines: [*lines, b"hello\n"], 6, "no line of an audit log"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_the_first_bad_line_is_named(log, case, refused):
    change, number, why = DAMAGE[case]
    log.write_bytes(b"".join(change(log.read_bytes().splitlines(keepends=True))))
    with pytest.raises(DataError, match=f"line {number}: .*{why}"):
        verify(log)
    refused(["audit-log", "verify", log], f"line {number}: ", why)
    with pytest.raises(DataError):
        AuditLog(log)  # nothing is added to a broken chain


def test_lines_missing_at_the_end_show_by_the_anchor(log):
    head = verify(log).head
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:3]))
    assert verify(log).n == 3  # whole in itself
    with pytest.raises(DataError, match="line 4: the anchored hash"):
        verify(log, head)


def test_the_command_prints_the_head(log, command):
    code, out, _ = command("audit-log", "verify", log)
    assert code == 0 and f"head {verify(log).head}" in out and "5 lines" in out
