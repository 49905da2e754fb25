"""The second rule of reading: its table line by line, and that it changes no letter that the first rule reads."""

import json
from pathlib import Path

import pytest

from medvlm_r1.evaluation.strict2 import parse_2
from medvlm_r1.reasoning import parse

DOCS = Path(__file__).resolve().parents[1] / "docs"
LINES = [json.loads(line) for line in (DOCS / "extraction-strict-2.jsonl").read_text(encoding="utf-8").splitlines()]
FIRST = [json.loads(line) for line in (DOCS / "extraction-strict-1.jsonl").read_text(encoding="utf-8").splitlines()]


def test_it_reads_its_table():
    wrong = [(line["text"], found, line["answer"]) for line in LINES if (found := parse_2(line["text"], line["options"]).answer) != line["answer"]]
    assert not wrong


def test_the_table_says_everything_once_and_has_every_risk():
    assert len({json.dumps([line["text"], line["options"]]) for line in LINES}) == len(LINES)
    assert {line["risk"] for line in LINES} == {"low", "medium", "never", "strict-1"}
    assert all((line["answer"] is None) == (line["risk"] == "never") and line["why"] for line in LINES)
    assert f"{len(LINES)} lines" in (DOCS / "extraction.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("names", [("axial", "coronal", "sagittal", "oblique"), ("A", "B", "C", "D"), ("none", "yes", "unknown", "normal")])
def test_no_letter_that_strict_1_reads_is_changed(names):
    """Nor is one read in what it calls an abstention or cut off, whatever the options' texts are."""
    newly = 0
    for line in FIRST:
        text = (
            line["text"]
            if isinstance(line["text"], str)
            else "".join(part if isinstance(part, str) else part["repeat"] * part["times"] for part in line["text"])
        )
        options = [*names, *(f"option {i}" for i in range(20))][: line["n_options"]]
        first, second = parse(text, line["n_options"]), parse_2(text, options)
        if first.status != "unparsed":
            assert second == first
        newly += second.answer is not None and first.answer is None
        if names[1] == "coronal":
            assert second.answer in (None, line["answer"] or "B")  # B is what each of these lines means, where it means a letter
    assert newly == {"coronal": 53}.get(names[1], newly) and newly > 30


def test_a_long_text_is_no_letter():
    assert parse_2("<answer>" + "(" * 100_000 + "B</answer>", ["a", "b"]).answer is None
    assert parse_2("<think>" + "x " * 100_000 + "</think>B", ["a", "b"]).answer == "B"
