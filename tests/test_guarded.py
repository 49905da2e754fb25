"""One question costs one question: what cannot be asked of a model here, or answered by it, fails alone."""

import math

import family_models
import pytest
import torch
from conftest import picture
from PIL import Image

from medvlm_r1.errors import EngineError, ImageError, TooLong
from medvlm_r1.evaluation.asking.run import score
from medvlm_r1.models import nano
from medvlm_r1.models.encode import Encoder
from medvlm_r1.models.families import load_policy
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.answer import ask
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.guarded import Guarded, checked
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.rollout.scripted import ScriptedEngine, written
from medvlm_r1.rollout.told import question
from medvlm_r1.types import Completion, Example


def prompt(name="q1", images=("a.png",), text="Which plane is this?"):
    return render(Example(name, images, text, ("axial", "coronal"), "axial", "mri"), "think")


def guarded(policy, script=lambda prompt, k: written(prompt, "A")):
    return Guarded(ScriptedEngine(script), policy.encoder)


def errors_of(groups):
    return [completion.error for group in groups for completion in group]


# ---------------------------------------------------------------- what cannot be asked


def test_each_fault_costs_its_question_and_no_other(policy):
    def load(reference):
        if reference == "gone.png":
            raise ImageError(f'image "{reference}" is missing')
        return Image.new("L", (1, 300)) if reference == "thread.png" else picture(reference)

    policy.encoder.load_image = load
    asked = [
        prompt("q1"), prompt("q2", ("gone.png",)), prompt("q3", ("thread.png",)), prompt("q4", text="Which \udcff is this?"),
        prompt("q5", text="Which plane is this? " * 2000), prompt("q6", ("b.png",)), prompt("q7", text="Which \ud83d?"),
    ]  # fmt: skip
    engine = guarded(policy)
    groups = engine.generate(asked, Sampling(2, 1.0, 64))
    assert engine.engine.asked == [("q1", 1), ("q1", 2), ("q6", 1), ("q6", 2)] and [len(group) for group in groups] == [2] * 7
    first = errors_of(groups)[::2]
    assert first[0] == first[5] == "" and groups[5][0].text.endswith("<answer>A</answer>")
    assert first[1] == 'question "q2": image "gone.png" is missing'
    assert '"q3"' in first[2] and "cannot be prepared" in first[2] and "aspect ratio" in first[2] and "crop it" in first[2]
    assert 'question "q4" holds half a character' in first[3]
    assert 'question "q7" holds half a character, which no tokenizer takes' in first[6]
    assert 'question "q5" needs ' in first[4] and "the model reads 4096 in all; shorten it" in first[4]


def test_an_answer_needs_room_too(policy):
    length = len(policy.encoder.prompt_ids(prompt()))
    policy.encoder.context = length + 64
    assert errors_of(guarded(policy).generate([prompt()], Sampling(1, 0.0, 64))) == [""]
    [error] = errors_of(guarded(policy).generate([prompt()], Sampling(1, 0.0, 65)))
    assert f"needs {length} prompt tokens and 65 for its answer, and the model reads {length + 64} in all" in error


# ---------------------------------------------------------------- the budget that fits


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "smolvlm", "internvl"])
def test_the_budget_that_is_named_fits_whatever_the_family(kind, tmp_path):
    folder = family_models.write(kind, tmp_path / "hub")
    policy = load_policy(str(folder), family_models.picture)
    asked = render(family_models.examples()[3], "think")  # three pictures
    policy.encoder.context = len(policy.encoder.prompt_ids(asked)) + 9
    with pytest.raises(TooLong) as error:
        policy.encoder.prompt_ids(asked, room=10)
    fits = error.value.max_pixels
    assert f"--max-pixels {fits} makes it fit (in training: --set max_pixels={fits})" in str(error.value)
    lowered = load_policy(str(folder), family_models.picture, max_pixels=fits).encoder
    lowered.context = policy.encoder.context
    assert len(lowered.prompt_ids(asked, room=10)) < policy.encoder.context - 9 + 1


def test_the_budget_that_is_named_wastes_little(policy):
    """336 x 448 is 12 x 16 squares of 28, 192 tokens; where there is room for 100, 8 x 11 are the most in this shape."""
    policy.encoder.load_image = lambda reference: Image.new("RGB", (336, 448))
    policy.encoder.image_processor.size = {"shortest_edge": 784, "longest_edge": 12_845_056}
    text = len(policy.encoder.prompt_ids(prompt())) - 192
    policy.encoder.context = text + 100 + 50
    with pytest.raises(TooLong, match=f"needs {text + 192} prompt tokens and 50 for its answer") as error:
        policy.encoder.prompt_ids(prompt(), room=50)
    assert 8 * 11 * 28**2 <= error.value.max_pixels < 9 * 12 * 28**2
    again = Encoder(policy.encoder.tokenizer, nano.build_image_processor(), policy.encoder.load_image, policy.encoder.context)
    again.family.shrink(again.image_processor, error.value.max_pixels)
    assert len(again.prompt_ids(prompt(), room=50)) == text + 88


