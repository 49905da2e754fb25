"""The maths of GRPO by hand, and the update against the naive computation."""

import math
import statistics
from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import like_to_end

from medvlm_r1.data.views import Shown
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.collect import collect
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.training.batches import micro_batches
from medvlm_r1.training.grpo.advantage import advantages, dr_grpo, grpo, teaches_nothing
from medvlm_r1.training.grpo.loss import k3, sequence_mean
from medvlm_r1.training.grpo.trainer import rewards
from medvlm_r1.training.grpo.update import Learner, UpdateConfig, update
from medvlm_r1.training.optim import OptimConfig, Optimizer
from medvlm_r1.types import Completion, Example, Prompt, Rollout, RolloutGroup


def test_advantages_by_hand():
    # mean 1, unbiased std of (2, 1, 0, 1) = sqrt(2/3)
    scale = math.sqrt(2 / 3) + 1e-4
    assert grpo([2, 1, 0, 1]) == pytest.approx([1 / scale, 0, -1 / scale, 0])
    assert grpo([1.5, 1.5, 1.5]) == [0, 0, 0]
    assert grpo([2.0]) == [0.0]
    assert dr_grpo([2, 0]) == [1, -1]


@pytest.mark.parametrize("reward", [0.1, 0.7, 1 / 3, -0.1, 1e-9, 1e9 + 0.1, 0.0])
@pytest.mark.parametrize("count", range(1, 17))
def test_equal_rewards_teach_exactly_nothing_whatever_they_are(reward, count):
    """The mean of three times 0.1 is not 0.1, and what it is off by was divided by 1e-4."""
    assert grpo([reward] * count) == dr_grpo([reward] * count) == [0.0] * count


def test_sums_that_differ_by_rounding_are_equal_and_small_differences_are_not():
    assert grpo([0.3, 0.1 + 0.2, 0.3]) == dr_grpo([0.3, 0.1 + 0.2, 0.3]) == [0, 0, 0]
    assert grpo([0.0, 1e-9]) == pytest.approx([-5e-6, 5e-6], rel=1e-4)  # half the difference by 1e-4
    assert dr_grpo([1e9, 1e9 + 1]) == [-0.5, 0.5]


def test_groups_with_a_difference_are_what_they_were():
    """The same operations in the same order: equal in the last bit."""
    for rewards_G in ([2.0, 1.0, 0.0, 1.0], [0.1, 0.7, 0.1], [1.5, 0.5] * 4):
        mean, std = statistics.fmean(rewards_G), statistics.stdev(rewards_G)
        assert grpo(rewards_G) == [(r - mean) / (std + 1e-4) for r in rewards_G] and dr_grpo(rewards_G) == [r - mean for r in rewards_G]


def test_the_metric_of_flat_groups_agrees_with_the_advantages():
    groups = []
    for n, parts_G in enumerate([[{"a": 0.1, "b": 0.2}, {"a": 0.3, "b": 0.0}], [{"a": 0.1, "b": 0.0}] * 3, [{"a": 0.0, "b": 0.0}, {"a": 0.1, "b": 0.0}]]):
        prompt = Prompt(Example(f"q{n}", (), "Which?", ("x", "y"), "x", "mri"), "Which?")
        groups.append(RolloutGroup(prompt, tuple(Rollout(Completion((7,), (0.0,), "", True), parts) for parts in parts_G)))
    flat = [not any(grpo(group.rewards_G)) for group in groups]
    assert flat == [True, True, False] and rewards(groups, partial(teaches_nothing, "grpo", {}))["zero_variance_groups"] == sum(flat) / 3
    apart = [not any(values_G) for values_G in advantages("gdpo", groups, {"b": 2.0})]  # a and b are each held against themselves
    assert apart == [False, True, False] and rewards(groups, partial(teaches_nothing, "gdpo", {"b": 2.0}))["zero_variance_groups"] == sum(apart) / 3


def test_k3_is_what_schulman_wrote():
    logprobs, reference = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.0])
    ratio = (reference - logprobs).exp()
    assert torch.allclose(k3(logprobs, reference), ratio - ratio.log() - 1)


def scored(policy, examples, seed=0):
    """Real rollouts of the tiny model with made-up rewards, and their advantages."""
    prompts = [render(example, "think") for example in examples]
    completions_PG = LocalEngine(policy).generate(prompts, Sampling(n=3, max_tokens=9, seed=seed))
    groups = [
        RolloutGroup(prompt, tuple(Rollout(c, {"accuracy": float(i == p % 3)}) for i, c in enumerate(completions_G)))
        for p, (prompt, completions_G) in enumerate(zip(prompts, completions_PG, strict=True))
    ]
    return groups, [grpo(group.rewards_G) for group in groups]


def learner_of(policy, **changes):
    optimizer = Optimizer(policy.model, OptimConfig(lr=1e-3, max_grad_norm=1e9), 10)
    return Learner(policy, policy.frozen_copy(), optimizer, UpdateConfig(**changes))


def test_the_gradient_does_not_depend_on_micro_batches(policy, examples):
    groups, advantages = scored(policy, examples)
    norms = []
    for budget in (1, 150, 10_000):
        learner = learner_of(policy, tokens_per_micro_batch=budget)
        learner.optimizer.config = OptimConfig(lr=0.0)
        norms.append(update(learner, groups, advantages)["grad_norm"])
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-5)


