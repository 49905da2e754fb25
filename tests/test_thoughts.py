"""A thought in tokens of a model's own is read as one in tags, at the end and while it is being written."""

import pytest

from medvlm_r1.models import nano
from medvlm_r1.models.encode import Encoder
from medvlm_r1.models.thoughts import MARKS, Thoughts
from medvlm_r1.reasoning import parse, render
from medvlm_r1.serving.splitting import Splitter
from medvlm_r1.types import Example

CHANNEL, GEMMA, MAGISTRAL, PLAIN = Thoughts(*MARKS[0]), Thoughts(*MARKS[1]), Thoughts(*MARKS[2]), Thoughts()
# how it marks, has the template begun, what it wrote -> thought, letter, status of two options
TABLE = [
    (PLAIN, False, "<think>Ears.</think><answer>B</answer>", "Ears.", "B", "answered"),
    (CHANNEL, False, "<unused94>thought\nEars.<unused95><answer>B</answer>", "Ears.", "B", "answered"),
    (CHANNEL, False, "<unused94>thought\nEars, <answer>A</answer>", "Ears, <answer>A</answer>", None, "truncated"),
    (CHANNEL, False, "<think>Ears.</think><answer>B</answer>", "Ears.", "B", "answered"),  # asked for tags, it wrote tags
    (CHANNEL, False, "<unused94>other<answer>B</answer>", "", "B", "answered"),
    (GEMMA, False, "<|channel>thought\n<channel|><answer>A</answer>", "", "A", "answered"),
    (MAGISTRAL, False, "[THINK]Eyes.[/THINK]\n<answer>a</answer>", "Eyes.", "A", "answered"),
    (PLAIN, True, "Ears.</think>\n<answer>B</answer>", "Ears.", "B", "answered"),
    (PLAIN, True, "If it were left, <answer>A</answer>, but", "If it were left, <answer>A</answer>, but", None, "truncated"),
    (PLAIN, True, "<think>Ears.</think><answer>B</answer>", "Ears.", "B", "answered"),  # it began once more
    (CHANNEL, True, "Ears.<unused95><answer>B</answer>", "Ears.", "B", "answered"),
    (PLAIN, True, "", "", None, "truncated"),
]


@pytest.mark.parametrize(("thoughts", "begun", "written", "think", "letter", "status"), TABLE)
def test_what_is_read(thoughts, begun, written, think, letter, status):
    found = parse(thoughts.read(written, begun), 2)
    assert (found.think if status == "answered" or think else "", found.answer, found.status) == (think, letter, status)


@pytest.mark.parametrize(("thoughts", "begun", "written", "think", "letter", "status"), TABLE)
def test_a_stream_gives_the_same_thought_wherever_it_is_cut(thoughts, begun, written, think, letter, status):
    """Every pair of cuts: what was told only grows, and the splitter gives the parser's thought."""
    whole = thoughts.read(written, begun)
    for one in range(len(written) + 1):
        for two in range(one, len(written) + 1):
            splitter, told, given = Splitter(), "", ""
            for text in (thoughts.read(written[:one], begun, whole=False), thoughts.read(written[:two], begun, whole=False), whole):
                assert text.startswith(told)
                given, told = given + splitter.feed(text[len(told) :]), text
            assert given + splitter.rest(parse(whole, 2).think) == parse(whole, 2).think


def named(tokenizer, tokens=(), tail=""):
    tokenizer.add_special_tokens({"extra_special_tokens": [*nano.SPECIAL[1:], *tokens]})
    tokenizer.chat_template += tail
    return Encoder(tokenizer, nano.build_image_processor(), lambda reference: None)


def test_a_tokenizer_says_how_its_model_marks(fresh):
    assert named(fresh()).thoughts == PLAIN
    assert named(fresh(), ("<unused94>", "<unused95>")).thoughts == CHANNEL
    assert named(fresh(), ("<unused94>",)).thoughts == PLAIN  # a beginning without an end is none
    assert named(fresh(), tail="{{ '<think>\n' }}").thoughts == Thoughts(opened=True)


def test_a_template_that_begins_the_thought(fresh):
    """The prompt ends with it, the completion is read with it, and what is to be written behind it is written without."""
    encoder, example = named(fresh(), tail="{{ '<think>\n' }}"), Example("q1", (), "Which?", ("left", "right"), "left", "")
    prompt, ids = render(example, "think"), fresh()("Ears.</think><answer>B</answer>")["input_ids"]
    assert encoder.as_sent(prompt).endswith("<think>\n")
    assert parse(encoder.thoughts.said(ids, prompt), 2) == parse("<think>Ears.</think><answer>B</answer>", 2)
    assert encoder.thoughts.behind("<answer>B</answer>", prompt) == "</think><answer>B</answer>"
    forced = render(example, "think").__class__(example, prompt.text, opening="<think>Eyes.</think>\n<answer>")
    assert encoder.as_sent(forced).endswith("<think>Eyes.</think>\n<answer>") and encoder.as_sent(forced).count("<think>") == prompt.text.count("<think>") + 1
    assert encoder.thoughts.said(fresh()("B</answer>")["input_ids"], forced) == "B</answer>"


@pytest.fixture
def fresh():
    return lambda: nano.build_tokenizer(["Which plane is this? Think first, then answer. Ears. Eyes. left right"] * 4)