def test_one_budget_is_found_for_all(policy):
    """The second question has more text; the third fits with what the second needs."""
    policy.encoder.load_image = lambda reference: Image.new("RGB", (336, 448))
    policy.encoder.image_processor.size = {"shortest_edge": 784, "longest_edge": 12_845_056}
    policy.encoder.context = 200
    budgets = []
    for text in ("Which?", "Which plane is this? " * 3, "Which of them?"):
        with pytest.raises(TooLong) as error:
            policy.encoder.prompt_ids(prompt(text=text))
        budgets.append(error.value.max_pixels)
    assert budgets[0] > budgets[1] == budgets[2] > 0


# ---------------------------------------------------------------- what cannot be answered


def test_numbers_that_are_not_finite_are_no_answer(policy):
    def script(asked, k):
        good = written(asked, "A")
        return Completion(good.token_ids, (*good.logprobs[1:], math.nan), good.text, True) if asked.example.id == "q2" else good

    errors = errors_of(guarded(policy, script).generate([prompt("q1"), prompt("q2"), prompt("q3")], Sampling(1, 0.0, 64)))
    assert errors[::2] == ["", ""] and "not finite; ask it with --dtype float32" in errors[1]
    assert checked(Completion((), (), "text of an endpoint", True)).error == ""


@pytest.mark.parametrize(("temperature", "value"), [(0.0, torch.nan), (1.0, torch.nan), (0.0, torch.inf), (1.0, torch.inf)])
def test_a_layer_that_overflows_shows_in_what_it_chose(policy, temperature, value):
    engine = Guarded(LocalEngine(policy), policy.encoder)
    assert errors_of(engine.generate([prompt()], Sampling(1, temperature, 4))) == [""]
    with torch.no_grad():
        policy.text.layers[0].mlp.down_proj.weight[0, 0] = value
    assert "not finite" in errors_of(engine.generate([prompt()], Sampling(1, temperature, 4)))[0]
    with pytest.raises(EngineError, match="not finite"):
        ask(policy, question("a.png", "Which plane?", ("axial", "coronal")), "think", 4)


def test_probabilities_that_are_not_finite_are_none():
    asked = prompt()
    good, bad = (score(asked, written(asked, "A"), (), "image", probs) for probs in ((0.25, 0.75), (math.nan, math.nan)))
    assert (good.status, good.option_probs) == ("answered", (0.25, 0.75))
    assert (bad.status, bad.option_probs, bad.answer) == ("failed", (), None) and "not finite" in bad.text


class Small:
    """An engine whose memory holds two prompts at a time, and one never."""

    def __init__(self, never="q3"):
        self.never, self.calls = never, []

    def generate(self, prompts, sampling):
        self.calls.append([asked.example.id for asked in prompts])
        if len(prompts) > 2 or self.never in self.calls[-1]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee the manual.")
        return [[written(asked, "A")] for asked in prompts]


def test_a_memory_that_is_too_small_for_all_is_asked_by_halves(policy):
    engine = Guarded(small := Small(), policy.encoder)
    errors = errors_of(engine.generate([prompt(f"q{n}") for n in range(1, 6)], Sampling(1, 0.0, 8)))
    assert [bool(error) for error in errors] == [False, False, True, False, False]
    assert "lower --max-pixels or --max-tokens (CUDA out of memory. Tried to allocate 2 GiB.)" in errors[2]
    assert small.calls[:2] == [["q1", "q2", "q3", "q4", "q5"], ["q1", "q2"]]


def test_prompts_are_put_as_many_at_a_time_as_their_tokens_allow(policy, monkeypatch):
    from medvlm_r1.rollout import guarded as module

    monkeypatch.setattr(module, "TOKENS_AT_ONCE", 2 * len(policy.encoder.prompt_ids(prompt())))
    engine = Guarded(small := Small(never="none"), policy.encoder)
    assert errors_of(engine.generate([prompt(f"q{n}") for n in range(5)], Sampling(1, 0.0, 8))) == [""] * 5
    assert small.calls == [["q0", "q1"], ["q2", "q3"], ["q4"]]
