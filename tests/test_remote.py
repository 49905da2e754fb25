"""An endpoint that answers, stumbles, lies or is not there: a small server in this process."""

import base64
import io
import socket
import time
from dataclasses import replace
from email.utils import formatdate

import pytest
from conftest import picture
from PIL import Image

from medvlm_r1.errors import EngineError, ImageError
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.calling import Endpoint, served_model
from medvlm_r1.rollout.collect import numbered
from medvlm_r1.rollout.engine import Sampling, Streaming
from medvlm_r1.rollout.remote import RemoteEngine

GOOD = {"choices": [{"message": {"content": "<think>x</think><answer>B</answer>"}, "finish_reason": "stop"}]}


def engine_at(url, **more):
    waits = []
    engine = RemoteEngine(Endpoint(url, "m", **more), picture, waits.append)
    engine.waits = waits
    return engine


def test_a_request_carries_picture_prompt_and_sampling(serve, examples):
    server = serve((200, {}, GOOD))
    prompt = render(examples[2], "think")
    [[completion]] = engine_at(server.url, key="secret").generate([prompt], Sampling(1, 0.0, 64))
    assert (completion.text, completion.finished, completion.error) == ("<think>x</think><answer>B</answer>", True, "")
    [body] = server.asked
    *images, text = body["messages"][0]["content"]
    assert text == {"type": "text", "text": prompt.text}
    sent = [Image.open(io.BytesIO(base64.b64decode(image["image_url"]["url"].partition(",")[2]))) for image in images]
    assert [image.tobytes() for image in sent] == [picture(name).tobytes() for name in ("a.png", "b.png")]
    assert (body["model"], body["temperature"], body["max_tokens"], body["top_p"]) == ("m", 0.0, 64, 1.0)
    assert server.keys == ["Bearer secret"]
    engine_at(f"{server.url}/").generate([prompt], Sampling(1))
    assert server.paths == ["/v1/chat/completions"] * 2


def test_what_was_cut_off_is_not_finished(serve, examples):
    server = serve((200, {}, {"choices": [{"message": {"content": "<think>It"}, "finish_reason": "length"}]}))
    [[completion]] = engine_at(server.url).generate([render(examples[0], "think")], Sampling(1))
    assert (completion.text, completion.finished, completion.error) == ("<think>It", False, "")


def test_an_opening_is_the_assistants_turn_to_be_continued(serve, examples):
    server = serve((200, {}, {"choices": [{"message": {"content": "B</answer>"}, "finish_reason": "stop"}]}))
    [[completion]] = engine_at(server.url).generate([replace(render(examples[0], "think"), opening="<think></think>\n<answer>")], Sampling(1))
    [body] = server.asked
    assert completion.text == "B</answer>" and body["messages"][-1] == {"role": "assistant", "content": "<think></think>\n<answer>"}
    assert body["continue_final_message"] is True and body["add_generation_prompt"] is False


def test_every_completion_has_a_seed_of_its_own_and_its_place(serve, examples):
    server = serve((200, {}, GOOD))
    prompts = [render(example, "think") for example in examples]
    completions_PG = engine_at(server.url, concurrency=4).generate(prompts, Sampling(3, 1.0, 8, seed=5))
    assert [len(completions_G) for completions_G in completions_PG] == [3, 3, 3]
    assert len({body["seed"] for body in server.asked}) == 9
    engine_at(server.url).generate(prompts, Sampling(3, 1.0, 8, seed=6))
    assert len({body["seed"] for body in server.asked}) == 18
    engine_at(server.url).generate(numbered([prompts[0]] * 2, [3, 3]), Sampling(3, 1.0, 8, seed=7))  # drawn twice: six completions of it
    assert len({body["seed"] for body in server.asked}) == 24


def test_a_busy_server_is_left_alone_as_long_as_it_asks(serve, examples):
    server = serve((429, {"Retry-After": "7"}, {"error": "slow down"}), (503, {}, {}), (200, {}, GOOD))
    engine = engine_at(server.url)
    [[completion]] = engine.generate([render(examples[0], "think")], Sampling(1))
    assert completion.finished and engine.waits == [7.0, 2.0]
    soon = formatdate(time.time() + 40, usegmt=True)
    engine = engine_at(serve((429, {"Retry-After": soon}, {}), (200, {}, GOOD)).url)
    engine.generate([render(examples[0], "think")], Sampling(1))
    assert engine.waits == [pytest.approx(40, abs=10)]


