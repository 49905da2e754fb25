"""The engine with slots writes what the local engine writes, token by token, whatever joins and leaves beside it."""

import random
from dataclasses import replace

import pytest
import torch
from conftest import like_to_end

from medvlm_r1.reasoning import render
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.serving.slot_engine import SlotEngine
from medvlm_r1.serving.slots import Slots


class Heard:
    """What one request was told."""

    def __init__(self, n):
        self.ids, self.ends, self.logprobs = [[] for _ in range(n)], [""] * n, [[] for _ in range(n)]

    def __call__(self, token):
        assert not self.ends[token.k]  # nothing after the end
        self.ends[token.k] = token.end
        if not token.end.startswith("error"):
            self.ids[token.k].append(token.id)
            self.logprobs[token.k].append(token.logprob)


def submitted(engine, prompt, sampling):
    heard = Heard(sampling.n)
    return engine.submit(prompt, sampling, heard), heard


def until_done(engine):
    while engine.step():
        pass


def local(policy, prompt, sampling):
    return LocalEngine(policy).generate([prompt], sampling)[0]


@pytest.fixture
def requests(policy, examples):
    """Of every kind at once: greedy and drawn, one row and several, short and long, some that may not end before their time."""
    like_to_end(policy, 1)
    kinds = [
        Sampling(1, 0.0, 15), Sampling(3, 1.0, 15, seed=3), Sampling(2, 0.7, 9, seed=5, min_tokens=4), Sampling(1, 0.0, 12, min_tokens=8),
        Sampling(1, 1.0, 1, seed=1),
    ]  # fmt: skip
    prompts = [replace(render(example, "think"), first=first) for example in examples for first in (0, 2)]
    return [(prompt, sampling) for prompt in prompts for sampling in kinds]


def test_alone_and_among_many(policy, requests):
    expected = [local(policy, *request) for request in requests]
    alone, crowded = SlotEngine(policy, slots=4), SlotEngine(policy, slots=64)
    for request, completions in zip(requests[::5], expected[::5], strict=True):
        _, heard = submitted(alone, *request)
        until_done(alone)
        assert [tuple(ids) for ids in heard.ids] == [c.token_ids for c in completions]
    told = []
    for n, request in enumerate(requests):  # they come one after another, while others are under way
        told.append(submitted(crowded, *request)[1])
        if n % 3 == 0:
            crowded.step()
    until_done(crowded)
    for heard, completions in zip(told, expected, strict=True):
        assert [tuple(ids) for ids in heard.ids] == [c.token_ids for c in completions]
        assert [end == "stop" for end in heard.ends] == [c.finished for c in completions]
        for ours, theirs in zip(heard.logprobs, completions, strict=True):
            assert ours == pytest.approx(theirs.logprobs, abs=1e-5)
    assert (crowded.rows, crowded.waiting, crowded.cache.keys) == (0, 0, [])  # the memory is given back


