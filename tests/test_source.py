"""Where a step's groups come from: by turns as ever, or ahead by an engine apart, no older than promised."""

import json
import os
import shutil
import signal
import threading
from dataclasses import replace

import pytest
import torch
import worlds
from test_training import GRPO, files_of, fresh, vowels

from medvlm_r1.errors import EngineError
from medvlm_r1.rollout.collect import ALONE, Alone, packed, unpacked
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.training import checkpoint
from medvlm_r1.training.grpo import trainer as grpo
from medvlm_r1.training.grpo.advantage import advantages
from medvlm_r1.training.grpo.loss import LossConfig
from medvlm_r1.training.grpo.source import Ahead, Rollouts, Turns, sourced
from medvlm_r1.training.grpo.update import Learner, UpdateConfig, update
from medvlm_r1.training.optim import Optimizer
from medvlm_r1.types import Completion, Example, Prompt, Rollout, RolloutGroup


class Weights:
    """A policy of which nothing matters but its version."""

    def __init__(self, version):
        self.version = version

    def whole(self):
        return self


class Noting:
    """An engine apart that notes the version it holds; what it writes is made by ``ask``."""

    def __init__(self):
        self.version, self.is_closed = None, False

    def sync(self, policy):
        self.version = policy.version

    def generate(self, prompts, sampling):
        raise AssertionError("not asked here")

    def close(self):
        self.is_closed = True


def group(version, question="q1"):
    completion = Completion((7,), (-0.5,), "A", True, version=version)
    return RolloutGroup(Prompt(Example(question, ("a.png",), "Which?", ("x", "y"), "x", "mri"), "…"), (Rollout(completion, {"accuracy": 1.0}),))


def followed(lag, steps=5, first=0, updates=1):
    """The ages that each step is told of, and the versions in which it was written, with ``updates`` optimiser steps a step."""
    engine = Noting()

    def ask(step, world):
        assert world is ALONE
        return [group(engine.version)], {"step": float(step)}

    told, written = [], []
    with Ahead(engine, ask, lag, range(first, steps)) as source:
        source.sync(Weights(first * updates))
        for step in range(first, steps):
            while not all(future.done() for future in source._coming.values()):
                """What is in flight is written before the weights move on."""
            groups, numbers = source.take(step)
            assert numbers.pop("seconds/sync") >= 0 and numbers.pop("step") == step
            told.append(numbers["lag"])
            written.append(groups[0].rollouts[0].completion.version)
            source.sync(Weights((step + 1) * updates))
    assert engine.is_closed
    return told, written


def test_no_step_is_older_than_its_lag():
    assert followed(0) == ([0, 0, 0, 0, 0], [0, 1, 2, 3, 4])
    assert followed(1) == ([0, 1, 1, 1, 1], [0, 0, 1, 2, 3])
    assert followed(2) == ([0, 1, 2, 2, 2], [0, 0, 0, 1, 2])
    assert followed(9) == ([0, 1, 2, 3, 4], [0] * 5)


def test_ages_are_counted_in_steps_however_many_updates_a_step_has():
    assert followed(1, updates=3) == ([0, 1, 1, 1, 1], [0, 0, 3, 6, 9])


def test_a_run_that_goes_on_asks_all_it_had_in_flight_again_by_the_weights_of_the_checkpoint():
    assert followed(2, first=3, steps=7) == ([0, 1, 2, 2], [3, 3, 3, 4])


def test_an_engine_that_says_it_wrote_with_older_weights_is_refused():
    engine = Noting()
    with (
        pytest.raises(EngineError, match='step 2 has completions that are 1 steps old, and "rollout.lag" allows 0'),
        Ahead(engine, lambda step, world: ([group(0)], {}), 0, range(3)) as source,
    ):
        for step in range(2):
            source.sync(Weights(step))
            source.take(step)


