"""The command line beside its way: what would be written over, what nobody reads, what is empty, and numbers that none has."""

import io
import json
import socket
import subprocess
import sys

import pytest
from drawn_files import RAMP, save_dicom
from PIL import Image

from medvlm_r1.commands import main as cli
from medvlm_r1.console import stderr
from medvlm_r1.data.manifest import write_manifest
from medvlm_r1.serving.audit_log import AuditLog
from medvlm_r1.types import Example


@pytest.fixture
def questions(tmp_path):
    Image.new("L", (40, 30)).save(tmp_path / "a.png")
    write_manifest(tmp_path / "q.jsonl", [Example("q1", (str(tmp_path / "a.png"),), "Which side?", ("left", "right"), "left", "mri")])
    return tmp_path / "q.jsonl"


def test_what_is_read_is_not_written_over(questions, tmp_path, refused):
    with_log = AuditLog(tmp_path / "log.jsonl")
    with_log.close()
    scan, config = save_dicom(tmp_path / "ct.dcm", RAMP), tmp_path / "config.json"
    config.write_text('{"steps": 2}')
    ask = ["ask", "--model", "nano", scan, "Which side?", "--options", "left", "right"]
    kept = {path: path.read_bytes() for path in (questions, scan, config, tmp_path / "log.jsonl")}
    refused(["audit-log", "reads", tmp_path / "log.jsonl", tmp_path / "log.jsonl"], "log.jsonl", "is a file that is read; name another")
    refused(["audit", "--data", f"{questions}?modality=mri", "--images", "none", "--html", questions], "--html", "is a file that is read")
    refused([*ask, "--fhir", scan], "--fhir", "is a file that is read")
    refused([*ask, "--sr", tmp_path / "o.x", "--fhir", tmp_path / "o.x"], "o.x", "is a file that is read; name another to write")
    refused(["calibrate", "--model", "nano", "--data", questions, "--out", config], "config.json", "is no calibration")
    assert {path: path.read_bytes() for path in kept} == kept


@pytest.mark.parametrize("words", [
    ["demo", "--seed", "-1"], ["data", "split", "q.jsonl", "out", "--seed", "-1"], ["data", "harden", "q.jsonl", "out", "--seed", "-1"],
    ["real-base", "out", "--pictures", "x", "--seed", "-1"], ["serve", "--model", "nano", "--port", "70000"], ["serve", "--model", "nano", "--slots", "9" * 22],
])  # fmt: skip
def test_numbers_that_none_has(words, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(("words", "part"), [
    (["train", "nano", "--data", "", "--dry-run"], "--data is empty; leave it out, or name one"),
    (["train", "nano", "--model", "", "--dry-run"], "--model is empty"),
    (["train", "nano", "--set", "prompts_per_step=1e30", "--dry-run"], '"prompts_per_step" wants 65536 or less'),
    (["train", "nano", "--set", "sampling.min_tokens=1e30", "--dry-run"], '"sampling.min_tokens" wants 2147483647 or less'),
    (["train", "nano", "--set", "sampling.min_tokens=600", "--set", "sampling.max_tokens=24", "--dry-run"], "above max_tokens (24); lower it"),
    (["train", "nano", "--set", "sampling.min_tokens=-1", "--dry-run"], '"sampling.min_tokens" wants 0 or more'),
    (["train", "nano", "--set", "trainable.lora.rank=1e30", "--dry-run"], "a rank from 0 to 16384"),
    (["eval", "--model", "http://[::1/v1", "--data", "phantom:mri?split=test", "--out", "e"], '"http://[::1/v1" is no address'),
    (["launch", "--rollout", "--", "train", "nano", "--set", 'rollout.servers=["http://h:99999"]', "--set", "rollout.engine=vllm"], "is no address"),
    (["eval", "--model", "nano", "--data", "phantom:mri", "--train", "", "--out", "e"], "--train is empty"),
    (["study", "--shortcut", "--looking", "--steps", "1"], "--shortcut and --looking are two studies; name one of them"),
    (["study", "--openrad", "x", "--real", "y"], "--openrad and --real are two studies"),
    (["serve", "--model", "nano", "--template", "thnk"], 'unknown template "thnk"; did you mean "think"'),
    (["serve", "--model", "nano", "--calibration", "gone.json"], '"gone.json" is no calibration'),
])  # fmt: skip
def test_what_is_empty_or_contradicts_itself(words, part, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(words, part)


def test_where_nothing_can_be_made(tmp_path, refused):
    (tmp_path / "afile").write_text("x")
    refused(["demo", "--quick", "--run-dir", tmp_path / "afile"], "afile", "choose another --run-dir")
    refused(["nano", "--out", tmp_path / "afile"], "afile", "choose another --out")


def test_a_closed_stdout_is_no_fault():
    words = f"{sys.executable} -m medvlm_r1 train nano --dry-run >&-"
    assert subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=True).stderr == ""


def test_a_folder_that_is_not_there_claims_no_run(tmp_path, refused):
    for words, out in ((["study", "--openrad", "nope", "--run-dir", tmp_path / "s"], "s"), (["real-base", tmp_path / "b", "--pictures", "nope"], "b")):
        refused(words, '"nope" is no folder')
        assert not (tmp_path / out).exists()


def test_work_goes_on_when_nobody_reads_what_is_said_of_it():
    """In a process of its own, whose stderr ends behind the first line."""
    words = "import time; from medvlm_r1.console import notice; notice('one'); time.sleep(1); notice('two'); notice('three'); print('done')"
    with subprocess.Popen([sys.executable, "-c", words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        assert started.stderr.readline() == "one\n"
        started.stderr.close()
        assert started.stdout.read() == "done\n"
    assert started.returncode == 0 and not stderr().quiet


def test_a_sign_that_the_terminal_has_not_costs_no_result(monkeypatch, tmp_path):
    """The dash of an interval."""
    asked = [Example(f"q{n}", (f"phantom:mri/test/{n}",), "Which side?", ("left", "right"), "left", "mri", group=f"p{n}") for n in range(4)]
    write_manifest(tmp_path / "four.jsonl", asked)
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", narrow)
    assert cli.main(["eval", "--model", "nano", "--data", str(tmp_path / "four.jsonl"), "--arms", "image", "--out", str(tmp_path / "e")]) == 0
    narrow.flush()
    assert b"% right" in narrow.buffer.getvalue() and json.loads((tmp_path / "e" / "summary.json").read_text())


@pytest.mark.parametrize("content", ["[", "[]x", ""])
def test_a_damaged_account_of_the_inputs_is_named(content, tmp_path):
    from medvlm_r1.errors import RunError
    from medvlm_r1.training import identity

    (tmp_path / identity.FILE).write_text(content)
    with pytest.raises(RunError, match=f'{identity.FILE}" is damaged .*; restore it, or choose another --run-dir'):
        identity.check(tmp_path, {})


def test_the_process_that_opens_files_ends_without_a_word(capfd):
    from medvlm_r1.serving.file_client import Files

    files = Files()
    files.start()
    files._channel.recv(1, socket.MSG_PEEK)  # it has begun, and nobody has read that it has
    files.close()
    assert capfd.readouterr().err == ""
