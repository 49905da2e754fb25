"""The public table of the extraction rule, line by line, and the prompts byte for byte."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from medvlm_r1.errors import ConfigError
from medvlm_r1.evaluation.asking.run import score
from medvlm_r1.reasoning import TEMPLATES, Reasoned, gold, parse, read, render
from medvlm_r1.rewards.choice import choice
from medvlm_r1.types import LETTERS, Completion, Example

EXAMPLE = Example("q1", ("a.png",), "Which plane?", ("axial", "coronal", "sagittal"), "coronal", "mri")
TABLE = Path(__file__).resolve().parents[1] / "docs/extraction-strict-1.jsonl"


def spelled_out(text):
    """A text of the table: a string, or a list of strings and of {"repeat": piece, "times": n}."""
    parts = [text] if isinstance(text, str) else text
    return "".join(part if isinstance(part, str) else part["repeat"] * part["times"] for part in parts)


LINES = [json.loads(line) for line in TABLE.read_text(encoding="utf-8").splitlines()]
every_line = pytest.mark.parametrize("line", [pytest.param(line, id=f"{number}-{line['group']}") for number, line in enumerate(LINES, 1)])


@every_line
def test_parse_reads_the_table(line):
    wanted = Reasoned(spelled_out(line["think"]), line["answer"], line["status"])
    assert parse(spelled_out(line["text"]), line["n_options"]) == wanted, line["why"]


@every_line
def test_reward_and_evaluation_read_alike(line):
    """Whichever option is gold: training pays exactly where evaluation counts a right answer, greedy or sampled."""
    options = tuple(f"option {i}" for i in range(line["n_options"]))
    completion = Completion((), (), spelled_out(line["text"]), finished=True)
    for gold_text in options[: len(LETTERS)]:
        example = Example("q1", (), "Which?", options, gold_text, "mri")
        is_right = line["answer"] is not None and line["answer"] == example.letter
        sample = score(render(example, "think"), completion, [completion], "image")
        assert choice(completion, render(example, "think")) == float(is_right)
        assert (sample.correct, sample.status, sample.sampled_correct) == (is_right, line["status"], (is_right,))


def test_the_table_is_wide_and_says_everything_once():
    assert len(LINES) >= 300
    assert len({line["group"] for line in LINES}) == 19
    assert {line["status"] for line in LINES} == {"answered", "unparsed", "truncated", "abstained"}
    assert len({json.dumps([line["text"], line["n_options"]]) for line in LINES}) == len(LINES)
    assert all((line["answer"] is None) == (line["status"] != "answered") and line["why"] for line in LINES)


def test_the_docs_count_the_table_as_it_is():
    page = (TABLE.parent / "extraction.md").read_text(encoding="utf-8")
    for group, n in Counter(line["group"] for line in LINES).items():
        assert re.search(rf"^\| {group} \| {n} \|", page, re.MULTILINE), group
    assert f"{len(LINES)} lines" in page


class Counted(str):
    """A string that adds up how many characters its methods may have had to look at."""

    looked_at = 0

    def _look(self):
        Counted.looked_at += len(self)

    def rpartition(self, tag):
        self._look()
        return tuple(map(Counted, super().rpartition(tag)))

    def partition(self, tag):
        self._look()
        return tuple(map(Counted, super().partition(tag)))

    def rfind(self, tag):
        self._look()
        return super().rfind(tag)

    def strip(self):
        self._look()
        return Counted(super().strip())

    def __contains__(self, tag):
        self._look()
        return super().__contains__(tag)

    def __getitem__(self, part):
        self._look()
        return Counted(super().__getitem__(part))


@pytest.mark.parametrize("piece", ["<think>", "</think>", "<answer>", "</answer>", "<answer>A</answer>", "<think></think>", "<", "cannot tell ", " ", "(A"])
@pytest.mark.parametrize("frame", ["{}", "<answer>{}</answer>", "<think>{}</think><answer>A</answer>"])
def test_a_megabyte_is_looked_at_a_few_times_whatever_its_tags(piece, frame):
    """Work, not seconds: each character at most eight times, however many tags there are, and at least once.

    At least once, since a reader by regular expression would leave the count at 0. The two that
    parse has see only the body: one stops after three characters, one is kept to 200.
    """
    text = Counted(frame.format(piece * (1_000_000 // len(piece))))
    Counted.looked_at = 0
    assert parse(text, 4) == parse(str(text), 4)
    assert len(text) <= Counted.looked_at <= 8 * len(text)


@pytest.mark.parametrize("think", [None, "Ear to ear.", "Perhaps <answer>A</answer>?", "nested <think> and </think>", ""])
def test_the_gold_completion_is_read_as_the_gold_letter(think):
    assert parse(gold(EXAMPLE, think), 3).answer == "B"


def test_tags_that_nobody_asked_for_are_read_as_tags():
    bare = render(EXAMPLE, "paper-direct")
    assert [read(text, bare).status for text in ("B", "<answer>B</answer>", "<answer>B")] == ["answered", "answered", "truncated"]


def test_prompts_are_those_of_the_released_checkpoint():
    """Byte-exact JSON strings of JZPeterPan/MedVLM-R1, 2025-09-17."""
    train = json.loads(
        r'"\n        {Question} \n        Your task: \n        1. Think through the question step by step, enclose your reasoning '
        r"process in <think>...</think> tags. \n        2. Then provide the correct single-letter choice (A, B, C, D,...) inside "
        r'<answer>...</answer> tags.\n        3. No extra information or text outside of these tags.\n        "'
    )
    direct = json.loads(r'"\n    {Question} \n    Your task: provide the correct single-letter choice (A, B, C, D,...).\n    "')
    question = "Which plane?\nA) axial\nB) coronal\nC) sagittal"
    assert render(EXAMPLE, "paper-train").text == train.replace("{Question}", question)
    assert render(EXAMPLE, "paper-eval").text == train.replace(" " * 8, " " * 4).replace("{Question}", question)
    assert render(EXAMPLE, "paper-direct").text == direct.replace("{Question}", question)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_question_passes_through_every_template_unchanged(template):
    odd = Example("q2", (), "Is {question} 100 % {0}?", (), "yes", "ct")
    assert odd.question in render(odd, template).text


def test_an_unknown_template_is_named_with_its_neighbour():
    with pytest.raises(ConfigError, match='unknown template "thnk"; did you mean "think"'):
        render(EXAMPLE, "thnk")
