"""One table for the parser, and the prompts byte for byte."""

import json
import time

import pytest

from medvlm_r1.errors import ConfigError
from medvlm_r1.reasoning import TEMPLATES, gold, parse, render
from medvlm_r1.types import Example

EXAMPLE = Example("q1", ("a.png",), "Which plane?", ("axial", "coronal", "sagittal"), "coronal", "mri")
T = "<think>x</think>"

# (completion, number of options, letter, status)
TABLE = [
    # A letter in each of its forms.
    (f"{T}<answer>A</answer>", 4, "A", "answered"),
    (f"{T}\n<answer>B</answer>", 4, "B", "answered"),
    (f"{T}<answer>b</answer>", 4, "B", "answered"),
    (f"{T}<answer>B)</answer>", 4, "B", "answered"),
    (f"{T}<answer>(B)</answer>", 4, "B", "answered"),
    (f"{T}<answer>(b)</answer>", 4, "B", "answered"),
    (f"{T}<answer>B.</answer>", 4, "B", "answered"),
    (f"{T}<answer>B:</answer>", 4, "B", "answered"),
    (f"{T}<answer>[B]</answer>", 4, "B", "answered"),
    (f"{T}<answer>[b]</answer>", 4, "B", "answered"),
    (f"{T}<answer>  B\n</answer>", 4, "B", "answered"),
    (f"{T}<answer>\u00a0B\u3000</answer>", 4, "B", "answered"),  # Unicode white space is white space
    (f"{T}<answer>J</answer>", 10, "J", "answered"),
    ("<answer>C</answer>", 4, "C", "answered"),
    ("So: <answer>C</answer>", 4, "C", "answered"),
    (f"{T}<answer>C</answer> I am sure.", 4, "C", "answered"),
    # Letters that are no options.
    (f"{T}<answer>D</answer>", 2, None, "unparsed"),
    (f"{T}<answer>c)</answer>", 2, None, "unparsed"),
    (f"{T}<answer>K</answer>", 10, None, "unparsed"),
    (f"{T}<answer>A</answer>", 0, None, "unparsed"),
    # No single letter.
    (f"{T}<answer></answer>", 4, None, "unparsed"),
    (f"{T}<answer>   </answer>", 4, None, "unparsed"),
    (f"{T}<answer>A or B</answer>", 4, None, "unparsed"),
    (f"{T}<answer>A, B</answer>", 4, None, "unparsed"),
    (f"{T}<answer>AB</answer>", 4, None, "unparsed"),
    (f"{T}<answer>B))</answer>", 4, None, "unparsed"),
    (f"{T}<answer>B?</answer>", 4, None, "unparsed"),
    (f"{T}<answer>**B**</answer>", 4, None, "unparsed"),
    (f"{T}<answer>1</answer>", 4, None, "unparsed"),
    (f"{T}<answer>)</answer>", 4, None, "unparsed"),
    # Option text is not read, with or without its letter.
    (f"{T}<answer>coronal</answer>", 4, None, "unparsed"),
    (f"{T}<answer>B) coronal</answer>", 4, None, "unparsed"),
    (f"{T}<answer>Option B</answer>", 4, None, "unparsed"),
    (f"{T}<answer>The answer is B</answer>", 4, None, "unparsed"),
    (f"{T}<answer>none</answer>", 4, None, "unparsed"),  # an option of many questions, no abstention
    (f"{T}<answer>None of the above</answer>", 4, None, "unparsed"),
    # Look-alikes and invisible characters are never guessed.
    (f"{T}<answer>Ｂ</answer>", 4, None, "unparsed"),  # full-width
    (f"{T}<answer>В</answer>", 4, None, "unparsed"),  # Cyrillic Ve
    (f"{T}<answer>Α</answer>", 4, None, "unparsed"),  # Greek Alpha
    (f"{T}<answer>\U0001d401</answer>", 4, None, "unparsed"),  # mathematical bold
    (f"{T}<answer>Ⓑ</answer>", 4, None, "unparsed"),
    (f"{T}<answer>B）</answer>", 4, None, "unparsed"),  # full-width bracket
    (f"{T}<answer>\u200bB</answer>", 4, None, "unparsed"),  # zero-width space
    (f"{T}<answer>B\ufeff</answer>", 4, None, "unparsed"),
    (f"{T}<answer>B\u0301</answer>", 4, None, "unparsed"),  # combining accent
    (f"{T}<ans\u200bwer>B</answer>", 4, None, "unparsed"),
    (f"{T}<answer>B\x00</answer>", 4, None, "unparsed"),
    # No tags, wrong tags.
    ("", 4, None, "unparsed"),
    ("B", 4, None, "unparsed"),
    ("The answer is B.", 4, None, "unparsed"),
    (T, 4, None, "unparsed"),
    (f"{T}<ANSWER>B</ANSWER>", 4, None, "unparsed"),
    (f"{T}<answer >B</answer>", 4, None, "unparsed"),
    (f"{T}＜answer＞B＜/answer＞", 4, None, "unparsed"),
    (f"{T}B</answer>", 4, None, "unparsed"),
    (f"{T}\\boxed{{B}}", 4, None, "unparsed"),
    # Cut off.
    ("<think>The plane is", 4, None, "truncated"),
    ("<think>", 4, None, "truncated"),
    (f"{T}<answer>", 4, None, "truncated"),
    (f"{T}<answer>B", 4, None, "truncated"),
    (f"{T}<answer>B</answ", 4, None, "truncated"),
    (f"{T}<answer>A</answer><answer>B", 4, None, "truncated"),
    ("<think>If it were left, <answer>A</answer>, but", 4, None, "truncated"),  # no answer yet: it still thinks
    ("<think>The plane is axial.<answer>A</answer>", 4, None, "truncated"),
    (f"{T}<think>No, wait: <answer>A</answer>", 4, None, "truncated"),
    (f"{T}<answer>A</answer><think>No, wait", 4, None, "truncated"),
    # Several and nested tags: the last answer after the last thought.
    (f"{T}<answer>A</answer><answer>B</answer>", 4, "B", "answered"),
    (f"{T}<answer>A</answer><answer>E</answer>", 4, None, "unparsed"),
    (f"{T}<answer>A</answer>{T}<answer>C</answer>", 4, "C", "answered"),
    ("<think>Perhaps <answer>A</answer>?</think><answer>B</answer>", 4, "B", "answered"),
    ("<think>Perhaps <answer>A</answer>?</think>", 4, None, "unparsed"),
    ("<think>a<think>b</think>c</think><answer>B</answer>", 4, "B", "answered"),
    ("<think>a</think>b</think><answer>B</answer>", 4, "B", "answered"),
    ("a</think><answer>B</answer>", 4, "B", "answered"),
    (f"{T}<answer><answer>B</answer></answer>", 4, "B", "answered"),
    (f"{T}<answer>A<answer>B</answer>", 4, "B", "answered"),
    (f"{T}<answer>B</answer></answer>", 4, "B", "answered"),
    (f"{T}</answer><answer>B</answer>", 4, "B", "answered"),
    (f"<answer>B</answer>{T}", 4, None, "unparsed"),
    (f"{T}<answer><think>B</think></answer>", 4, None, "unparsed"),
    # Abstentions.
    (f"{T}<answer>I cannot tell.</answer>", 4, None, "abstained"),
    (f"{T}<answer>I don't know</answer>", 4, None, "abstained"),
    (f"{T}<answer>I don’t know.</answer>", 4, None, "abstained"),
    (f"{T}<answer>cannot determine from one slice</answer>", 4, None, "abstained"),
    (f"{T}<answer>Unsure.</answer>", 4, None, "abstained"),
    (f"{T}<answer>I'm not sure</answer>", 4, None, "abstained"),
    (f"{T}<answer>unknown</answer>", 4, None, "abstained"),
    (f"{T}<answer>I cannot tell, perhaps B</answer>", 4, None, "abstained"),
    (f"{T}<answer>cannot tell {'x' * 300}</answer>", 4, None, "unparsed"),
]


