"""Servers that speak the protocol in their own way: what they answer is read, what they do not take is left out once, and said."""

import json

import pytest
from conftest import picture

from medvlm_r1.reasoning import read as letter_of
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.calling import Endpoint, Fault
from medvlm_r1.rollout.dialect import Dialect, spoken, untaken
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.reading import read
from medvlm_r1.rollout.recorded import Recorded
from medvlm_r1.rollout.remote import RemoteEngine

TEXT = "<think>Dark.</think><answer>B</answer>"


def says(content, reason="stop", **more):
    return {"choices": [{"message": {"role": "assistant", "content": content} | more, "finish_reason": reason}]}


# ---------------------------------------------------------------- what they answer

THOUGHT, ANSWER = "Dark.", "<answer>B</answer>"
SHAPES = {
    "one text part": says([{"type": "text", "text": TEXT}]),
    "text in pieces": says([{"type": "text", "text": "<think>Dark.</think><ans"}, {"type": "text", "text": "wer>B</answer>"}]),
    "strings": says(["<think>Dark.</think>", ANSWER]),
    "parts of the responses protocol": says([{"type": "output_text", "text": TEXT, "annotations": []}]),
    "a text with a value": says([{"type": "text", "text": {"value": TEXT, "annotations": []}}]),
    "a part alone": says({"type": "text", "text": TEXT}),
    "parts of a part": says({"role": "model", "parts": [{"text": TEXT}]}),
    "a part marked as thought": says({"parts": [{"thought": True, "text": THOUGHT}, {"text": ANSWER}]}),
    "a thinking part": says([{"type": "thinking", "thinking": THOUGHT, "signature": "x"}, {"type": "text", "text": ANSWER}]),
    "a thinking part of parts": says([{"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}]}, {"type": "text", "text": ANSWER}]),
    "a reasoning part": says([{"type": "reasoning", "summary": [{"type": "summary_text", "text": THOUGHT}]}, {"type": "text", "text": ANSWER}]),
    "a thought that is kept secret": says([{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": TEXT}]),
    "reasoning_content": says(ANSWER, reasoning_content=THOUGHT),
    "reasoning": says(ANSWER, reasoning=THOUGHT),
    "both": says(ANSWER, reasoning=THOUGHT, reasoning_content=THOUGHT),
    "thinking": says(ANSWER, thinking=THOUGHT),
    "thinking_blocks": says(ANSWER, thinking_blocks=[{"type": "thinking", "thinking": THOUGHT}]),
    "reasoning_details": says(ANSWER, reasoning_details=[{"type": "reasoning.text", "text": THOUGHT}, {"type": "reasoning.encrypted", "data": "x"}]),
    "an empty one beside it": says(ANSWER, reasoning_content="", reasoning=None, thinking=THOUGHT),
    "a thought in its tags": says(ANSWER, reasoning_content="<think>Dark.</think>"),
    "its first tag eaten": says("Dark.</think><answer>B</answer>"),
    "the old protocol": {"choices": [{"text": TEXT, "finish_reason": "stop"}]},
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_thought_and_an_answer_are_read_from_any_shape(shape, examples):
    completion = read(SHAPES[shape], 64)
    assert completion.text == ("Dark.</think><answer>B</answer>" if shape == "its first tag eaten" else TEXT)
    found = letter_of(completion.text, render(examples[0], "think"))
    assert (found.think, found.answer, completion.finished, completion.error) == ("Dark.", "B", True, "")


@pytest.mark.parametrize("used", [None, 63, 64, 100])
@pytest.mark.parametrize(
    ("reason", "finished"),
    [("stop", True), ("eos", True), ("eos_token", True), ("end_turn", True), ("STOP", True), ("content_filter", True), ("length", False),
     ("max_tokens", False), ("MAX_TOKENS", False), ("model_length", False), (None, None), ("", None), ("gone", None)],
)  # fmt: skip
def test_how_an_answer_ended(reason, finished, used):
    """Where nothing is said of it, the number of its tokens decides: 64 were allowed."""
    answer = says(TEXT, reason) | ({"usage": {"completion_tokens": used}} if used else {})
    if reason == "gone":
        del answer["choices"][0]["finish_reason"]
    expected = (used or 0) < 64 if finished is None else finished
    assert read(answer, 64).finished == expected


@pytest.mark.parametrize("answer", [
    {"choices": []}, {"choices": None}, {}, [], None, "oops", {"choices": ["oops"]}, {"choices": [{}]}, {"error": {"message": "busy"}},
    {"choices": [{"message": "oops", "finish_reason": "stop"}]}, says(None), says(""), says([]), says([{"type": "image_url", "image_url": {}}]), says(7),
    says(None, "tool_calls"), says("<think>It", "abort"), says("<think>It", "error"),
])  # fmt: skip
def test_what_holds_no_answer_is_asked_again(answer):
    with pytest.raises(ValueError, match="no choice in it|no text in it|broke off"):
        read(answer, 64)


def test_a_null_content_beside_a_thought_is_a_thought_without_an_answer(examples):
    completion = read(says(None, reasoning_content="Dark. So <answer>A</answer>"), 64)
    assert completion.text == "<think>Dark. So <answer>A</answer></think>" and completion.finished
    assert letter_of(completion.text, render(examples[0], "think")).status == "unparsed"


# ---------------------------------------------------------------- what they do not take

OPENAI_TOKENS = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
OPENAI_TEMPERATURE = "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported."
EXTRA = [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]
REFUSALS = {
    "max_tokens": lambda body: (400, {"error": {"message": OPENAI_TOKENS, "code": "unsupported_parameter"}}) if "max_tokens" in body else None,
    "temperature": lambda body: (400, {"error": {"message": "Unsupported parameter: 'temperature'"}}) if "temperature" in body else None,
    "seed": lambda body: (422, {"detail": EXTRA}) if "seed" in body else None,
    "top_p": lambda body: (
        (400, {"message": "`temperature` and `top_p` cannot both be specified for this model"}) if {"temperature", "top_p"} <= body.keys() else None
    ),
}


def refusing(*names):
    def answer(body):
        refusal = next(filter(None, (REFUSALS[name](body) for name in names)), None)
        return (refusal[0], {}, refusal[1]) if refusal else (200, {}, says(TEXT))

    return answer


def ask(server, examples, sampling, n=1, **more):
    said = []
    engine = RemoteEngine(Endpoint(server.url, "m", **more), picture, lambda seconds: None, Dialect(said.append))
    completions = [c for group in engine.generate([render(example, "think") for example in examples] * n, sampling) for c in group]
    return completions, said


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_not_taken_is_left_out_once_and_said(serve, examples, name):
    """Of temperature 1 is tried first."""
    server, steps = serve(refusing(name)), ("temperature=1", "temperature") if name == "temperature" else (name,)
    completions, said = ask(server, examples, Sampling(1, 0.0, 64), n=4, concurrency=1)
    assert all(c.text == TEXT and not c.error and c.without == steps for c in completions)
    assert len(server.asked) == 12 + len(steps) == 12 + len(said) and all(f'does not take "{name}"' in line for line in said)
    last = server.asked[-1]
    assert (last.get("max_completion_tokens") if name == "max_tokens" else last["max_tokens"]) == 64
    assert {"temperature", "top_p", "seed", "max_tokens"} - last.keys() == {name}


@pytest.mark.parametrize("must_be_sent", [False, True])
def test_a_temperature_of_1_where_no_other_is_taken(serve, examples, must_be_sent):
    """Answers that should be greedy are drawn, and say so; those that are drawn anyway are what they should be."""

    def answer(body):
        wrong = body.get("temperature", None if must_be_sent else 1) != 1
        return (400, {}, {"error": {"message": OPENAI_TEMPERATURE}}) if wrong else (200, {}, says(TEXT))

    said = []
    engine = RemoteEngine(Endpoint(serve(answer).url, "m"), picture, lambda seconds: None, Dialect(said.append))
    prompts = [render(example, "think") for example in examples]
    greedy, drawn = ([c for group in engine.generate(prompts, Sampling(1, temperature, 64)) for c in group] for temperature in (0.0, 1.0))
    assert all(c.text == TEXT and c.without == ("temperature=1",) for c in greedy) and all(c.text == TEXT and c.without == () for c in drawn)
    assert said == ['the endpoint does not take "temperature": it is sent as 1 in the place of 0, so that answers that should be greedy are drawn']


def test_all_of_it_at_once_by_many_requests_at_a_time(serve, examples):
    server = serve(refusing("max_tokens", "temperature", "seed"))
    completions, said = ask(server, examples, Sampling(4, 0.0, 64), concurrency=8)
    assert len(completions) == 12 and all(c.text == TEXT for c in completions)
    assert len(said) == 4 and len(server.asked) <= 12 + 4 * 8
    assert server.asked[-1].keys() == {"model", "messages", "max_completion_tokens", "top_p"}


def test_what_was_taken_once_is_not_unlearnt_by_one_refusal(serve, examples):
    """A question that is refused for itself, in words that name a field, costs itself alone."""
    odd = lambda body: (400, {}, {"error": "temperature of the patient: not supported"}) if "two images" in json.dumps(body) else (200, {}, says(TEXT))  # noqa: E731
    completions, said = ask(serve(odd), examples, Sampling(1, 0.0, 64), concurrency=1)
    assert [bool(c.error) for c in completions] == [False, False, True] and said == []


@pytest.mark.parametrize(
    ("status", "text"),
    [(400, "'max_tokens' or 'max_completion_tokens' is too large: 512. This model's maximum context length is 400 tokens"), (400, "image input is not supported"),
     (422, "Extra inputs are not permitted: continue_final_message"), (500, "unknown parameter: seed"), (401, "seed: unknown"), (400, "temperature must be below 2")],
)  # fmt: skip
def test_another_refusal_is_one(serve, examples, status, text):
    server = serve((status, {}, {"error": text}))
    completions, said = ask(server, examples[:1], Sampling(1, 0.0, 64), attempts=2)
    assert said == [] and str(status) in completions[0].error and completions[0].without == ()
    assert untaken(status, text) == set()


def test_a_dialect_learns_the_least_first():
    dialect = Dialect(lambda text: None)
    fault = Fault("", 400, None, "unknown fields: temperature, seed, top_p")
    body = {"temperature": 0.0, "seed": 1, "top_p": 1.0}
    order = []
    while dialect.learn(fault, body, spoken(body, dialect.without)):
        order.append(dialect.without[-1])
    assert order == ["top_p", "seed", "temperature=1", "temperature"]


def test_what_was_left_out_is_kept_with_the_answer(serve, examples, tmp_path):
    def recorded(server):
        return Recorded(RemoteEngine(Endpoint(server.url, "m"), picture), tmp_path / "c.jsonl", "m", str)

    prompts, sampling = [render(example, "think") for example in examples], Sampling(1, 0.0, 64)
    first = recorded(serve(refusing("temperature")))
    first.generate(prompts, sampling)
    first.close()
    again = recorded(down := serve((500, {}, {})))
    again.generate(prompts, sampling)
    again.close()
    assert first.without == again.without == {"temperature=1", "temperature"} and down.asked == []


def test_a_seed_fits_a_number_with_a_sign(serve, examples):
    server = serve((200, {}, says(TEXT)))
    ask(server, examples, Sampling(8, 1.0, 64))
    seeds = {body["seed"] for body in server.asked}
    assert len(seeds) == 24 and all(0 <= seed < 2**31 for seed in seeds)