def test_rows_that_leave_take_nothing_with_them(policy, requests):
    """Half are cancelled at a moment that chance chooses, queued or under way; the others do not notice."""
    rng, engine = random.Random(0), SlotEngine(policy, slots=8)
    told = {}
    for request in requests:
        number, heard = submitted(engine, *request)
        told[number] = (request, heard)
    leavers = set(rng.sample(sorted(told), len(told) // 2))
    for number in sorted(leavers, key=lambda _: rng.random()):
        engine.cancel(number)
        heard = [list(ids) for ids in told[number][1].ids]
        engine.step()
        assert [list(ids) for ids in told[number][1].ids] == heard
    until_done(engine)
    for number in set(told) - leavers:
        request, heard = told[number]
        assert [tuple(ids) for ids in heard.ids] == [c.token_ids for c in local(policy, *request)]
    assert engine.rows == 0


def test_a_request_waits_for_as_many_slots_as_it_has_rows(policy, examples):
    engine, prompt = SlotEngine(policy, slots=4), render(examples[0], "think")
    submitted(engine, prompt, Sampling(3, 1.0, 10, min_tokens=9))
    submitted(engine, prompt, Sampling(2, 1.0, 10, min_tokens=9))
    engine.step()
    assert (engine.rows, engine.waiting) == (3, 2)
    until_done(engine)
    assert (engine.rows, engine.waiting) == (0, 0)


def test_what_cannot_be_asked_costs_itself(policy, examples):
    policy.encoder.context = 60
    engine = SlotEngine(policy)
    _, bad = submitted(engine, render(replace(examples[0], question="Which? " * 60), "think"), Sampling(2, 0.0, 10))
    _, good = submitted(engine, render(examples[0], "think"), Sampling(1, 0.0, 10))
    until_done(engine)
    assert all("the model reads 60 in all" in end for end in bad.ends) and good.ids[0]


def test_numbers_that_are_not_finite_are_no_answer(policy, examples):
    with torch.no_grad():
        policy.model.lm_head.weight.fill_(torch.nan)
    engine = SlotEngine(policy)
    _, heard = submitted(engine, render(examples[0], "think"), Sampling(1, 0.0, 10))
    until_done(engine)
    assert heard.ends[0].startswith("error: the model computed numbers that are not finite") and engine.rows == 0


def test_slots_grow_and_keep_what_they_hold():
    slots = Slots()
    slots.join([(torch.full((3, 1, 2), 7.0), torch.full((3, 1, 2), 8.0))], copies=1)
    slots.join([(torch.full((600, 1, 2), 5.0), torch.full((600, 1, 2), 6.0))], copies=20)
    assert slots.keys[0].shape == (32, 1, 1024, 2) and slots.length_A.tolist() == [3] + [600] * 20
    assert slots.keys[0][0, 0, :3].unique().tolist() == [7.0] and slots.values[0][20, 0, :600].unique().tolist() == [6.0]
    slots.leave(0)
    assert slots.active == 20 and slots.keys[0][0, 0, :600].unique().tolist() == [5.0]


class Small(Slots):
    """Finds room for so many places a row."""

    places = 300

    def _make_room(self, like, n_layers, slots, places):
        if places > self.places:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        super()._make_room(like, n_layers, slots, places)


def test_a_memory_that_is_full_ends_what_is_under_way_and_the_next_is_answered(policy, examples):
    prompt, short = render(examples[0], "think"), Sampling(2, 1.0, 12, seed=3)
    engine = SlotEngine(policy, slots=8)
    engine.cache = Small(policy.sight.windows)
    heard = [submitted(engine, prompt, Sampling(n, 1.0, 400, min_tokens=400))[1] for n in (1, 2)]
    until_done(engine)
    assert [heard_of.ends for heard_of in heard] == [["error: the memory is full; try again later"] * n for n in (1, 2)] and engine.rows == 0
    _, again = submitted(engine, prompt, short)
    until_done(engine)
    assert again.ids == [list(c.token_ids) for c in local(policy, prompt, short)]


def test_a_memory_that_is_full_half_way_leaves_what_was_there(policy, examples, monkeypatch):
    """There is room for more keys, and none for their values."""
    prompt, one, many = render(examples[0], "think"), Sampling(1, 1.0, 12, seed=3, min_tokens=12), Sampling(20, 1.0, 12)
    engine, zeros, left = SlotEngine(policy, slots=64), torch.zeros, [len(policy.text.layers)]
    _, first = submitted(engine, prompt, one)
    engine.step()

    def full(*size, **how):
        if isinstance(size[0], tuple) and len(size[0]) == 4:
            left[0] -= 1
            if left[0] < 0:
                raise torch.OutOfMemoryError("CUDA out of memory.")
        return zeros(*size, **how)

    with monkeypatch.context() as patched:
        patched.setattr(torch, "zeros", full)
        _, refused = submitted(engine, prompt, many)
        engine.step()
    assert refused.ends == ["error: the memory is full; try again later"] * 20
    _, next_one = submitted(engine, prompt, Sampling(12, 1.0, 12, seed=4))
    until_done(engine)
    assert first.ids == [list(c.token_ids) for c in local(policy, prompt, one)]
    assert next_one.ids == [list(c.token_ids) for c in local(policy, prompt, Sampling(12, 1.0, 12, seed=4))]
