"""The routes in OpenAI's shape, over a scripted backend: answers, streams, medical fields, errors."""

import asyncio
import json
import weakref
from dataclasses import replace

import pytest
from serving_kit import NoFiles, Scripted, client, data_url, events, get, png, post, question, service

from medvlm_r1.rollout.told import Told
from medvlm_r1.serving.calibrated import Block, Calibration
from medvlm_r1.serving.guard import Limits
from medvlm_r1.serving.medical import judge
from medvlm_r1.serving.wire import Said

HALF_SURE = Calibration("abc float32", "held-out", "think", 200, (Block(0.0, 100, 0.5, (0.4, 0.6)), Block(0.9, 100, 0.9, (0.83, 0.95))), 0.6)


def message(response):
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]


def test_an_answer_has_openais_shape_and_ours():
    found = post(service(), question()).json()
    assert found["object"] == "chat.completion" and found["model"] == "scripted"
    assert found["usage"] == {"prompt_tokens": 40, "completion_tokens": 7, "total_tokens": 47}
    [choice] = found["choices"]
    assert choice["finish_reason"] == "stop" and choice["message"]["content"] == "A"
    assert choice["message"]["reasoning"] == choice["message"]["reasoning_content"] == "Dark there. Hence left."
    medical = choice["message"]["medical"]
    assert (medical["answer"], medical["answer_text"], medical["status"]) == ("A", "left", "answered")
    assert medical["option_probs"] == {"A": 0.8, "B": 0.15, "C": 0.05} and medical["confidence"] is None  # nothing was calibrated
    assert medical["image_sha256"] == ["ab" * 32] and medical["input_warnings"] == ["downscaled 56x56 -> 28x28"]
    assert medical["extraction"] == "strict-1" and "Not for diagnosis" in medical["intended_use"]


def test_a_stream_says_the_same():
    whole = message(post(service(), question()))
    chunks = events(post(service(), question(stream=True, stream_options={"include_usage": True})).text)
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    thoughts = [delta["reasoning_content"] for delta in deltas if "reasoning_content" in delta]
    assert "".join(thoughts) == whole["reasoning"] and len(thoughts) > 10  # while it was written
    assert "".join(delta.get("content", "") for delta in deltas) == "A"
    [medical] = [delta["medical"] for delta in deltas if "medical" in delta]
    assert {**medical, "audit_id": ""} == {**whole["medical"], "audit_id": ""}
    assert [c["finish_reason"] for chunk in chunks for c in chunk["choices"]][-1] == "stop" and chunks[-1]["usage"]["completion_tokens"] == 7


def test_several_answers_at_once():
    found = post(service(), question(n=3)).json()
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2] and found["usage"]["completion_tokens"] == 21


def test_a_contradiction_is_no_answer_and_has_no_number():
    offered = service(Scripted("<think>Hence right.</think><answer>A</answer>"), calibration=HALF_SURE)
    found = message(post(offered, question()))
    medical = found["medical"]
    assert (found["content"], medical["status"], medical["answer"], medical["answer_text"], medical["written"]) == ("", "contradicted", None, "", "A")
    assert medical["option_probs"] == {} and medical["confidence"] is None
    assert [warned["code"] for warned in medical["warnings"]] == ["thought"]


def test_an_earlier_answer_that_the_client_remembers():
    body = question(text="Which side is the nodule on?")
    body["medical"]["earlier"] = [{"question": "What is abnormal?", "options": ["normal", "nodule"], "answer_text": "normal"}]
    assert message(post(service(), body))["medical"]["status"] == "contradicted"


@pytest.mark.parametrize(("probs", "status", "confidence", "content"), [((0.95, 0.03, 0.02), "answered", 0.9, "A"), ((0.7, 0.2, 0.1), "abstained", 0.5, "")])
def test_confidence_is_what_was_measured_and_too_little_is_no_answer(probs, status, confidence, content):
    found = message(post(service(Scripted(probs=probs), calibration=HALF_SURE), question()))
    medical = found["medical"]
    assert (medical["status"], medical["confidence"], found["content"], medical["threshold"]) == (status, confidence, content, 0.6)
    on = medical["calibrated_on"]
    assert on["set"] == "held-out" and on["n"] == 100 and on["ci95"][0] < confidence < on["ci95"][1]


def test_free_text():
    found = message(post(service(Scripted("A nodule.", probs=())), question(options=[])))
    assert (found["content"], found["medical"]["status"], found["medical"]["extraction"]) == ("A nodule.", "answered", "open-1")


def test_what_is_asked_arrives():
    backend, files = Scripted(), NoFiles()
    body = question(data_url(b"one"), data_url(b"two"), temperature=0.5, seed=7, n=2, max_tokens=99, min_tokens=3)
    body["messages"].insert(0, {"role": "system", "content": "Be brief."})
    body["medical"] |= {"template": "direct", "place": {"frame": 3, "center": 40, "width": 400.5}, "probs": False}
    assert post(service(backend, files), body).status_code == 200
    [ask] = backend.asked
    assert ask.question == "Be brief.\nWhich side?" and ask.options == ("left", "right", "both") and (ask.template, ask.probs) == ("direct", False)
    assert (ask.sampling.n, ask.sampling.temperature, ask.sampling.max_tokens, ask.sampling.seed, ask.sampling.min_tokens) == (2, 0.5, 99, 7, 3)
    assert files.opened == [(b"one", "#frame=3&center=40.0&width=400.5"), (b"two", "#frame=3&center=40.0&width=400.5")]


