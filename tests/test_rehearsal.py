"""The worst micro-batch first, and nothing of it remains."""

from dataclasses import replace

import pytest
import torch
from conftest import picture

from medvlm_r1.errors import EngineError
from medvlm_r1.files import read_rows
from medvlm_r1.launch.training import check_memory
from medvlm_r1.models import nano
from medvlm_r1.models.encode import Encoder
from medvlm_r1.models.families import prepare
from medvlm_r1.preflight import forecast as planning
from medvlm_r1.preflight.machine import Device
from medvlm_r1.preflight.rehearsal import is_worth, longest, rehearse, worst_groups
from medvlm_r1.preflight.shape import ModelShape
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.training.grpo import trainer as grpo
from medvlm_r1.training.grpo.update import UpdateConfig
from medvlm_r1.training.optim import OptimConfig

CONFIG = grpo.GRPOConfig(
    template="think", steps=2, prompts_per_step=2, sampling=Sampling(n=3, max_tokens=8), update=UpdateConfig(),
    optim=OptimConfig(lr=1e-3), dtype="float32", max_pixels=None,
)  # fmt: skip


def forecast(policy, examples, config=CONFIG, free=2**40):
    prompts = planning.Prompts.of(policy, config, examples)
    return planning.forecast(config, ModelShape.of(policy.model), prompts, Device("a CPU", 2**40, free, is_host=True))


def reward(completion, example):
    return {"accuracy": float(sum(completion.token_ids) % 2)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_is_the_same_bit_for_bit_with_and_without(tokenizer, examples, tmp_path, dtype):
    config, found = replace(CONFIG, dtype=dtype), []
    for name in ("with", "without"):
        torch.manual_seed(7)
        model = nano.new_model(tokenizer, seed=1).to(getattr(torch, dtype))
        policy = prepare(model, Encoder(tokenizer, nano.build_image_processor(), picture))
        if name == "with":
            rehearse(forecast(policy, examples, config), policy, examples)
        assert grpo.train(config, policy, LocalEngine(policy), examples, reward, tmp_path / name)
        rows = [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in read_rows(tmp_path / name / "metrics.jsonl")]
        found.append((rows, {k: v.clone() for k, v in policy.model.state_dict().items()}, torch.rand(3)))
    assert found[0][0] == found[1][0] and any(row["grad_norm"] > 0 for row in found[0][0])
    assert all(torch.equal(value, found[1][1][key]) for key, value in found[0][1].items())
    assert torch.equal(found[0][2], found[1][2])


def test_gradients_are_made_and_thrown_away(policy, examples):
    made = []
    handle = policy.model.model.visual.patch_embed.proj.weight.register_hook(lambda gradient: made.append(gradient.abs().sum()))
    rehearse(forecast(policy, examples), policy, examples)
    handle.remove()
    assert len(made) == 1 and made[0] > 0  # backward went through everything, down to the first patch
    assert all(p.grad is None for p in policy.model.parameters()) and policy.version == 0


def test_the_images_of_a_whole_step_are_held_beside_one_micro_batch(policy, examples):
    """The two longest questions show a.png, b.png and one more; 24 tokens hold one group."""
    passes = []
    policy.model.model.visual.register_forward_hook(lambda module, args, kwargs, out: passes.append(len(kwargs["grid_thw"])), with_kwargs=True)
    tight = forecast(policy, examples, replace(CONFIG, update=UpdateConfig(tokens_per_micro_batch=24)))
    references = {reference for prompt in longest(policy, "think", examples)[:2] for reference in prompt.example.images}
    rehearse(tight, policy, examples)
    assert tight.work.micro_prompts == 1 and passes == [len(references)] and len(references) > 1


def test_the_worst_micro_batch_has_the_longest_prompts_and_full_completions(policy, examples):
    """q3 shows two images of 9 tokens and its question is the longest; a budget of 24 tokens holds one group of 3 x 8."""
    lengths = [len(policy.encoder.prompt_ids(prompt)) for prompt in longest(policy, "think", examples)]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] > lengths[-1]
    tight = replace(CONFIG, update=UpdateConfig(tokens_per_micro_batch=24))
    groups = worst_groups(forecast(policy, examples, tight), policy, examples)
    assert [group.prompt.example.id for group in groups] == ["q3"]
    assert len(worst_groups(forecast(policy, examples), policy, examples)) == 2
    wraps = worst_groups(forecast(policy, examples[:1]), policy, examples[:1])  # two prompts a step of one question
    assert [group.prompt.example.id for group in wraps] == ["q1", "q1"]
    rows = [rollout.completion for group in groups for rollout in group.rollouts]
    assert len(rows) == 3 and all(len(row.token_ids) == 8 and not set(row.token_ids) & set(policy.banned_ids) for row in rows)


def test_what_does_not_fit_is_a_sentence(policy, examples):
    class Full:
        encoder, stop_ids, model, images, remember = policy.encoder, policy.stop_ids, policy.model, policy.images, policy.remember

        def logprobs(self, batch, temperature):
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    with pytest.raises(EngineError, match=r"2 prompts of about \d+ tokens, 3 completions of 8 each\) does not fit a CPU; the largest part"):
        rehearse(forecast(policy, examples), Full(), examples)


def test_a_plan_far_below_the_free_memory_is_not_rehearsed(policy, examples):
    peak = forecast(policy, examples).peak
    assert is_worth(forecast(policy, examples, free=4 * peak - 1))
    assert not is_worth(forecast(policy, examples, free=4 * peak))


def test_only_a_fresh_run_is_rehearsed_and_a_tight_plan_is_warned_of(policy, examples, capsys):
    tight, loose = forecast(policy, examples, free=2**20), forecast(policy, examples)
    check_memory(loose, policy, examples, fresh=True)
    assert capsys.readouterr().err == ""
    check_memory(tight, policy, examples, fresh=False)
    assert capsys.readouterr().err.startswith("warning: the memory plan needs ")
    check_memory(tight, policy, examples, fresh=True)
    warning, trying = capsys.readouterr().err.splitlines()
    assert trying.startswith("trying the largest micro-batch (2 prompts of about ") and "a CPU has 1.0 MiB free" in warning


@pytest.mark.parametrize(("budget", "held"), [(1, True), (10**6, False)])
def test_one_of_several_micro_batches_finds_the_gradients_of_the_others(policy, examples, monkeypatch, budget, held):
    """All of the decoder's, none of the tower's: the update goes back through it at its end."""
    config, found = replace(CONFIG, update=UpdateConfig(tokens_per_micro_batch=budget)), {}
    scored = policy.logprobs

    def logprobs(*args):
        found.update({name: p.grad is not None for name, p in policy.model.named_parameters()})
        return scored(*args)

    monkeypatch.setattr(policy, "logprobs", logprobs)
    rehearse(forecast(policy, examples, config), policy, examples)
    assert found and all(has is (held and "visual" not in name) for name, has in found.items())
    assert all(p.grad is None for p in policy.model.parameters())
