"""``medvlm-r1 ask``: what it prints and what the probabilities mean."""

import json

import pytest
import torch
from conftest import picture

from medvlm_r1.commands import main as cli
from medvlm_r1.data.images import load_image
from medvlm_r1.errors import ConfigError
from medvlm_r1.models import nano
from medvlm_r1.models.encode import Encoder
from medvlm_r1.models.families import load_policy, prepare
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.answer import ask, option_probs
from medvlm_r1.rollout.told import question
from medvlm_r1.types import Completion, Rollout, RolloutGroup

OPTIONS = ("axial", "coronal", "sagittal")


@pytest.fixture
def words(taught, manifest):
    return ["ask", "--model", str(taught), str(manifest.parent / "wide.png"), "Which plane is this?", "--max-tokens", "16"]


def scripted(tokenizer, text):
    """A tiny model that writes ``text``, whatever it is asked: only the language head's input matters here."""
    policy = prepare(nano.new_model(tokenizer, seed=1), Encoder(tokenizer, nano.build_image_processor(), picture))
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    said = iter(ids)

    def log_softmax(hidden_TH, *how):
        if len(hidden_TH) == 1:  # decoding
            return torch.nn.functional.one_hot(torch.tensor([next(said)]), 512).float().log()
        return type(policy).log_softmax(policy, hidden_TH, *how)

    policy.log_softmax = log_softmax
    return policy


def test_json_has_all_that_is_known(words, capsys):
    assert cli.main([*words, "--options", *OPTIONS[:2], "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer.keys() == {"reasoning", "answer", "answer_text", "status", "option_probs", "text", "written", "warnings", "intended_use"}
    assert answer["answer"] in ("A", "B") and answer["status"] == "answered"  # it was taught letters
    assert answer["answer_text"] == OPTIONS["AB".index(answer["answer"])]
    assert sum(answer["option_probs"].values()) == pytest.approx(1)
    assert max(answer["option_probs"], key=answer["option_probs"].get) == answer["answer"]
    assert "Not for diagnosis" in answer["intended_use"]


def test_the_terminal_shows_answer_probabilities_and_intended_use(words, capsys):
    assert cli.main([*words, "--options", *OPTIONS[:2]]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("Reasoning  ") and out[1].startswith("Answer     ") and out[1].endswith("[answered]")
    assert [line.split()[:2] for line in out[2:4]] == [["A)", "axial"], ["B)", "coronal"]]
    assert sum(float(line.split()[2].rstrip("%")) for line in out[2:4]) == pytest.approx(100, abs=0.11)
    assert out[-1] == "Research use only. Not for diagnosis."


def test_what_could_not_be_read_is_shown_as_written(hub_dir, manifest, capsys):
    picture = str(manifest.parent / "wide.png")
    assert cli.main(["ask", "--model", str(hub_dir), picture, "Which?", "--options", "a", "b", "--max-tokens", "3"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[1] == "Answer     (none)  [truncated]" and out[2].startswith("Wrote      ")


CASES = {
    "<think>The ears.</think>\n<answer>B</answer>": ("The ears.", "B", "coronal", "answered"),
    "<answer>C)</answer>": ("", "C", "sagittal", "answered"),
    "<think>The ears.</think>\n<answer>the brain</answer>": ("The ears.", None, "", "unparsed"),
    "<answer>I cannot tell.</answer>": ("", None, "", "abstained"),
}


@pytest.mark.parametrize("text", CASES)
def test_an_answer_is_read_by_the_one_parser(tokenizer, text):
    answer = ask(scripted(tokenizer, text), question("a.png", "Which plane?", OPTIONS), "think", 100)
    assert (answer.reasoning, answer.answer, answer.answer_text, answer.status) == CASES[text]
    assert answer.text == text and sum(answer.option_probs.values()) == pytest.approx(1)


def test_an_answer_against_its_own_thought_is_none(tokenizer):
    text = "<think>The ears. Hence coronal.</think>\n<answer>A</answer>"
    answer = ask(scripted(tokenizer, text), question("a.png", "Which plane?", OPTIONS), "think", 100)
    assert (answer.status, answer.answer, answer.answer_text, answer.written, answer.option_probs) == ("contradicted", None, "", "A", {})
    assert [warned.text for warned in answer.warnings] == ["The thought names B) coronal, the answer written was A) axial."]


FREE = {
    "<think>The ears.</think>\n<answer>The brain.</answer>": "The brain.",
    "The brain.": "The brain.",
    "<think>It is <answer>no</answer></think> <answer>yes</answer>": "yes",
}


@pytest.mark.parametrize("text", FREE)
def test_without_options_the_answer_is_free_text(tokenizer, text):
    answer = ask(scripted(tokenizer, text), question("a.png", "What is this?", ()), "think", 100)
    assert (answer.answer, answer.answer_text, answer.status, answer.option_probs) == (None, FREE[text], "answered", {})


def test_the_probabilities_are_of_the_letters_after_the_thought(taught, manifest):
    """Against the definition: p(letter) over the letters offered, each whole completion scored on its own."""
    policy = load_policy(str(taught), load_image)
    example = question(str(manifest.parent / "wide.png"), "Which plane is this?", OPTIONS)
    prompt, thought = render(example, "direct"), "<think>Ears.</think>\n"
    found = dict(zip("ABC", option_probs(policy, [render(example, "direct")], [f"{thought}<answer>B</answer>"])[0], strict=False))
    scores = []
    for letter in "ABC":
        ids = tuple(policy.encoder.tokenizer(f"{thought}<answer>{letter}", add_special_tokens=False)["input_ids"])
        scores.append(policy.logprobs(policy.encoder.groups([RolloutGroup(prompt, (Rollout(Completion(ids, (), "", True), {}),))])).sum())
    assert list(found.values()) == pytest.approx(torch.stack(scores).softmax(0).tolist(), abs=1e-5)
    other = dict(zip("ABC", option_probs(policy, [render(example, "direct")], ["<answer>A</answer>"])[0], strict=False))
    assert other != found  # the thought matters


@pytest.mark.parametrize("options", [["left"], ["left", "left"], ["left", " "], [str(n) for n in range(11)]])
def test_options_must_be_a_choice(words, capsys, options):
    assert cli.main([*words, "--options", *options]) == 2
    assert "--options" in capsys.readouterr().err


@pytest.mark.parametrize(("position", "value", "part"), [
    (3, "gone.png", "gone.png"), (4, " ", "question is empty"),
])  # fmt: skip
def test_what_cannot_be_asked(words, capsys, position, value, part):
    words[position] = value
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert part in err and len(err.splitlines()) == 1


def test_an_unknown_template(words, capsys):
    assert cli.main([*words, "--template", "dircet"]) == 2
    assert 'did you mean "direct"' in capsys.readouterr().err


def test_question_needs_a_text():
    with pytest.raises(ConfigError, match="empty"):
        question("a.png", "", OPTIONS)


def test_half_a_character_on_the_command_line_is_named(words, refused):
    refused([*words[:4], "side \udcff?", *words[5:]], 'question "ask": "question" holds half a character (\\udcff)')
