"""One table of answers under four rules: the paper's two rewards, its authors' evaluation, and ours. Worked out by hand.

The question has four options and the gold letter is B.
format:   the whole text is <think>…</think>, white space, <answer>…</answer>.
accuracy: the first answer's body in capitals holds exactly one character of A to J, and that is B; 0.5 if more remains.
verdict:  the first answer's body is one bare capital.
strict-1: the last answer after the last thought is one letter of the options, bare or in brackets.
"""

from collections import Counter

import pytest

from medvlm_r1.reasoning import EVALUATED_AS, parse, render
from medvlm_r1.rewards.choice import choice, paper_choice, paper_verdict
from medvlm_r1.rewards.format import asked_format
from medvlm_r1.types import Completion, Example

EXAMPLE = Example("q1", ("a.png",), "Which?", ("brain", "breast", "knee", "liver"), "breast", "mri")
T = "<think>x</think>"
OK, UN, CUT, OUT = "answered", "unparsed", "truncated", "abstained"

# (completion, format, accuracy, the authors' verdict, our letter, our status)
TABLE = [
    # As it should be.
    (f"{T}<answer>B</answer>", 1, 1.0, "B", "B", OK),
    (f"{T}\n<answer>B</answer>", 1, 1.0, "B", "B", OK),
    (f"{T}\n\n  <answer>B</answer>", 1, 1.0, "B", "B", OK),
    ("<think></think><answer>B</answer>", 1, 1.0, "B", "B", OK),
    ("<think>two\nlines</think>\n<answer>\nB\n</answer>", 1, 1.0, "B", "B", OK),
    (f"{T}<answer> B </answer>", 1, 1.0, "B", "B", OK),
    (f"{T}<answer>\u00a0B</answer>", 1, 1.0, "B", "B", OK),  # Unicode white space is white space
    # Another letter.
    (f"{T}<answer>A</answer>", 1, 0.0, "A", "A", OK),
    (f"{T}<answer>D</answer>", 1, 0.0, "D", "D", OK),
    (f"{T}<answer>E</answer>", 1, 0.0, "E", None, UN),  # no option, yet the authors read it
    (f"{T}<answer>J</answer>", 1, 0.0, "J", None, UN),
    (f"{T}<answer>K</answer>", 1, 0.0, None, None, UN),
    (f"{T}<answer>a</answer>", 1, 0.0, None, "A", OK),
    # The gold letter in another dress: rewarded in training, refused at the authors' test.
    (f"{T}<answer>b</answer>", 1, 1.0, None, "B", OK),
    (f"{T}<answer>B)</answer>", 1, 0.5, None, "B", OK),
    (f"{T}<answer>b)</answer>", 1, 0.5, None, "B", OK),
    (f"{T}<answer>(B)</answer>", 1, 0.5, None, "B", OK),
    (f"{T}<answer>[B]</answer>", 1, 0.5, None, "B", OK),
    (f"{T}<answer>B.</answer>", 1, 0.5, None, "B", OK),
    (f"{T}<answer>B:</answer>", 1, 0.5, None, "B", OK),
    (f"{T}<answer>B?</answer>", 1, 0.5, None, None, UN),
    (f"{T}<answer>B!</answer>", 1, 0.5, None, None, UN),
    (f"{T}<answer>**B**</answer>", 1, 0.5, None, None, UN),
    (f"{T}<answer>B))</answer>", 1, 0.5, None, None, UN),
    (f"{T}<answer>'B'</answer>", 1, 0.5, None, None, UN),
    (f"{T}<answer>\u200bB</answer>", 1, 0.5, None, None, UN),  # zero-width space
    (f"{T}<answer>B 2</answer>", 1, 0.5, None, None, UN),
    (f"{T}<answer>B!\nx</answer>", 1, 0.5, None, None, UN),
    # Words are read letter by letter: which of them hold one more of A to J decides.
    (f"{T}<answer>B) breast</answer>", 1, 0.0, None, None, UN),  # B, B, E, A
    (f"{T}<answer>breast</answer>", 1, 0.0, None, None, UN),
    (f"{T}<answer>Option B</answer>", 1, 0.0, None, None, UN),  # I is one of A to J
    (f"{T}<answer>The answer is B</answer>", 1, 0.0, None, None, UN),
    (f"{T}<answer>B) lump</answer>", 1, 0.5, None, None, UN),  # L, U, M, P are none
    (f"{T}<answer>lump B</answer>", 1, 0.5, None, None, UN),
    (f"{T}<answer>sub</answer>", 1, 0.5, None, None, UN),  # the fault itself: a word earns half
    (f"{T}<answer>tumor</answer>", 1, 0.0, None, None, UN),  # no letter at all
    (f"{T}<answer>knee</answer>", 1, 0.0, None, None, UN),
    (f"{T}<answer>A) lump</answer>", 1, 0.0, None, None, UN),
    # More letters, or none.
    (f"{T}<answer>AB</answer>", 1, 0.0, None, None, UN),
    (f"{T}<answer>BB</answer>", 1, 0.0, None, None, UN),
    (f"{T}<answer>A or B</answer>", 1, 0.0, None, None, UN),
    (f"{T}<answer>B, D</answer>", 1, 0.0, None, None, UN),
    (f"{T}<answer>B or K</answer>", 1, 0.5, None, None, UN),
    (f"{T}<answer></answer>", 1, 0.0, None, None, UN),
    (f"{T}<answer>  </answer>", 1, 0.0, None, None, UN),
    (f"{T}<answer>2</answer>", 1, 0.0, None, None, UN),
    (f"{T}<answer>\uff22</answer>", 1, 0.0, None, None, UN),  # full-width B
    (f"{T}<answer>\u0412</answer>", 1, 0.0, None, None, UN),  # Cyrillic Ve
    (f"{T}<answer>I cannot tell</answer>", 1, 0.0, None, None, OUT),
    (f"{T}<answer>unsure</answer>", 1, 0.0, None, None, OUT),
    # The form is wrong, the letter may be right.
    ("<answer>B</answer>", 0, 1.0, "B", "B", OK),
    ("So: <answer>B</answer>", 0, 1.0, "B", "B", OK),
    (f" {T}<answer>B</answer>", 0, 1.0, "B", "B", OK),
    (f"{T}<answer>B</answer>\n", 0, 1.0, "B", "B", OK),
    (f"{T}<answer>B</answer> I am sure.", 0, 1.0, "B", "B", OK),
    (f"{T} so <answer>B</answer>", 0, 1.0, "B", "B", OK),
    ("x</think><answer>B</answer>", 0, 1.0, "B", "B", OK),
    (f"<answer>B</answer>{T}", 0, 1.0, "B", None, UN),
    (f"{T}B", 0, 0.0, None, None, UN),
    ("B", 0, 0.0, None, None, UN),
    ("", 0, 0.0, None, None, UN),
    (f"{T}<ANSWER>B</ANSWER>", 0, 0.0, None, None, UN),
    (f"{T}<answer >B</answer>", 0, 0.0, None, None, UN),
    (f"{T}\\boxed{{B}}", 0, 0.0, None, None, UN),
    # Cut off.
    ("<think>x", 0, 0.0, None, None, CUT),
    (f"{T}<answer>B", 0, 0.0, None, None, CUT),
    (f"{T}<answer>B</answ", 0, 0.0, None, None, CUT),
    ("<think>x<answer>B</answer>", 0, 1.0, "B", None, CUT),  # it still thinks, and is paid
    # Several answers: the paper takes the first, we take the last.
    (f"{T}<answer>B</answer><answer>A</answer>", 1, 1.0, "B", "A", OK),
    (f"{T}<answer>A</answer><answer>B</answer>", 1, 0.0, "A", "B", OK),
    (f"{T}<answer>B</answer>\n{T}<answer>A</answer>", 1, 1.0, "B", "A", OK),
    ("<think>Is it <answer>A</answer>?</think><answer>B</answer>", 1, 0.0, "A", "B", OK),
    ("<think>Is it <answer>B</answer>?</think><answer>A</answer>", 1, 1.0, "B", "A", OK),  # a hedge in the thought earns it all
    (f"{T}<answer><answer>B</answer></answer>", 1, 0.0, None, "B", OK),  # the body is "<answer>B", with A and E
    (f"{T}<answer>A<answer>B</answer>", 1, 0.0, None, "B", OK),
    (f"{T}{T}<answer>B</answer>", 1, 1.0, "B", "B", OK),
]


