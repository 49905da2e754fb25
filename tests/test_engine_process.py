"""Through the socket: what a client of the engine process gets is what the local engine gives, and who leaves leaves nothing."""

import asyncio
import ctypes
import hashlib
import io
import json
import resource
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import like_to_end, picture

from medvlm_r1.reasoning import render
from medvlm_r1.rollout.answer import option_probs
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.rollout.told import question
from medvlm_r1.serving import engine_process
from medvlm_r1.serving.engine_client import EngineClient
from medvlm_r1.serving.engine_process import EngineProcess, _Request
from medvlm_r1.serving.slot_engine import LAST_STATES, Token
from medvlm_r1.serving.wire import Ask, Picture
from medvlm_r1.types import Completion, Rollout, RolloutGroup

OPTIONS = ("axial", "coronal", "sagittal")


def shown(name):
    data = io.BytesIO()
    image = picture(name).convert("RGB")
    image.save(data, "PNG")
    return Picture(data.getvalue(), hashlib.sha256(data.getvalue()).hexdigest(), *image.size)


def ask(name="a.png", stream=False, sampling=Sampling(1, 0.0, 12)):
    return Ask("Which plane?", OPTIONS, (shown(name),), "think", sampling, stream)


def talk(policy, work, slots=64, kind=EngineProcess):
    """``work`` with a client of an engine process that runs in a thread."""
    loads, (ours, theirs) = [], socket.socketpair()
    process = kind(policy, theirs, slots)
    thread = threading.Thread(target=process.run, args=({"model": "tiny", "identity": "t", "template": "think"},), daemon=True)

    async def go():
        client = EngineClient(ours, lambda *load: loads.append(load))
        await client.start()
        await client.started.wait()
        found = await work(client)
        await client.close()
        return found

    thread.start()
    found = asyncio.run(go())
    theirs.close()
    thread.join(5)
    assert not thread.is_alive()
    return found, process, loads


async def heard(client, asked):
    return [said async for said in client.ask(asked)]


def expected(policy, asked, name):
    """What ``LocalEngine`` writes when it is asked alone, and the options' probabilities after it."""
    before, policy.encoder.load_image = policy.encoder.load_image, lambda reference: picture(name)
    prompt = render(replace(question("", asked.question, asked.options), images=(f"local:{name}",)), "think")
    completions = LocalEngine(policy).generate([prompt], asked.sampling)[0]
    probs = option_probs(policy, [prompt] * len(completions), [c.text for c in completions])
    policy.encoder.load_image = before
    return completions, probs


def test_completions_equal_the_local_engines_alone_and_among_many(policy):
    like_to_end(policy, 1)
    names = ("a.png", "b.png", "wide.png")
    asks = [(name, ask(name, stream, Sampling(n, t, 12, seed=n))) for name in names for n, t, stream in ((1, 0.0, True), (3, 1.0, False), (2, 0.6, True))]
    wanted = [expected(policy, asked, name) for name, asked in asks]

    async def work(client):
        alone = [await heard(client, asked) for _, asked in asks[:2]]
        return alone, await asyncio.gather(*(heard(client, asked) for _, asked in asks))

    (alone, together), process, _ = talk(policy, work)
    for said, (completions, probs) in zip([*alone, *together], [*wanted[:2], *wanted], strict=True):
        ends = sorted((one for one in said if one.end), key=lambda one: one.k)
        assert [one.ids for one in ends] == [c.token_ids for c in completions]
        assert [one.text for one in ends] == [c.text for c in completions] and [one.end == "stop" for one in ends] == [c.finished for c in completions]
        for one, right in zip(ends, probs, strict=True):
            assert one.probs == pytest.approx(right, abs=1e-5) and one.seen in (((84, 84),), ((112, 56),))
            written = "".join(piece.text for piece in said if not piece.end and piece.k == one.k)
            assert one.text.startswith(written)
    assert (process.engine.rows, process._pictures, process.policy.encoder._pixels.held) == (0, {}, 0)  # nothing is kept


def test_options_are_measured_from_the_states_that_letters_were_written_from(policy, monkeypatch):
    """No pass over the prompt again, wherever what was written is what would be asked; else by a pass."""
    asked = []

    def told(policy, prompts, texts):
        asked.extend(texts)
        return option_probs(policy, prompts, texts)

    monkeypatch.setattr(engine_process, "option_probs", told)
    encode, prompt = policy.encoder.tokenizer, render(replace(question("", "Which plane?", OPTIONS), images=("a.png",)), "think")
    whole = [*encode("<think>Ears.</think>\n<answer>B</answer>", add_special_tokens=False)["input_ids"], policy.stop_ids[0]]
    process = EngineProcess(policy, socket.socket())
    policy.encoder.load_image = picture
    for ids, end, n_passes in ((whole, "stop", 0), (whole[:-1], "length", 0), ([*whole[:3], whole[-1]], "stop", 1), ([9, *whole], "stop", 0)):
        given = Completion(tuple(ids), (), "", True)
        with torch.no_grad():
            states = policy.hidden(policy.encoder.groups([RolloutGroup(prompt, (Rollout(given, {}),))]))
        token = Token(0, ids[-1], 0.0, end, tuple(states[-LAST_STATES:]))
        request = _Request(0, 0, prompt, {"probs": True}, ids={0: ids[:-1] if end == "stop" else ids})
        text = policy.encoder.thoughts.said(request.ids[0], prompt)
        found = process._probs([(request, token)], [text])
        assert found[0] == pytest.approx(option_probs(policy, [prompt], [text])[0], abs=1e-5) and len(asked) == n_passes
        asked.clear()


