"""The splitter says what the parser says, wherever the text is cut."""

import json
from pathlib import Path

import pytest

from medvlm_r1.reasoning import parse
from medvlm_r1.serving.splitting import Splitter

TABLE = [json.loads(line) for line in (Path(__file__).parents[1] / "docs" / "extraction-strict-1.jsonl").read_text(encoding="utf-8").splitlines()]
for row in TABLE:
    parts = [row["text"]] if isinstance(row["text"], str) else row["text"]
    row["text"] = "".join(part if isinstance(part, str) else part["repeat"] * part["times"] for part in parts)
    row["think"] = parse(row["text"], row["n_options"]).think  # that it is the table's is tested where the parser is
SHORT = [row for row in TABLE if len(row["text"]) <= 400]


def streamed(pieces, think):
    splitter = Splitter()
    given = ""
    for piece in pieces:
        given += splitter.feed(piece)
        assert think.startswith(given)  # nothing that was given is ever taken back
    return given + splitter.rest(think), given


def test_every_cut_of_every_line_of_the_table():
    cuts = 0
    for row in SHORT:
        text, think = row["text"], row["think"]
        for at in range(len(text) + 1):
            assert streamed((text[:at], text[at:]), think)[0] == think
            cuts += 1
        assert streamed(text, think)[0] == think  # sign by sign
    assert cuts > 5_000 and len(SHORT) > 300


def test_long_lines_in_pieces():
    for row in TABLE:
        if row not in SHORT:
            size = max(1, len(row["text"]) // 50)
            pieces = [row["text"][at : at + size] for at in range(0, len(row["text"]), size)]
            assert streamed(pieces, row["think"])[0] == row["think"]


@pytest.mark.parametrize(("text", "early"), [
    ("<think>Ears and eyes.</think><answer>A</answer>", "Ears and eyes."),
    ("<think>a </think> b </think><answer>A</answer>", "a </think> b"),
    ("<think>a</think> b <think> c", "a</think> b <think> c"),
    ("Ears.</think><answer>A</answer>", ""),  # a <think> behind it would change all
    ("<answer>A</answer>", ""),
])  # fmt: skip
def test_the_thought_comes_while_it_is_written(text, early):
    """Not at the end only: all that is certain has been given before."""
    assert streamed(text, parse(text, 4).think)[1] == early