@pytest.mark.parametrize(("text", "form", "accuracy", "verdict", "letter", "status"), TABLE)
def test_an_answer_under_four_rules(text, form, accuracy, verdict, letter, status):
    completion, read, prompt = Completion((7,), (0.0,), text, True), parse(text, 4), render(EXAMPLE, "paper-train")
    assert asked_format(completion, prompt) == form
    assert paper_choice(completion, prompt) == accuracy
    assert paper_verdict(text) == verdict
    assert (read.answer, read.status) == (letter, status)
    assert choice(completion, prompt) == (letter == "B")


def test_the_table_is_large_and_shows_where_the_rules_part():
    assert len({row[0] for row in TABLE}) == len(TABLE) >= 60
    apart = Counter((accuracy > 0, verdict == "B", letter == "B") for _, _, accuracy, verdict, letter, _ in TABLE)
    assert apart[True, False, True] >= 5  # rewarded, then refused by the authors' own evaluation
    assert apart[True, False, False] >= 5 and apart[False, False, True] >= 3 and apart[True, True, False] >= 3


def test_the_evaluation_prompt_is_the_authors_byte_for_byte():
    """The JSON string of the released checkpoint's interface, typed by hand."""
    template = (
        "\n    {Question} \n    Your task: \n    1. Think through the question step by step, enclose your reasoning process in "
        "<think>...</think> tags. \n    2. Then provide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags."
        "\n    3. No extra information or text outside of these tags.\n    "
    )
    asked = template.replace("{Question}", "Which?\nA) brain\nB) breast\nC) knee\nD) liver")
    assert render(EXAMPLE, "paper-eval").text.encode() == asked.encode()
    assert EVALUATED_AS["paper-train"] == "paper-eval"
