"""Many processes learn what one learns: shares, gradients, whole runs; ranks are threads here, and processes in test_processes."""

import copy
import json
import random

import pytest
import torch
import worlds

from medvlm_r1.data.views import Shown
from medvlm_r1.models.adapt import LoRA, Trainable, adapt
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.collect import collect
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.training import sft
from medvlm_r1.training.distributed import World, shares
from medvlm_r1.training.grpo.loss import LossConfig
from medvlm_r1.training.grpo.update import Learner, UpdateConfig, update
from medvlm_r1.training.optim import OptimConfig, Optimizer
from medvlm_r1.types import Completion, Example, Rollout, RolloutGroup


def question(n, *images):
    return Example(f"q{n}", images, "Which plane is this?", ("axial", "coronal"), "axial", "mri", "plane", f"p{n}")


PICTURES = [question(1, "a.png"), question(2, "wide.png"), question(3, "a.png", "b.png"), question(4, "c.png"), question(5, "d.png")]
MIXED = [question(1, "a.png"), question(2), question(3, "a.png", "b.png"), question(4), question(5, "d.png")]  # rank 1 of 2 has no picture
LENGTHS_PG = [[5, 9, 3, 7], [4, 12], [6, 2, 8, 3, 40], [1], [9, 9]]


def groups_of(examples):
    draw = torch.Generator().manual_seed(0)
    found = []
    for example, lengths_G in zip(examples, LENGTHS_PG, strict=True):
        rows = [tuple(torch.randint(20, 90, (n,), generator=draw).tolist()) for n in lengths_G]
        found.append(RolloutGroup(render(example, "think"), tuple(Rollout(Completion(ids, (-1.0,) * len(ids), "", True), {}) for ids in rows)))
    return found, [[(-1.0) ** k * (1 + p) for k in range(len(lengths_G))] for p, lengths_G in enumerate(LENGTHS_PG)]


def gradient_of(optimizer):
    """The first moment after a first step is a tenth of the gradient."""
    return {name: optimizer.adamw.state[p]["exp_avg"] * 10 for name, p in optimizer.named.items() if p in optimizer.adamw.state}


def copied(policy):
    """A copy that shares nothing; the patches' own product would go on with the first one's weight."""
    policy = copy.deepcopy(policy)
    policy.encoder.family.adapt(policy.model)
    return policy


def one_update(policy, examples, skipped=(), budget=150, beta=0.04):
    """One step from the same groups on a copy of the policy: its gradient and its metrics."""
    policy = copied(policy)
    groups, advantages = groups_of(examples)
    for p in skipped:
        advantages[p] = [0.0] * len(advantages[p])
    optimizer = Optimizer(policy.model, OptimConfig(lr=1e-3, max_grad_norm=1e9), 10)
    learner = Learner(policy, policy.frozen_copy() if beta else None, optimizer, UpdateConfig(LossConfig(kl_beta=beta), tokens_per_micro_batch=budget))
    return update(learner, groups, advantages) | {"gradient": gradient_of(optimizer)}


def assert_alike(found, expected):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-5 * max(gradient.norm(), 1e-3), name