def test_what_the_asking_raises_comes_out_where_the_step_is_taken_and_closes_the_engine():
    def ask(step, world):
        raise EngineError(f"step {step} failed")

    engine = Noting()
    with pytest.raises(EngineError, match="step 0 failed"), Ahead(engine, ask, 1, range(3)) as source:
        source.sync(Weights(0))
        source.take(0)
    assert engine.is_closed


def test_the_next_step_is_written_while_the_policy_learns():
    started, release = {step: threading.Event() for step in range(3)}, threading.Event()

    def ask(step, world):
        started[step].set()
        assert step == 0 or release.wait(10)
        return [group(engine.version)], {}

    engine = Noting()
    with Ahead(engine, ask, 1, range(3)) as source:
        source.sync(Weights(0))
        source.take(0)
        assert started[1].wait(10) and not started[2].is_set()
        release.set()


def test_the_engine_tells_which_source_it_needs(policy):
    assert isinstance(sourced(LocalEngine(policy), None, 0, range(2)), Turns)
    with sourced(Noting(), None, 0, range(2)) as source:
        assert isinstance(source, Ahead)


def test_groups_survive_json():
    groups = [group(3), replace(group(4, "q2"), weight=0.5, min_tokens=2)]
    assert unpacked(json.loads(json.dumps(packed(groups)))) == groups


def test_of_many_ranks_the_first_asks_and_tells_the_others():
    engines = [Noting(), Noting()]

    def work(world):
        def ask(step, shared):
            assert world.leads and isinstance(shared, Alone)
            return [group(engines[0].version, f"q{step}")], {"drawn": float(step)}

        taken = []
        with Ahead(engines[world.rank], ask, 0, range(2)) as source:
            for step in range(2):
                source.sync(Weights(step))
                groups, told = source.take(step)
                taken.append((groups, told["lag"], told["drawn"]))
        return taken

    one, other = worlds.run(2, work)
    assert one == other and [groups[0].prompt.example.id for groups, *_ in one] == ["q0", "q1"]
    assert (engines[0].is_closed, engines[1].is_closed, engines[1].version) == (True, False, None)


def test_two_steps_by_turns_are_to_the_bit_what_they_were(tokenizer, examples, tmp_path):
    """The loop written out as it was before there were sources, against the trainer."""
    config = replace(GRPO, steps=2)
    policy = fresh(tokenizer)
    engine, asking = LocalEngine(policy, learning=True), config.asking(examples)
    learner = Learner(policy, policy.frozen_copy(), Optimizer(policy.model, config.optim, config.steps), config.update)
    engine.sync(policy)
    metrics = []
    for step in range(2):
        scored = (vowels, config.template, grpo.sampling(config, step))
        groups, _ = asking.take(step, engine, scored, config.redraws, ALONE)
        metrics.append(update(learner, groups, advantages(config.advantage, groups, config.weights)))
        engine.sync(policy)
    other = fresh(tokenizer)
    assert grpo.train(config, other, LocalEngine(other, learning=True), examples, vowels, tmp_path)
    for (name, p), q in zip(policy.model.named_parameters(), other.model.parameters(), strict=True):
        assert torch.equal(p, q), name
    rows, _ = files_of(tmp_path)
    assert [{key: row[key] for key in told} for row, told in zip(rows, metrics, strict=True)] == metrics
    assert "lag" not in rows[0]


# ---------------------------------------------------------------- a whole run ahead of itself


class Copied:
    """An engine apart in this process, with a copy of the weights. A sync waits until every step that was asked for is written, as a server's pause does."""

    def __init__(self, tokenizer, lag, steps):
        self.own, self.lag, self.steps = fresh(tokenizer), lag, steps
        self.log, self.syncs, self.changed = [], 0, threading.Condition()

    def sync(self, policy):
        with self.changed:
            asked = min(self.syncs + self.lag, self.steps) if self.syncs else 0
            assert self.changed.wait_for(lambda: len(self.log) >= asked, 60)
            self.own.load_weights(policy.model.state_dict(), {})
            self.own.version, self.syncs = policy.version, self.syncs + 1

    def generate(self, prompts, sampling):
        with self.changed:
            completions = LocalEngine(self.own).generate(prompts, sampling)
            self.log.append(self.own.version)
            self.changed.notify_all()
            return completions

    def close(self):
        """Nothing is under way that nobody waits for."""


