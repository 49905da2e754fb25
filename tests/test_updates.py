"""Several updates a rollout, and groups that are drawn anew."""

import json
import signal
from dataclasses import replace
from functools import partial

import pytest
import torch
from test_grpo import learner_of, scored
from test_training import files_of, fresh

from medvlm_r1.config import override
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.training import checkpoint
from medvlm_r1.training.grpo import trainer as grpo
from medvlm_r1.training.grpo.advantage import teaches_nothing
from medvlm_r1.training.grpo.draw import draw
from medvlm_r1.training.grpo.loss import LOSSES, LossConfig
from medvlm_r1.training.grpo.update import UpdateConfig, update
from medvlm_r1.training.optim import learning_rate
from medvlm_r1.types import Completion, Example, Prompt, Rollout, RolloutGroup


class Counted:
    """A policy that counts its passes."""

    def __init__(self, policy):
        self.policy, self.passes = policy, 0

    def logprobs(self, *args):
        self.passes += 1
        return self.policy.logprobs(*args)


def gradients_of(learner):
    """What each update found, and the weights as they were before it."""
    found, step = [], learner.optimizer.step

    def kept(is_last):
        found.append({name: p.grad.clone() for name, p in learner.policy.model.named_parameters() if p.grad is not None})
        return step(is_last)

    learner.optimizer.step = kept
    return found


def test_before_the_first_update_every_ratio_is_one_to_the_last_bit(policy, examples):
    groups, advantages = scored(policy, examples)
    for updates in ({"epochs": 2}, {"mini_batches": 3}, {"mini_batches": 2, "tokens_per_micro_batch": 1}):
        learner = learner_of(policy, **updates)
        learner.optimizer.config = replace(learner.optimizer.config, lr=0.0)
        told = update(learner, groups, advantages)
        assert (told["ratio"], told["clip_fraction"], told["trust_weight"]) == (1.0, 0.0, 1.0), updates
        assert told["sampler_mismatch"] < 1e-5
    assert "ratio" not in update(learner_of(policy), groups, advantages)


def test_a_second_update_is_clipped_against_the_policy_that_sampled(policy, examples):
    """Gradients of the second epoch against PPO's formula written out, one completion at a time."""
    groups, advantages = scored(policy, examples)
    learner = learner_of(policy, loss=LossConfig(kl_beta=0.0, clip_low=1e-3, clip_high=1e-3), epochs=2)
    learner.reference = None
    singles = [policy.encoder.groups([RolloutGroup(group.prompt, (rollout,))]) for group in groups for rollout in group.rollouts]
    flat = [a for advantages_G in advantages for a in advantages_G]
    with torch.no_grad():
        old = [policy.logprobs(single)[0] for single in singles]
    weights, found = [], gradients_of(learner)
    step = learner.optimizer.step
    learner.optimizer.step = lambda is_last: weights.append({n: p.detach().clone() for n, p in policy.model.named_parameters()}) or step(is_last)
    told = update(learner, groups, advantages)
    assert 0 < told["clip_fraction"] < 1 and told["ratio"] != 1
    policy.load_weights(weights[1], {})
    policy.version += 1
    expected = torch.zeros(())
    for single, before, a in zip(singles, old, flat, strict=True):
        ratio = (policy.logprobs(single)[0] - before).exp()
        expected = expected - torch.minimum(ratio * a, ratio.clamp(0.999, 1.001) * a).mean() / 9
    policy.model.zero_grad()
    expected.backward()
    for name, p in policy.model.named_parameters():
        assert (found[1][name] - p.grad).norm() <= 1e-3 * p.grad.norm() + 1e-6, name


def test_what_does_not_change_is_computed_once(policy, examples):
    groups, advantages = scored(policy, examples)
    learner = learner_of(policy, epochs=3, mini_batches=3)
    learner.reference = Counted(learner.reference)
    told = update(learner, groups, advantages)
    assert learner.reference.passes == 3  # once a micro-batch, not once an epoch
    states = learner.optimizer.adamw.state.values()
    assert {int(state["step"]) for state in states} == {9} and learner.optimizer.steps == 1
    assert told["lr"] == learning_rate(learner.optimizer.config, 0, 10)