WRONG = {
    "another model": ({"model": "gpt"}, 404), "no messages": ({"messages": []}, 422), "n": ({"n": 10**9}, 422), "max_tokens": ({"max_tokens": 10**9}, 422),
    "a huge number": ({"seed": 10**400}, 422), "top_p": ({"top_p": 0.5}, 422), "unknown": ({"tools": []}, 422), "one option": ({"medical": {"options": ["a"]}}, 422),
    "twice": ({"medical": {"options": ["a", "a"]}}, 422), "template": ({"medical": {"template": "x"}}, 422),
    "turns": ({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}, 422),
    "assistant": ({"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]}, 422),
    "empty": ({"messages": [{"role": "user", "content": " "}]}, 422),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_asked_is_refused_in_openais_shape(case):
    changes, status = WRONG[case]
    response = post(service(), {**question(), **changes})
    assert response.status_code == status and response.json()["error"].keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize(("body", "status"), [
    (b"{", 400), (b"[" * 19_000, 400), (b"[" * 200_000, 413), (b"", 400), (b"null", 422), (b'{"a": "' + b"\xff" + b'"}', 400),
    (json.dumps(question()).replace('"medical"', '"temperature": NaN, "medical"').encode(), 422),
    (json.dumps(question()).replace('"medical"', '"temperature": Infinity, "medical"').encode(), 422),
])  # fmt: skip
def test_bodies_that_are_none(body, status):
    response = post(service(), body)
    assert response.status_code == status and "error" in response.json()


def test_status_routes():
    offered = service()
    assert get(offered, "/health").json() == {"status": "ok"} and get(offered, "/ready").status_code == 200
    assert [row["id"] for row in get(offered, "/v1/models").json()["data"]] == ["scripted"]
    offered.backend.ready = False
    assert get(offered, "/ready").status_code == 503 and get(offered, "/health").status_code == 200
    refused = post(offered, question())
    assert refused.status_code == 503 and refused.headers["retry-after"] == "5"
    page = get(offered, "/metrics").text
    assert 'medvlm_requests_total{route="chat",status="503"} 1.0' in page
    assert get(offered, "/nowhere").status_code == 404 and get(offered, "/v1/chat/completions").status_code == 405


def test_a_full_queue_says_when_to_come_again():
    async def go():
        held = asyncio.Event()
        offered = service(Scripted(held=held), limits=Limits(rows=3))
        async with client(offered) as http:
            waiting = [asyncio.create_task(http.post("/v1/chat/completions", json=question())) for _ in range(3)]
            while offered.backend.rows < 3:
                await asyncio.sleep(0.001)
            refused = await http.post("/v1/chat/completions", json=question())
            held.set()
            answered = [(await each).status_code for each in waiting]
            after = await http.post("/v1/chat/completions", json=question(n=3))
        return refused, answered, after.status_code

    refused, answered, after = asyncio.run(go())
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1 and answered == [200] * 3 and after == 200


@pytest.mark.parametrize(("at", "stream"), [(0, False), (0, True), (20, False), (20, True)])
def test_no_part_of_an_answer_is_shown_as_a_whole(at, stream):
    response = post(service(Scripted(why=(at, 502))), question(stream=stream))
    if stream and at:
        chunks = events(response.text)
        assert chunks[-1]["error"]["message"] == "out of order" and not any("content" in c["delta"] for chunk in chunks[:-1] for c in chunk["choices"])
    else:
        assert response.status_code == 502 and response.json()["error"]["type"] == "server_error"


def test_an_answer_that_takes_too_long():
    async def go():
        offered = service(Scripted(held=asyncio.Event()), limits=Limits(answer_s=0.05))
        async with client(offered) as http:
            response = await http.post("/v1/chat/completions", json=question())
        return response.status_code, offered.backend.rows

    assert asyncio.run(go()) == (504, 0)


def test_a_fault_is_told_by_its_place_and_not_by_its_words():
    class Broken(NoFiles):
        async def open(self, data, place=""):
            raise KeyError("DOE^JANE")

    lines = []
    response = post(service(files=Broken()), question(), log=lines.append)
    assert response.status_code == 500 and response.json()["error"]["type"] == "server_error"
    assert "KeyError" in lines[0] and "serving_kit" not in response.text and "DOE" not in response.text + lines[0]


def test_pictures_are_of_any_size_and_number():
    assert post(service(), question(data_url(png(mode="RGB")))).status_code == 200
    assert post(service(), {"model": "scripted", "messages": [{"role": "user", "content": "Which?"}]}).status_code == 200


@pytest.mark.parametrize(("threshold", "status"), [(0.6, "abstained"), (0.0, "answered")])
def test_below_all_that_was_measured_no_share_is_told(threshold, status):
    """Measured were probabilities of 0.75 and more: an answer at 0.4 has no share of theirs, and none where one is wanted."""
    measured = replace(HALF_SURE, blocks=(replace(HALF_SURE.blocks[1], low=0.75),), threshold=threshold)
    told = Told("A nodule. Hence left.", "A", "left", "answered", "A", ())
    found = judge(told, Said(0, "", probs=(0.4, 0.3, 0.3)), measured)
    assert (found.confidence, found.calibrated_on, found.told.status) == (None, None, status)
    assert judge(told, Said(0, "", probs=(0.8, 0.1, 0.1)), measured).confidence == 0.9


def test_a_picture_is_let_go_once_it_is_sent():
    """Hundreds may wait for an answer, in the front, which is to stay small: none of them holds its picture's bytes."""
    alive = []

    class Forgetful(Scripted):
        async def ask(self, ask):
            picture, rows = weakref.ref(ask.pictures[0]), ask.sampling.n
            del ask
            alive.append(picture() is not None)
            for k in range(rows):
                yield Said(k, self.text, self.end, 7, 40, self.probs, seen=((28, 28),))

    for stream in (False, True):
        assert post(service(Forgetful()), {**question(data_url(png())), "stream": stream}).status_code == 200
    assert alive == [False, False]