@pytest.mark.parametrize(("text", "n_options", "letter", "status"), TABLE)
def test_parse(text, n_options, letter, status):
    read = parse(text, n_options)
    assert (read.answer, read.status) == (letter, status)


@pytest.mark.parametrize(
    ("text", "think"),
    [
        ("<think> Fluid is dark. </think><answer>A</answer>", "Fluid is dark."),
        ("Fluid is dark.</think><answer>A</answer>", "Fluid is dark."),
        ("<think>a</think> b </think><answer>A</answer>", "a</think> b"),
        ("<think>cut", "cut"),
        ("<answer>A</answer>", ""),
        ("no tags", ""),
    ],
)
def test_parse_keeps_the_thought(text, think):
    assert parse(text, 4).think == think


@pytest.mark.parametrize(
    "piece", ["<think>", "</think>", "<answer>", "</answer>", "<answer>A</answer>", "<think></think>", "<", "cannot tell ", " ", "(A"]
)
@pytest.mark.parametrize("frame", ["{}", "<answer>{}</answer>"])
def test_parse_takes_linear_time(piece, frame):
    text = frame.format(piece * (1_000_000 // len(piece)))
    started_s = time.process_time()
    parse(text, 4)
    assert time.process_time() - started_s < 0.5  # measured: below 0.01; quadratic would be minutes


@pytest.mark.parametrize("think", [None, "Ear to ear.", "Perhaps <answer>A</answer>?", "nested <think> and </think>", ""])
def test_the_gold_completion_is_read_as_the_gold_letter(think):
    assert parse(gold(EXAMPLE, think), 3).answer == "B"


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