def test_the_loss_is_the_mean_over_sequences_of_the_mean_over_tokens(policy, examples):
    """Against a loop over single completions; the reference differs from the policy, so the penalty counts."""
    groups, advantages = scored(policy, examples)
    learner = learner_of(policy)
    with torch.no_grad():
        for p in learner.reference.model.lm_head.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    expected = torch.zeros(())
    for group, advantages_G in zip(groups, advantages, strict=True):
        for rollout, advantage in zip(group.rollouts, advantages_G, strict=True):
            single = policy.encoder.groups([RolloutGroup(group.prompt, (rollout,))])
            ours, theirs = policy.logprobs(single)[0], learner.reference.logprobs(single)[0]
            penalty = (theirs - ours).exp() - (theirs - ours) - 1
            expected = expected + (-(ours - ours.detach()).exp() * advantage + 0.04 * penalty).mean() / 9
    expected.backward()
    gradients = {name: p.grad.clone() for name, p in policy.model.named_parameters()}
    policy.model.zero_grad()
    captured = {}
    learner.optimizer.step = lambda is_last: captured.update({n: p.grad.clone() for n, p in policy.model.named_parameters()}) or 0.0
    metrics = update(learner, groups, advantages)
    assert metrics["loss"] == pytest.approx(expected.item(), abs=1e-6)
    assert metrics["kl"] > 1e-4
    for name, gradient in gradients.items():
        assert (captured[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-7, name


def test_what_is_scored_is_the_distribution_that_was_sampled(policy, examples):
    """No completion may end before its 40th token: nothing stops there, and the others share what that was worth; with the reference, too."""
    like_to_end(policy, 1)
    learner = learner_of(policy)
    learner.optimizer.config = OptimConfig(lr=0.0)
    for temperature in (1.0, 0.7):
        learner.config = UpdateConfig(temperature=temperature)
        sampling = Sampling(n=2, temperature=temperature, max_tokens=44, min_tokens=40)
        groups = collect(LocalEngine(policy, learning=True), [Shown(e, 2) for e in examples[:2]], lambda completion, prompt: {}, "think", sampling)
        metrics = update(learner, groups, [[1.0, -1.0]] * 2)
        assert metrics["sampler_mismatch"] < 1e-5 and metrics["kl"] < 1e-10
        freed = [replace(group, min_tokens=0) for group in groups]
        assert update(learner, freed, [[1.0, -1.0]] * 2)["sampler_mismatch"] > 1e-3


def test_an_update_makes_good_rollouts_likelier(policy, examples):
    groups, advantages = scored(policy, examples)
    learner = learner_of(policy)
    batch = policy.encoder.groups(groups)
    best = torch.tensor([a for advantages_G in advantages for a in advantages_G]) > 0
    before = policy.logprobs(batch).sum(1)
    for _ in range(3):
        update(learner, groups, advantages)
    change = policy.logprobs(batch).sum(1) - before
    assert (change[best] > 0).all()
    assert change[best].mean() > change[~best].mean()


def test_a_group_without_a_signal_is_skipped_only_where_there_is_no_penalty(policy, examples):
    """Leaving it out changes nothing without a penalty; the gradient is still a mean over all rows."""
    groups, advantages = scored(policy, examples)
    advantages[1] = [0.0, 0.0, 0.0]
    gradients = {}
    for name, some in (("all", [0, 1, 2]), ("live", [0, 2])):
        policy.model.zero_grad()
        batch = policy.encoder.groups([groups[p] for p in some])
        weights = torch.tensor([a for p in some for a in advantages[p]])
        logprobs = policy.logprobs(batch)
        (-(sequence_mean(logprobs, batch.mask_RC) * weights).sum() / 9).backward()
        gradients[name] = torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1e9).item()
    policy.model.zero_grad()
    learner = learner_of(policy)
    learner.optimizer.config = OptimConfig(lr=0.0, max_grad_norm=1e9)
    assert update(learner, groups, advantages)["skipped_groups"] == 0
    learner.reference = None
    metrics = update(learner, groups, advantages)
    assert metrics["skipped_groups"] == 1
    assert metrics["grad_norm"] == pytest.approx(gradients["all"], rel=1e-4) == pytest.approx(gradients["live"], rel=1e-4)


def test_nothing_to_learn_leaves_the_policy_as_it_is(policy, examples):
    groups, _ = scored(policy, examples)
    learner = learner_of(policy)
    learner.reference = None
    before = [p.clone() for p in policy.model.parameters()]
    assert update(learner, groups, [[0.0] * 3] * 3)["grad_norm"] == 0.0
    assert all(torch.equal(p, q) for p, q in zip(before, policy.model.parameters(), strict=True))


def test_micro_batches_keep_groups_whole_and_fit_the_budget():
    tokens_P = [30, 50, 20, 90, 10]
    for budget in (1, 80, 100, 10_000):
        parts = list(micro_batches(tokens_P, range(5), budget))
        assert [p for part in parts for p in part] == list(range(5))
        assert all(len(part) == 1 or sum(tokens_P[p] for p in part) <= budget for part in parts)
    assert parts == [[0, 1, 2, 3, 4]]


def test_a_groups_tokens_are_its_prompt_once_and_its_completions(policy, examples):
    groups, _ = scored(policy, examples)
    for group in groups:
        completions = sum(len(rollout.completion.token_ids) for rollout in group.rollouts)
        assert policy.tokens_of(group) == len(policy.encoder.prompt_ids(group.prompt)) + completions


def test_sequence_mean_ignores_padding():
    assert sequence_mean(torch.tensor([[1.0, 3.0, 100.0]]), torch.tensor([[1, 1, 0]])).item() == 2.0
