"""Rewards in a file of the user's: loaded by name, hashed with the run, and every fault of theirs one sentence."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import train

from medvlm_r1.config import fingerprint, override
from medvlm_r1.errors import RewardError
from medvlm_r1.files import read_rows
from medvlm_r1.reasoning import render
from medvlm_r1.recipes.named import find
from medvlm_r1.rewards.rubric import Rubric
from medvlm_r1.types import Completion, Example

DOCS = (Path(__file__).resolve().parents[1] / "docs/rewards.md").read_text(encoding="utf-8")
[PAGE] = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
QUESTION = Example("q1", ("a.png",), "Is this the liver or the lung?", ("liver", "lung"), "lung", "ct")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def earned(name, text):
    return Rubric({name: 1.0})(Completion((7,), (0.0,), text, True), render(QUESTION, "direct"))[name]


def test_the_page_has_ten_lines_that_work(folder):
    (folder / "my.py").write_text(PAGE)
    assert len([line for line in PAGE.splitlines() if line]) <= 10
    assert [earned("my.py:organ", text) for text in ("The lung.", "lung, liver", "brain")] == [0.5, 1.0, 0.0]
    assert [earned("my.py:short", "x" * length) for length in (60, 61)] == [1.0, 0.0]
    assert earned(f"{folder}/my.py:organ", "LUNG") == 0.5  # an absolute path will do


def test_a_run_with_the_pages_rewards(folder, command, taught, manifest):
    """As the page's command names them; the file's name and hash stand in config.json."""
    (folder / "my.py").write_text(PAGE)
    [named] = re.findall(r"--set '(rewards=.*?)'", DOCS.split("## A reward of your own")[1])
    run = folder / "run"
    words = train(taught, manifest, run, "--set", named, "--set", "steps=2")
    code, _, err = command(*words)
    assert code == 0 and 'warning: the right answer earns nothing of "my.py:organ" in ' in err
    rows = read_rows(run / "metrics.jsonl")
    assert [row["reward/my.py:short"] for row in rows] == [pytest.approx(0.2, abs=0.2)] * 2 and "reward/my.py:organ" in rows[0]
    said = json.loads((run / "config.json").read_text())
    assert said["config"]["views"] == {"image": {"accuracy": 1.0, "my.py:organ": 0.5, "my.py:short": 0.2}}
    assert said["code"] == dict.fromkeys(("my.py:organ", "my.py:short"), hashlib.sha256(PAGE.encode()).hexdigest())
    assert "Reward my.py:short" in (run / "report.html").read_text()

    (folder / "my.py").write_text(PAGE.replace("60", "50"))
    code, _, err = command(*words, "--resume")
    assert code == 2 and re.search(r'the code of "my.py:organ" has changed since \S+ began \(SHA-256 \w{12}…, now \w{12}…\); put it back', err)
    (folder / "my.py").write_text(PAGE)
    assert command(*words, "--resume")[0] == 0


def test_a_file_that_has_changed_is_another_run(folder):
    config = override(find("nano", "grpo"), ['rewards={"my.py:organ": 1}'])
    found = []
    for text in (PAGE, PAGE + "\n", PAGE):
        (folder / "my.py").write_text(text)
        found.append(fingerprint(config))
    assert found[0] == found[2] != found[1]
    plain = find("nano", "grpo")
    assert not plain.code() and fingerprint(plain) != fingerprint(replace(plain, views={"image": {"accuracy": 1.0}}))


def test_a_file_that_has_changed_is_loaded_anew_and_leaves_nothing_behind(folder):
    """Of the same length and within the same second, which would deceive a compiled copy."""
    for value in (0.25, 0.75):
        (folder / "my.py").write_text(f"def half(completion, prompt): return {value}")
        assert earned("my.py:half", "") == value
    assert [file.name for file in folder.iterdir()] == ["my.py"]


def test_functions_of_one_file_share_what_it_holds(folder):
    (folder / "my.py").write_text("seen = []\ndef one(c, p): seen.append(1); return 0\ndef count(c, p): return len(seen)\n")
    rubric = Rubric({"my.py:one": 1.0, "my.py:count": 1.0})
    assert rubric(Completion((), (), "", True), render(QUESTION, "direct")) == {"my.py:one": 0.0, "my.py:count": 1.0}


def test_a_file_may_define_dataclasses_and_be_in_another_encoding(folder):
    text = "# coding: latin-1\nfrom __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\ndef f(c, p): return A(len('ä')).x"
    (folder / "my.py").write_bytes(text.encode("latin-1"))
    assert earned("my.py:f", "") == 1.0


LOADING = {
    "no such file": (None, "my.py:f", 'reward "my.py:f": cannot read "my.py" \\(No such file or directory\\); write FILE:FUNCTION, FILE relative to "/'),
    "a folder": (None, ".:f", "Is a directory"),
    "no file at all": (None, ":f", "Is a directory"),
    "no such function": ("def organ(c, p): return 1", "my.py:orgna", 'reward "my.py:orgna": "my.py" has no function "orgna"; did you mean "organ"'),
    "no function named": ("def organ(c, p): return 1", "my.py:", 'has no function ""; known are organ'),
    "not a function": ("organ = 3", "my.py:organ", 'has no function "organ"$'),
    "raises": ("x = 1\n\ny = x / 0", "my.py:f", '"my.py" cannot be loaded: ZeroDivisionError in line 3: division by zero; mend it and start again'),
    "exits": ("raise SystemExit(0)", "my.py:f", '"my.py" cannot be loaded: SystemExit in line 1: 0; mend it'),
    "no Python": ("def f(c, p) return 1", "my.py:f", r'"my.py" cannot be loaded: SyntaxError: expected .:. \(my.py, line 1\)'),
    "no text": ("\0", "my.py:f", '"my.py" cannot be loaded: '),
    "imports what is missing": ("import nowhere_to_be_found", "my.py:f", "ModuleNotFoundError in line 1: No module named 'nowhere_to_be_found'"),
}


@pytest.mark.parametrize("case", LOADING)
def test_what_cannot_be_loaded_is_one_sentence(folder, case):
    text, name, said = LOADING[case]
    if text is not None:
        (folder / "my.py").write_text(text)
    with pytest.raises(RewardError, match=said) as found:
        Rubric({name: 1.0})
    assert "\n" not in str(found.value)


def test_a_fault_is_told_before_anything_is_trained_and_with_its_line(folder, refused, taught, manifest):
    (folder / "my.py").write_text("def deep(text):\n    return text[10**6]\n\ndef first(completion, prompt):\n    return float(deep(completion.text) == 'a')\n")
    words = train(taught, manifest, folder / "run", "--set", 'rewards={"my.py:first": 1}')
    refused(words, 'reward "my.py:first" failed on question "q1": IndexError in line 2: string index out of range')
    refused([*words[:-1], 'rewards={"my.py:fist": 1}'], '"my.py" has no function "fist"; did you mean "first"')
    assert not (folder / "run").exists()