def test_a_mini_batch_is_the_mean_over_its_own_rows(policy, examples):
    """Three groups in three mini-batches at rate 0: the gradients of each alone, whose mean is that of all together."""
    groups, advantages = scored(policy, examples)
    learner = learner_of(policy, mini_batches=3)
    learner.optimizer.config = replace(learner.optimizer.config, lr=0.0)
    found = gradients_of(learner)
    update(learner, groups, advantages)

    def of(some):
        alone = learner_of(policy)
        alone.optimizer.config = learner.optimizer.config
        [gradients], _ = gradients_of(alone), update(alone, groups[some], advantages[some])
        return gradients

    for p in range(3):
        for name, value in of(slice(p, p + 1)).items():
            assert (found[p][name] - value).norm() <= 1e-5 * value.norm() + 1e-8, name
    for name, value in of(slice(0, 3)).items():
        assert (sum(gradients[name] for gradients in found) / 3 - value).norm() <= 1e-4 * value.norm() + 1e-7, name


def test_a_constant_divisor_is_the_token_limit(policy, examples):
    """Where all ratios are 1, a row adds minus its advantage times its share of the limit."""
    groups, advantages = scored(policy, examples)
    groups = [replace(group, prompt=replace(group.prompt, max_tokens=20)) for group in groups]
    advantages = [[1.0, 2.0, -0.5]] * 3
    learner = learner_of(policy, loss=LOSSES["dr_grpo"])
    learner.reference = None
    lengths = [[len(rollout.completion.token_ids) for rollout in group.rollouts] for group in groups]
    expected = -sum(a * n / 20 for row, ns in zip(advantages, lengths, strict=True) for a, n in zip(row, ns, strict=True)) / 9
    assert update(learner, groups, advantages)["loss"] == pytest.approx(expected, rel=1e-6)


def test_a_sampler_that_disagrees_is_believed_as_far_as_told(policy, examples):
    """It thought every token e^-1 as likely as we do: weights of 2.718, cut to 2, or left out."""
    groups, advantages = scored(policy, examples)
    doubting = [
        replace(
            group, rollouts=tuple(replace(r, completion=replace(r.completion, logprobs=tuple(x - 1 for x in r.completion.logprobs))) for r in group.rollouts)
        )
        for group in groups
    ]
    found = {}
    for trust in ("none", "truncated", "masked"):
        learner = learner_of(policy, loss=LossConfig(kl_beta=0.0, trust=trust))
        learner.optimizer.config = replace(learner.optimizer.config, lr=0.0)
        found[trust] = update(learner, doubting, advantages)
    assert "trust_weight" not in found["none"] and found["truncated"]["trust_weight"] == 2.0 and found["masked"]["trust_weight"] == 0.0
    assert found["truncated"]["grad_norm"] == pytest.approx(2 * found["none"]["grad_norm"], rel=1e-5) and found["masked"]["grad_norm"] == 0.0


# ---------------------------------------------------------------- drawing anew


def question(name):
    return Example(name, ("a.png",), "Which plane is this?", ("axial", "coronal"), "axial", "mri")


def asking(flat, asked, more=None):
    """Answers every question with two rollouts, of equal reward where its name is among ``flat``."""

    def ask(examples_P):
        asked.append([example.id for example in examples_P])
        return [[RolloutGroup(Prompt(e, "Which?"), rollouts((1.0, 1.0) if e.id in flat else (1.0, 0.0))), *(more(e) if more else [])] for e in examples_P]

    return ask


def rollouts(rewards):
    return tuple(Rollout(Completion((7,), (0.0,), "", True), {"a": r}) for r in rewards)