CASES = {
    "several images": (PICTURES, {}),
    "no pictures on one": (MIXED, {}),
    "all of one skipped": (MIXED, {"skipped": (1, 3), "beta": 0.0}),
    "nothing to learn": (PICTURES, {"skipped": range(5), "beta": 0.0}),
}


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_the_gradient_of_many_is_that_of_one(policy, case, size):
    examples, settings = CASES[case]
    expected = one_update(policy, examples, **settings)
    for found in worlds.run(size, lambda world: one_update(policy, examples, **settings)):
        assert_alike(found["gradient"], expected["gradient"])
        numbers = {name: value for name, value in expected.items() if isinstance(value, int | float)}
        assert {name: found[name] for name in numbers} == pytest.approx(numbers, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("trainable", [Trainable(freeze=("vision",)), Trainable(lora=LoRA(rank=4))], ids=["frozen tower", "lora"])
def test_the_same_of_parts_and_adapters(policy, trainable):
    if trainable.lora.rank:
        pytest.importorskip("peft")
    adapt(policy.model, trainable)
    expected = one_update(policy, MIXED)
    for found in worlds.run(3, lambda world: one_update(policy, MIXED)):
        assert_alike(found["gradient"], expected["gradient"])


def test_supervised_gradients_too(policy):
    config = sft.SFTConfig(template="think")

    def step(world=None):
        mine = copied(policy)
        optimizer = Optimizer(mine.model, OptimConfig(lr=1e-3, max_grad_norm=1e9), 10)
        loss = sft.backward(mine, [sft.target(mine, config, example) for example in PICTURES], 100)
        optimizer.step()
        return loss, gradient_of(optimizer)

    loss, expected = step()
    for found_loss, found in worlds.run(4, step):
        assert found_loss == pytest.approx(loss, rel=1e-6)
        assert_alike(found, expected)


def test_rollouts_are_the_ones_that_one_process_writes_and_each_is_scored_once(policy):
    """Five questions of which one comes twice, on three ranks and on more ranks than there are questions."""
    asked, sampling = [*PICTURES[:4], PICTURES[0]], Sampling(n=2, max_tokens=6, seed=3)

    def write(world):
        scored = []

        def rubric(completion, prompt):
            scored.append(prompt.example.id)
            return {"length": float(len(completion.token_ids))}

        return collect(LocalEngine(copied(policy), learning=True), [Shown(e, 2) for e in asked], rubric, "think", sampling, world), scored

    expected, _ = write(World())
    for size in (3, 7):
        results = worlds.run(size, write)
        assert sorted(id for _, scored in results for id in scored) == sorted(e.id for e in asked for _ in range(2))
        for groups, _ in results:
            assert [g.prompt for g in groups] == [g.prompt for g in expected]
            assert [[r.completion.token_ids for r in g.rollouts] for g in groups] == [[r.completion.token_ids for r in g.rollouts] for g in expected]
            assert groups == results[0][0]  # the same on every rank, to the last bit of a log-probability


def test_a_parameter_that_no_rank_has_a_gradient_for_has_none():
    def add(world):
        parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
        parameters[0].grad = torch.tensor([1.0, 2.0])
        if world.rank == 1:
            parameters[1].grad = torch.tensor([5.0, 5.0])
        world.sum_gradients(parameters)
        return [None if p.grad is None else p.grad.tolist() for p in parameters]

    assert worlds.run(2, add) == [[[2.0, 4.0], [5.0, 5.0], None]] * 2


def test_shares_hold_every_live_group_once_and_are_never_worse_than_where_they_were():
    draw = random.Random(0)
    for _ in range(200):
        count, size = draw.randint(1, 24), draw.randint(1, 6)
        tokens = [draw.randint(1, 4000) for _ in range(count)]
        live = sorted(draw.sample(range(count), draw.randint(1, count)))
        found = shares(tokens, live, size)
        assert sorted(p for share in found for p in share) == live
        loads = [sum(tokens[p] for p in share) for share in found]
        dealt = [sum(tokens[p] for p in live if p % size == rank) for rank in range(size)]
        assert max(loads) <= max(dealt)
        assert max(loads) - min(loads) <= max(tokens[p] for p in live)  # a larger gap would have been moved into


def test_what_is_told_keeps_every_bit():
    said = [{"loss": 0.1 + 0.2, "text": "ä\u2028 \ud83d", "ids": [1, 2]}, {"loss": float("nan"), "text": "", "ids": []}, {"loss": 1e-320}]
    heard = worlds.run(3, lambda world: world.every(said[world.rank]))
    assert [json.dumps(ranks) for ranks in heard] == [json.dumps(said)] * 3
    assert worlds.run(2, lambda world: world.merge({"kl": 0.5} if world.rank else {"loss": 1.0, "kl": 0.25})) == [{"loss": 1.0, "kl": 0.75}] * 2