def test_who_leaves_leaves_no_row(policy):
    async def work(client):
        leaver = client.ask(ask(stream=True, sampling=Sampling(4, 1.0, 400, min_tokens=399)))
        await anext(leaver)
        await leaver.aclose()
        queued = asyncio.create_task(heard(client, ask(sampling=Sampling(64, 1.0, 400, min_tokens=399))))
        await asyncio.sleep(0.05)
        queued.cancel()
        await asyncio.wait({queued})
        return await heard(client, ask())

    said, process, loads = talk(policy, work, slots=64)
    assert said[-1].end and (process.engine.rows, process.engine.waiting) == (0, 0) and loads[-1] == (0, 0)


def test_a_picture_goes_with_its_question_while_others_are_asked_about(policy):
    async def work(client):
        long = client.ask(ask("b.png", stream=True, sampling=Sampling(1, 1.0, 400, min_tokens=399)))
        await anext(long)
        for name in ("a.png", "wide.png"):
            await heard(client, ask(name))
        await anext(long)  # the engine has gone on
        kept = process_of[0].policy
        held = list(kept.encoder._pixels._items), len(kept.images._kept._items), len(kept.encoder._ids._items)
        await long.aclose()
        return held

    process_of = []

    class Known(EngineProcess):
        def __init__(self, *args):
            super().__init__(*args)
            process_of.append(self)

    held, _, _ = talk(policy, work, kind=Known)
    assert held == ([f"picture:{shown('b.png').sha256}"], 1, 1)


def test_what_waits_for_a_slot_holds_its_file_and_no_pixels(policy):
    async def work(client):
        first = client.ask(ask("a.png", stream=True, sampling=Sampling(1, 1.0, 400, min_tokens=399)))
        await anext(first)
        second = asyncio.create_task(heard(client, ask("b.png")))
        while len(process_of[0]._pictures) < 2:
            await asyncio.sleep(0.01)
        await anext(first)  # the engine has gone on
        held = list(process_of[0].policy.encoder._pixels._items), process_of[0].engine.waiting
        await first.aclose()
        return held, await second

    process_of = []

    class Known(EngineProcess):
        def __init__(self, *args):
            super().__init__(*args)
            process_of.append(self)

    (held, said), _, _ = talk(policy, work, slots=1, kind=Known)
    assert held == ([f"picture:{shown('a.png').sha256}"], 1)
    assert said[-1].end and said[-1].n_prompt_tokens > 9 and said[-1].seen == ((84, 84),)


def test_what_cannot_be_asked_is_said(policy):
    async def work(client):
        policy.encoder.context = 80
        long = replace(ask(), question="Which? " * 100)
        return await heard(client, long), await heard(client, replace(ask(), options=("a",))), await heard(client, ask())

    (long, few, good), _, _ = talk(policy, work)
    assert [said.status for said in (*long, *few)] == [400, 400] and "the model reads 80 in all" in long[0].why and good[-1].end


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="no glibc here")
def test_memory_that_nobody_uses_goes_back():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    held = [bytes(2000) for _ in range(30000)]
    held[:-1] = []  # the last lies above the others, which malloc keeps therefore
    before = resident()
    engine_process.give_back()
    assert before - resident() > 40e6


def test_an_engine_that_ends_is_told():
    async def go():
        ours, theirs = socket.socketpair()
        client = EngineClient(ours)
        await client.start()
        theirs.sendall(json.dumps({"say": "ready", "model": "x"}).encode() + b"\n")
        await client.started.wait()
        waiting = asyncio.create_task(heard(client, ask()))
        await asyncio.sleep(0.01)
        theirs.close()
        return await waiting, await heard(client, ask()), client.ready

    waited, after, ready = asyncio.run(go())
    assert waited[0].status == after[0].status == 503 and not ready


@pytest.mark.parametrize("unfinished", [b"", b'{"do": "ask", "id"'])
def test_an_engine_whose_front_is_killed_ends(policy, unfinished):
    """The kernel resets what a killed process left unread; and its last line may be half a line."""
    ours, theirs = socket.socketpair()
    process = EngineProcess(policy, theirs)
    reader = threading.Thread(target=process._read, daemon=True)
    theirs.sendall(b"what the front never reads" if not unfinished else b"")
    ours.sendall(unfinished)
    ours.close()
    reader.start()
    assert process._inbox.get(timeout=60) is None
