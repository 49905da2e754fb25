"""Gemma 3 on the shared prefix, beyond what tests/test_family.py shows of every family: windows, pictures in both directions, and its prompt."""

from dataclasses import replace

import family_models
import pytest
import torch
from test_family import groups, naive_logprobs
from transformers import AutoModelForImageTextToText

from medvlm_r1.models.families import load_policy
from medvlm_r1.models.sight import Sight
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.serving.slot_engine import SlotEngine


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    return family_models.write("gemma3", tmp_path_factory.mktemp("gemma3") / "hub")


@pytest.fixture
def policy(folder):
    return load_policy(str(folder), family_models.picture)


def prompts():
    return [render(example, "think") for example in family_models.examples()]


def test_what_each_layer_sees(policy):
    assert policy.sight == Sight((24, 0, 24), whole_pictures=True)
    assert policy.text.layers[0].self_attn.scaling == pytest.approx(24**-0.5)  # and no power of the head size, 32


@pytest.mark.parametrize("wrong", [Sight((), True), Sight((24, 0, 24), False), Sight((25, 0, 25), True), Sight((24, 24, 24), True)])
def test_nothing_else_gives_transformers_numbers(policy, folder, wrong):
    """Without the windows, without pictures in both directions, with a window one wider, or one in each layer: what test_family holds to 1e-5 would fail."""
    theirs = AutoModelForImageTextToText.from_pretrained(folder).eval()
    asked = list(groups(policy))[3:]
    with torch.no_grad():
        naive = torch.cat(list(naive_logprobs(policy, theirs, asked[0])))
        right = policy.logprobs(batch := policy.encoder.groups(asked))[batch.mask_RC.bool()]
        policy.sight = wrong
        found = policy.logprobs(replace(batch, placed={}))[batch.mask_RC.bool()]
    assert (right - naive).abs().max() <= 1e-5 < 1e-3 < (found - naive).abs().max()


def test_a_captured_step_and_the_servers_slots_write_the_same(policy):
    """40 tokens: every window leaves the prompt behind, and then the first of the completion."""
    sampling = Sampling(2, 1.0, 40, seed=3, min_tokens=40)
    plain, captured = (LocalEngine(policy, capture=how).generate(prompts()[:2], sampling) for how in (None, lambda step: step))
    assert [[c.token_ids for c in group] for group in captured] == [[c.token_ids for c in group] for group in plain]
    engine, written = SlotEngine(policy), {}
    for n, prompt in enumerate(prompts()[:2]):
        engine.submit(prompt, sampling, lambda token, n=n: written.setdefault((n, token.k), []).append(token.id))
    while engine.step():
        pass
    assert {(n, k): list(c.token_ids) for n, group in enumerate(plain) for k, c in enumerate(group)} == written


def test_a_picture_in_the_prompt(policy):
    """Begin, 16 soft tokens and end, apart from the text; one <bos>, at the beginning."""
    text = policy.encoder.tokenizer.decode(policy.encoder.prompt_ids(prompts()[2]))
    assert text.startswith("<bos><start_of_turn>user\n") and text.count("<bos>") == 1 and text.endswith("<start_of_turn>model\n")
    assert text.count("\n\n<start_of_image>" + "<image_soft_token>" * 16 + "<end_of_image>\n\n") == 2
    assert policy.encoder.tokenizer.decode(policy.encoder.sent_ids(prompts()[2])).count("<start_of_image>") == 2  # a server puts the rest there


def test_every_picture_is_one_square(policy):
    assert {policy.encoder.pixels(name).patches.shape for name in ("square-a", "tall-a", "wide-a")} == {(1, 3, 112, 112)}