AHEAD = replace(GRPO, rollout=Rollouts("vllm", ("http://here",), lag=1), update=UpdateConfig(loss=LossConfig(trust="truncated")), save_every=2)


def ahead(tokenizer, examples, run_dir, reward=vowels, config=AHEAD, first=0):
    policy = fresh(tokenizer)
    engine = Copied(tokenizer, config.rollout.lag, config.steps - first)
    return grpo.train(config, policy, engine, examples, reward, run_dir), policy, engine.log


def test_a_run_ahead_of_itself_learns_with_weights_for_what_is_old(tokenizer, examples, tmp_path):
    """The first step is its own policy's; all later ones one step old, which the sampler's probabilities show and trust corrects."""
    done, _, versions = ahead(tokenizer, examples, tmp_path)
    rows, _ = files_of(tmp_path)
    assert done and versions == [0, 0, 1, 2] and [row["lag"] for row in rows] == [0, 1, 1, 1]
    assert rows[0]["sampler_mismatch"] < 1e-5 and rows[0]["trust_weight"] == pytest.approx(1, abs=1e-5)
    assert all(row["sampler_mismatch"] > 1e-3 and abs(row["trust_weight"] - 1) > 1e-5 for row in rows[1:])
    assert all(row["ratio"] == 1.0 for row in rows)  # the trust is in the sampler's age; one update a rollout has nothing to clip


def test_without_a_lag_it_is_the_run_by_turns(tokenizer, examples, tmp_path):
    """An engine apart that has nothing older to write with computes what the local one does, if for the pictures' company in the tower."""
    config = replace(AHEAD, rollout=Rollouts("vllm", ("http://here",)), update=UpdateConfig())
    _, policy, versions = ahead(tokenizer, examples, tmp_path / "apart", config=config)
    other = fresh(tokenizer)
    assert grpo.train(replace(config, rollout=Rollouts()), other, LocalEngine(other, learning=True), examples, vowels, tmp_path / "turns")
    assert versions == [0, 1, 2, 3] and files_of(tmp_path / "apart")[1] == files_of(tmp_path / "turns")[1]
    for (name, p), q in zip(policy.model.named_parameters(), other.model.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-4), name


def test_every_resume_from_a_checkpoint_is_the_same_to_the_bit(tokenizer, examples, tmp_path):
    """Stopped after step 2 with step 3 in flight: that one is written again, from its own seeds, by the weights of the checkpoint."""
    calls = []

    def stopping(completion, prompt):
        calls.append(1)
        if len(calls) == 7:  # the first rollout of step 2, which is written while step 1 is learnt from
            os.kill(os.getpid(), signal.SIGINT)
        return vowels(completion, prompt)

    done, *_ = ahead(tokenizer, examples, tmp_path / "run", stopping)
    stopped = int(checkpoint.latest(tmp_path / "run").name.removeprefix("step-"))
    assert not done and stopped < 4
    shutil.copytree(tmp_path / "run", tmp_path / "twin")
    (one, policy, versions), (other, twin, same) = (ahead(tokenizer, examples, tmp_path / name, first=stopped) for name in ("run", "twin"))
    assert one and other and versions == same and versions[:2] == [stopped, stopped][: 4 - stopped]
    assert all(torch.equal(p, q) for p, q in zip(policy.model.parameters(), twin.model.parameters(), strict=True))
    assert files_of(tmp_path / "run") == files_of(tmp_path / "twin")
    rows, _ = files_of(tmp_path / "run")
    assert [row["step"] for row in rows] == [1, 2, 3, 4] and rows[stopped]["lag"] == 0