def test_pauses_double_up_to_a_minute(serve, examples):
    engine = engine_at(serve((529, {}, {})).url, attempts=9)
    engine.generate([render(examples[0], "think")], Sampling(1))
    assert engine.waits == [1, 2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize(
    ("answer", "says", "asked"),
    [
        ((400, {}, {"error": "no such model"}), "status 400", 1),  # asking again cannot help
        ((401, {}, {}), "status 401", 1),
        ((500, {}, {}), "status 500", 3),
        ((200, {}, b"<html>"), "cannot be read", 3),
        ((200, {}, {"choices": []}), "no choice in it", 3),
        ((200, {}, {"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]}), "no text in it", 3),
        ((200, {}, {"choices": [{"message": {"content": None}, "finish_reason": "stop"}]}), "no text in it", 3),
    ],
)
def test_what_cannot_be_had_is_said(serve, examples, answer, says, asked):
    server = serve(answer)
    [[completion]] = engine_at(server.url, attempts=3).generate([render(examples[0], "think")], Sampling(1))
    assert says in completion.error and server.url in completion.error
    assert (completion.text, completion.finished, len(server.asked)) == ("", False, asked)


def test_a_server_that_is_down_or_slow(serve, examples):
    prompt = render(examples[0], "think")
    [[down]] = engine_at("http://127.0.0.1:9/v1", attempts=2).generate([prompt], Sampling(1))
    assert "no connection" in down.error
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the call, never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        [[slow]] = engine_at(url, attempts=2, timeout_s=0.2).generate([prompt], Sampling(1))
    assert "no answer within 0.2 s" in slow.error


def test_who_is_gone_is_asked_once_a_request_until_something_answers(serve, examples):
    """Two answers, then nobody: the third request is tried five times, the other six once. Then one answer, and nobody again."""
    server = serve((200, {}, GOOD), (200, {}, GOOD), None)
    engine = engine_at(server.url, concurrency=1)
    prompts = [render(example, "think") for example in examples]
    completions = [completion for group in engine.generate(prompts, Sampling(3, 1.0, 8)) for completion in group]
    assert len(server.asked) == 2 + 5 + 6 and [bool(completion.error) for completion in completions] == [False] * 2 + [True] * 7
    server.answers[:], server.asked[:] = [(200, {}, GOOD), None], []
    engine.generate(prompts[:1], Sampling(3, 1.0, 8))
    assert len(server.asked) == 1 + 5 + 1


def test_a_missing_picture_costs_its_question_alone(serve, examples):
    server = serve((200, {}, GOOD))

    def load(reference):
        if "wide" in reference:
            raise ImageError(f'image "{reference}" is missing')
        return picture(reference)

    engine = RemoteEngine(Endpoint(server.url, "m"), load)
    errors = [completion.error for [completion] in engine.generate([render(example, "think") for example in examples], Sampling(1))]
    assert errors == ["", 'image "wide.png" is missing', ""] and len(server.asked) == 2


def test_what_is_there_is_handed_on_and_who_stops_listening_stops_the_asking(serve, examples):
    server = serve((200, {}, GOOD))
    engine = engine_at(server.url, concurrency=2)
    answers = engine.stream([render(examples[0], "think")] * 50, Sampling(2))
    assert isinstance(engine, Streaming) and len(next(answers)) == 2
    answers.close()
    assert len(server.asked) < 100  # two had been answered, two more were under way


def test_the_one_served_model_needs_no_name(serve):
    assert served_model(serve((200, {}, {"data": [{"id": "mine"}]})).url) == "mine"
    with pytest.raises(EngineError, match="serves a, b; name one"):
        served_model(serve((200, {}, {"data": [{"id": "a"}, {"id": "b"}]})).url)
    with pytest.raises(EngineError, match="is the server up"):
        served_model("http://127.0.0.1:9/v1")


def test_it_takes_no_weights(policy):
    with pytest.raises(EngineError, match="cannot take over weights"):
        engine_at("http://x/v1").sync(policy)