@pytest.mark.parametrize(
    ("redraws", "spare", "kept", "asked"),
    [
        (0, "efgh", "abcd", ["abcd"]),
        (1, "efgh", "aecf", ["abcd", "ef"]),  # f is flat, and stays
        (3, "efgh", "aecg", ["abcd", "ef", "g"]),
        (3, "e", "aecd", ["abcd", "e"]),  # no questions left
        (3, "", "abcd", ["abcd"]),
    ],
)
def test_flat_groups_give_way_to_other_questions(redraws, spare, kept, asked):
    calls = []
    groups, told = draw(
        asking("bdf", calls), [question(name) for name in "abcd"], [question(name) for name in spare], redraws, partial(teaches_nothing, "grpo", {})
    )
    assert "".join(group.prompt.example.id for group in groups) == kept
    assert ["".join(call) for call in calls] == asked
    names = "".join(asked)
    flat = sum(name in "bdf" for name in names) / len(names)
    expected = {"drawn_groups": len(names), "drawn_reward": (1 + flat) / 2, "drawn_flat": flat}
    assert told == (pytest.approx(expected) if redraws else {})


def test_a_question_is_drawn_anew_where_all_its_views_are_flat_and_the_meter_does_not_count():
    """b is flat under its own picture, and not under the other; d under both; what the meter sees of b and d differs."""

    def more(e):
        other = RolloutGroup(Prompt(e, "Which?", view="mismatch"), rollouts((1.0, 1.0) if e.id == "d" else (1.0, 0.0)))
        return [other, RolloutGroup(Prompt(e, "Which?", view="meter"), rollouts((1.0, 0.0)), weight=0.0)]

    calls = []
    groups, told = draw(asking("bd", calls, more), [question(name) for name in "abd"], [question("e")], 1, partial(teaches_nothing, "grpo", {}))
    assert calls == [["a", "b", "d"], ["e"]] and [group.prompt.example.id for group in groups] == [*"aaa", *"bbb", *"eee"]
    assert told == {"drawn_groups": 8, "drawn_reward": (3 * 2 + 5 * 1) / 16, "drawn_flat": 3 / 8}


class Stopping(LocalEngine):
    """Asks the run to stop once the first step is done, as Ctrl-C does."""

    syncs = 0

    def sync(self, policy):
        super().sync(policy)
        self.syncs += 1
        if self.syncs == 2:
            signal.raise_signal(signal.SIGINT)


def mostly_flat(completion, prompt):
    """Only q4 and q5 ever earn anything."""
    return {"length": float(len(completion.text)) if prompt.example.id in ("q4", "q5") else 0.0, "overlong": 0.0}


EVERYTHING = ["update.loss=dapo", "update.loss.trust=truncated", "update.epochs=2", "update.mini_batches=2", "redraws=2", "advantage=gdpo"]
SMALL = ["template=think", "steps=3", "prompts_per_step=2", "sampling.n=3", "sampling.max_tokens=8", "optim.lr=1e-3", "save_every=3"]


def test_with_everything_on_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tokenizer, examples, tmp_path):
    config = override(grpo.GRPOConfig(), SMALL + EVERYTHING)
    examples = [*examples, replace(examples[0], id="q4"), replace(examples[1], id="q5")]
    models = {}
    for name, engines in {"whole": [LocalEngine], "resumed": [Stopping, LocalEngine]}.items():
        for engine in engines:
            policy = models[name] = fresh(tokenizer)
            done = grpo.train(config, policy, engine(policy, learning=True), examples, mostly_flat, tmp_path / name)
            assert done == (engine is LocalEngine) and checkpoint.latest(tmp_path / name).name == ("step-3" if done else "step-1")
    for (name, p), q in zip(models["whole"].model.named_parameters(), models["resumed"].model.parameters(), strict=True):
        assert torch.equal(p, q), name
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "resumed")
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["drawn_groups"] > 2 and row["drawn_flat"] > row["zero_variance_groups"] for row in rows)
    assert all(row["ratio"] != 1.0 for row in rows) and UpdateConfig().is_on_policy and not config.update.is_on_policy
