"""Every family against transformers' own model, which runs once per completion from a checkpoint that we wrote."""

import json
from dataclasses import replace

import family_models
import pytest
import torch
from conftest import mismatch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from medvlm_r1.commands import main as cli
from medvlm_r1.models.families import load_policy
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.training import checkpoint
from medvlm_r1.types import Completion, Rollout, RolloutGroup

LENGTHS_PG = [[5, 9, 1], [4], [12, 3], [2, 6]]


@pytest.fixture(scope="module", params=family_models.TINY)
def saved(request, tmp_path_factory):
    """A checkpoint of a model that was loaded from a directory like the hub's."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint.save_model(load_policy(str(family_models.write(request.param, folder / "hub")), family_models.picture), folder / "step-1")
    return folder / "step-1"


@pytest.fixture
def policy(saved):
    return load_policy(str(saved), family_models.picture)


@pytest.fixture
def theirs(saved):
    model, info = AutoModelForImageTextToText.from_pretrained(saved, output_loading_info=True)
    assert not any(info.values())
    return model.eval()


def groups(policy):
    generator = torch.Generator().manual_seed(0)
    for example, lengths_G in zip(family_models.examples(), LENGTHS_PG, strict=True):
        rows = [tuple(torch.randint(20, 250, (length,), generator=generator).tolist()) for length in lengths_G]
        yield RolloutGroup(render(example, "think"), tuple(Rollout(Completion(ids, (), "", True), {}) for ids in rows))


def naive_logprobs(policy, theirs, group):
    """Every completion on its own: images encoded again, prompt run again, full logits."""
    prompt = policy.encoder.prompt_ids(group.prompt)
    for rollout in group.rollouts:
        ids = [*prompt, *rollout.completion.token_ids]
        row = torch.tensor([ids])
        more = family_models.inputs(policy, ids, group.prompt.example.images)
        logits = theirs(input_ids=row, attention_mask=torch.ones_like(row), **more).logits[0, len(prompt) - 1 : -1].float()
        logits[:, policy.banned_ids] = -torch.inf
        yield logits.log_softmax(-1).gather(1, row[0, len(prompt) :, None])[:, 0]


def test_values_and_gradients_are_those_of_transformers(policy, theirs):
    batch = policy.encoder.groups(list(groups(policy)))
    ours = policy.logprobs(batch)[batch.mask_RC.bool()]
    naive = torch.cat([logprob for group in groups(policy) for logprob in naive_logprobs(policy, theirs, group)])
    assert (ours - naive).abs().max() <= 1e-5
    assert naive.std() > 0.3  # noise that says nothing would agree with anything
    weights = torch.linspace(-1, 1, len(ours))
    (ours * weights).sum().backward()
    (naive * weights).sum().backward()
    for (name, p), q in zip(policy.model.named_parameters(), theirs.parameters(), strict=True):
        if q.grad is None:
            assert p.grad is None, name
        else:
            assert (p.grad - q.grad).norm() <= 1e-4 * q.grad.norm() + 1e-6, name


def test_greedy_is_transformers_generation(policy, theirs):
    prompts = [render(example, "think") for example in family_models.examples()]
    completions = LocalEngine(policy).generate(prompts, Sampling(n=1, temperature=0.0, max_tokens=10))
    for prompt, [ours] in zip(prompts, completions, strict=True):
        ids = policy.encoder.prompt_ids(prompt)
        row = torch.tensor([ids])
        more = family_models.inputs(policy, ids, prompt.example.images)
        never = [[i] for i in policy.banned_ids]
        how = {"max_new_tokens": 10, "do_sample": False, "bad_words_ids": never}
        out = theirs.generate(input_ids=row, attention_mask=torch.ones_like(row), **how, **more)
        assert list(ours.token_ids) == out[0, len(ids) :].tolist()


def test_a_sampled_token_has_the_log_probability_that_training_computes(policy):
    largest, tokens = mismatch(policy, [render(example, "think") for example in family_models.examples()], Sampling(n=3, max_tokens=8, seed=5))
    assert largest <= 1e-5 and not tokens & set(policy.banned_ids)


def test_a_frozen_copy_stays_what_it_was(policy):
    batch, reference = policy.encoder.groups(list(groups(policy))), policy.frozen_copy()
    with torch.no_grad():
        before = policy.logprobs(batch)
        for p in policy.model.parameters():
            p.zero_()
        first, second = reference.logprobs(batch), reference.logprobs(batch)  # images encoded, images kept
    torch.testing.assert_close(first, before, atol=1e-5, rtol=0)
    assert torch.equal(first, second)


def test_a_run_goes_on_from_the_weights_it_saved(saved, policy):
    weights = load_file(saved / "model.safetensors")
    wanted = {name: p.clone() for name, p in policy.model.named_parameters()}
    with torch.no_grad():
        for p in policy.model.parameters():
            p.zero_()
    policy.load_weights(weights)
    assert all(torch.equal(p, wanted[name]) for name, p in policy.model.named_parameters())


def test_an_image_token_in_a_question_is_text_and_no_picture(policy):
    encoder, example = policy.encoder, replace(family_models.examples()[2], question="What is this?")
    asker = replace(example, question=f"What is {encoder.family.image_token}?")
    plain, written = (encoder.prompt_ids(render(e, "think")).count(encoder.image_id) for e in (example, asker))
    assert written == plain > 0


@pytest.mark.parametrize("command", ["train", "sft"])
def test_the_papers_recipe_runs_and_its_checkpoint_is_asked(saved, manifest, tmp_path, capsys, command):
    """Checks before step 1, memory plan, rehearsal, rollouts, update, checkpoint: nothing on the way knows the family."""
    values = ["steps=1", "prompts_per_step=2", "max_pixels=12544", "dtype=float32"]
    values += ["sampling.max_tokens=4"] if command == "train" else []
    words = [command, "paper", "--model", str(saved), "--data", str(manifest), "--run-dir", str(tmp_path / "run")]
    assert cli.main([*words, *(part for value in values for part in ("--set", value))]) == 0
    capsys.readouterr()
    step, picture = str(tmp_path / "run" / "checkpoints" / "step-1"), str(manifest.parent / "wide.png")
    assert cli.main(["ask", "--model", step, picture, "Which?", "--options", "axial", "coronal", "--max-tokens", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["option_probs"].keys() == {"A", "B"}
