"""``medvlm-r1 eval`` against endpoints that fail and pictures that are not there: what it says, counts, and asks again."""

import json
import re
import shutil
import time

import hub_model
import pytest
from PIL import Image

from medvlm_r1.evaluation.samples import read_samples
from medvlm_r1.rollout import remote

ARMS = ("image", "blank")
ASKED = {f"q{n}": f"Question {n}?" for n in range(1, 7)}


def says(text, reason="stop", **more):
    return 200, {}, {"choices": [{"message": {"content": text} | more, "finish_reason": reason}]}


def question_of(body):
    """The id of the question in a request."""
    text = body["messages"][0]["content"][-1]["text"]
    return next(name for name, asked in ASKED.items() if asked in text)


def good(body):
    return says(f"<think>{question_of(body)}</think><answer>{'AB'[int(question_of(body)[1]) % 2]}</answer>")


def stumbles(fault, *names):
    """Answers well, but for some questions."""
    return lambda body: (fault(body) if callable(fault) else fault) if question_of(body) in names else good(body)


@pytest.fixture
def data(tmp_path):
    for name in ASKED:
        Image.effect_noise((60, 60), 20 + 10 * int(name[1])).save(tmp_path / f"{name}.png")
    rows = [hub_model.question(name, [f"{name}.png"], "axial") | {"question": text} for name, text in ASKED.items()]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "data.jsonl"


@pytest.fixture
def endpoint(serve, monkeypatch):
    """Starts an endpoint with one model, whose faults are tried again without a pause."""
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.0)

    def start(*answers):
        server = serve(*answers)
        server.models = (200, {}, {"data": [{"id": "m"}]})
        return server

    return start


def eval_words(model, data, out, *more):
    return ["eval", "--model", model, "--data", data, "--arms", ",".join(ARMS), "--max-tokens", "12", "--out", out, *more]


def bytes_of(out):
    return {arm: (out / f"samples-{arm}.jsonl").read_bytes() for arm in ARMS}


def with_context(folder, tmp_path, tokens):
    """A copy of a model that reads so many tokens."""
    model = shutil.copytree(folder, tmp_path / "model")
    content = json.loads((model / "config.json").read_text())
    holder = content.get("text_config", content)
    holder["max_position_embeddings"] = tokens
    (model / "config.json").write_text(json.dumps(content))
    return model


def never_failed(command, server, data, out):
    server.answers[:] = [good]
    assert command(*eval_words(server.url, data, out))[0] == 0
    return bytes_of(out)


FAULTS = {
    "429": ((429, {"Retry-After": "0"}, {"error": "slow down"}), 'status 429 ({"error": "slow down"})', 5),
    "429 for an hour": ((429, {"Retry-After": "3600"}, b""), "it wants to be left alone for 3600 s", 1),
    "500": ((500, {}, b"oops"), "status 500 (oops)", 5),
    "no pictures taken": ((400, {}, {"error": "image input is not supported"}), "image input is not supported", 1),
    "malformed": ((200, {}, b'{"choices": [{'), "cannot be read", 5),
    "nested": ((200, {}, b"[" * 100_000), "cannot be read", 5),
    "no choices": ((200, {}, {"choices": []}), "no choice in it", 5),
    "empty": (says(""), "no text in it", 5),
    "hangs up": (None, "no connection", None),  # between 1 and 5: who is gone is not asked again and again
    "redirects": ((307, {"Location": "http://elsewhere.example/v1"}, b""), 'redirects to "http://elsewhere.example/v1"', 1),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_failed_is_counted_said_and_asked_again(endpoint, data, tmp_path, command, case):
    fault, reason, tries = FAULTS[case]
    server, out = endpoint(stumbles(fault, "q2", "q5")), tmp_path / "eval"
    code, _, err = command(*eval_words(server.url, data, out))
    assert code == 1 and "4 answers are missing; the same command again asks only for these" in err
    assert f'no answer to question "q2", the first of 4: {server.url}' in err and reason in err
    summary = json.loads((out / "summary.json").read_text())
    assert summary["failed"] == {"image": 2, "blank": 2}
    for arm in ARMS:
        samples = read_samples(out / f"samples-{arm}.jsonl")
        assert {s.id: s.status for s in samples} == dict.fromkeys(ASKED, "answered") | {"q2": "failed", "q5": "failed"}
        assert all(reason in s.text and s.answer is None and not s.correct for s in samples if s.status == "failed")
        assert sum(summary["status"][arm].values()) == pytest.approx(1) and summary["arms"][arm]["mri"]["n"] == 6
    if tries:
        assert len(server.asked) == 2 * (4 + 2 * tries)

    server.answers[:], server.asked[:] = [good], []
    assert command(*eval_words(server.url, data, out))[0] == 0
    assert sorted(map(question_of, server.asked)) == ["q2", "q2", "q5", "q5"]
    assert bytes_of(out) == never_failed(command, server, data, tmp_path / "whole")
    server.asked[:] = []
    assert command(*eval_words(server.url, data, out))[0] == 0 and server.asked == []  # the same again
    code, _, err = command(*eval_words(server.url, data, out, "--max-tokens", 7))
    assert code == 2 and f"already holds another evaluation, or a run; choose another --out; with --cache {out / 'completions.jsonl'}" in err


def test_one_draw_that_is_missing_is_asked_again(endpoint, data, tmp_path, command):
    drawn = []

    def third_draw_of_q3(body):
        if question_of(body) == "q3" and body["temperature"] == 1:
            drawn.append(body["seed"])
            return (400, {}, {}) if len(set(drawn)) == 3 else good(body)
        return good(body)

    server, out, more = endpoint(third_draw_of_q3), tmp_path / "eval", ("--samples", "3", "--arms", "image")
    assert command(*eval_words(server.url, data, out, *more))[0] == 1
    assert json.loads((out / "summary.json").read_text())["failed"] == {"image": 1}
    assert command("export", out, "--to", "csv")[0] == 0  # it is no obstacle to going on
    server.answers[:], server.asked[:] = [good], []
    assert command(*eval_words(server.url, data, out, *more))[0] == 0 and [question_of(body) for body in server.asked] == ["q3"] * 3
    assert read_samples(out / "samples-image.jsonl")[2].sampled_answers == ("B",) * 3


def test_half_a_surrogate_pair_in_an_answer_is_kept_as_it_came(endpoint, data, tmp_path, command):
    """``\\ud83d`` is the first half of an emoji. In a question it is refused: ``tests/test_clean.py``."""
    server, out = endpoint(stumbles(says("<answer>A</answer> \ud83d"), "q1")), tmp_path / "eval"
    assert command(*eval_words(server.url, data, out, "--arms", "image,blank,noise,rotate", "--samples", "1"))[0] == 0
    first = read_samples(out / "samples-image.jsonl")[0]
    assert (first.id, first.text, first.answer) == ("q1", "<answer>A</answer> \ud83d", "A")
    assert (out / "report.html").read_bytes().decode("utf-8")


ANSWERS = {
    "refusal": (says(None, refusal="I can't help with that."), "unparsed", "I can't help with that."),
    "filtered": (says(None, "content_filter"), "unparsed", ""),
    "cut off": (says("<think>The picture shows", "length"), "truncated", "<think>The picture shows"),
    "all tokens thought away": (says("", "length"), "truncated", ""),
    "abstained": (says("<answer>I cannot tell</answer>"), "abstained", "<answer>I cannot tell</answer>"),
    "thought apart": (says("<answer>A</answer>", reasoning="Ears."), "answered", "<think>Ears.</think><answer>A</answer>"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_what_a_model_says_is_no_failure(endpoint, data, tmp_path, command, case):
    answer, status, text = ANSWERS[case]
    server = endpoint(stumbles(answer, "q1"))
    assert command(*eval_words(server.url, data, tmp_path / "eval"))[0] == 0 and len(server.asked) == 12
    first = read_samples(tmp_path / "eval" / "samples-image.jsonl")[0]
    assert (first.status, first.text) == (status, text)


@pytest.mark.parametrize("name", ["", "#m"])
def test_down_from_the_start(refused, data, tmp_path, name):
    refused(eval_words(f"http://127.0.0.1:9/v1{name}", data, tmp_path / "eval"), "127.0.0.1:9/v1", "is the server up")
    assert not (tmp_path / "eval").exists()


def test_an_endpoint_that_dies_is_not_asked_for_every_question_in_vain(endpoint, data, tmp_path, command):
    """After seven answers nobody is there: those under way try five times (16, or a few more where an answer comes late), the others once."""
    server, out = endpoint(*[good] * 7, None), tmp_path / "eval"
    assert command(*eval_words(server.url, data, out, "--samples", "8"))[0] == 1
    assert len(server.asked) < 300  # five times each would be 7 + 505; 16 of them 172
    server.answers[:] = [good]
    assert command(*eval_words(server.url, data, out, "--samples", "8"))[0] == 0
    assert command(*eval_words(server.url, data, tmp_path / "whole", "--samples", "8"))[0] == 0
    assert bytes_of(out) == bytes_of(tmp_path / "whole")


def test_a_slow_one_is_left_after_its_time(endpoint, data, tmp_path, command):
    def slow(body):
        time.sleep(0.4)
        return good(body)

    server, out = endpoint(stumbles(slow, "q4")), tmp_path / "eval"
    assert command(*eval_words(server.url, data, out, "--timeout", "0.2", "--arms", "image"))[0] == 1
    assert "no answer within 0.2 s" in read_samples(out / "samples-image.jsonl")[3].text
    assert command(*eval_words(server.url, data, out, "--timeout", "20", "--arms", "image"))[0] == 0
    assert {s.status for s in read_samples(out / "samples-image.jsonl")} == {"answered"}


@pytest.mark.parametrize("answered_by", ["this machine", "endpoint"])
def test_pictures_that_are_missing_or_broken(endpoint, taught, data, tmp_path, command, answered_by):
    server, out = endpoint(good), tmp_path / "eval"
    model, more = (taught, ("--probs", "--samples", "2", "--template", "direct")) if answered_by == "this machine" else (server.url, ())
    assert command(*eval_words(model, data, tmp_path / "whole", *more))[0] == 0
    whole, server.asked[:] = {name: (tmp_path / f"{name}.png").read_bytes() for name in ("q2", "q3")}, []
    (tmp_path / "q2.png").unlink()
    (tmp_path / "q3.png").write_bytes(whole["q3"][:500])
    code, _, err = command(*eval_words(model, data, out, *more))
    assert code == 1 and "4 answers are missing" in err
    failed = {s.id: s.text for s in read_samples(out / "samples-image.jsonl") if s.status == "failed"}
    assert failed.keys() == {"q2", "q3"} and "is missing" in failed["q2"] and "truncated or corrupt" in failed["q3"]
    assert json.loads((out / "summary.json").read_text())["failed"] == {"image": 2, "blank": 2} and (out / "report.html").exists()
    for name, content in whole.items():
        (tmp_path / f"{name}.png").write_bytes(content)
    assert command(*eval_words(model, data, out, *more))[0] == 0
    assert bytes_of(out) == bytes_of(tmp_path / "whole")
    assert len(server.asked) == (12 if answered_by == "endpoint" else 0)


def test_what_this_model_cannot_be_asked_costs_its_question(taught, data, tmp_path, command):
    """Prompts longer than the context, a picture that is a thread: each said, none recorded, asked again when mended."""
    out, more = tmp_path / "eval", ("--template", "direct", "--samples", "1", "--arms", "image,rotate")
    model, whole = with_context(taught, tmp_path, 460), data.read_text()
    assert command(*eval_words(model, data, tmp_path / "whole", *more))[0] == 0
    rows = [json.loads(line) for line in whole.splitlines()]
    rows[1]["question"] += " x" * 500
    rows[2]["question"] = "Which plane is this? " * 80
    Image.new("L", (1, 300)).save(tmp_path / "thread.png")
    rows[4]["image"] = ["thread.png"]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = command(*eval_words(model, data, out, *more))
    assert code == 1 and "9 answers are missing" in err  # under the arm "rotate" each is asked twice
    assert '3 of 6 questions will have no answer, the first: question "q2" needs ' in err
    failed = {s.id: s.text for s in read_samples(out / "samples-image.jsonl") if s.status == "failed"}
    assert failed.keys() == {"q2", "q3", "q5"} and "the model reads 460 in all" in failed["q3"] and "cannot be prepared" in failed["q5"]
    assert json.loads((out / "summary.json").read_text())["failed"] == {"image": 3, "rotate": 6}
    data.write_text(whole)
    assert command(*eval_words(model, data, out, *more))[0] == 0
    for arm in ("image", "rotate"):
        assert (out / f"samples-{arm}.jsonl").read_bytes() == (tmp_path / "whole" / f"samples-{arm}.jsonl").read_bytes()


def test_where_no_question_can_be_asked_nothing_is(refused, hub_dir, data, tmp_path):
    for name in ASKED:
        (tmp_path / f"{name}.png").unlink()
    refused(eval_words(hub_dir, data, tmp_path / "eval"), 'no question can be asked, 6 of 6 questions, the first: question "q1": image', "is missing")


def test_pictures_too_large_for_the_context_and_the_budget_that_fits_all(hub_dir, data, tmp_path, command):
    """60 x 60 is 4 tokens, 560 x 700 is 500; the context is made to hold 300 and some text."""
    model = with_context(hub_dir, tmp_path, 460)
    for name in ("q3", "q6"):
        Image.effect_noise((560, 700), 90).save(tmp_path / f"{name}.png")
    more = ("--template", "direct", "--arms", "image")
    code, _, err = command(*eval_words(model, data, tmp_path / "eval", *more))
    said = re.search(
        r'2 of 6 questions will have no answer, the first: question "q3" needs .* in all; --max-pixels (\d+) makes it fit .*; --max-pixels (\d+) makes all of them fit',
        err,
    )
    assert code == 1 and said, err
    assert {s.id for s in read_samples(tmp_path / "eval" / "samples-image.jsonl") if s.status == "failed"} == {"q3", "q6"}
    assert command(*eval_words(model, data, tmp_path / "again", *more, "--max-pixels", said[2]))[0] == 0


def test_the_same_command_again_asks_nothing_and_loses_nothing(hub_dir, data, tmp_path, command):
    """Although the settings say in which numbers it came to be computed, which the command does not."""
    out = tmp_path / "eval"
    words = ["eval", "--model", hub_dir, "--data", data, "--max-tokens", "4", "--out", out, "--arms"]
    assert command(*words, "image")[0] == 0
    before = (out / "summary.json").read_bytes()
    assert command(*words, "image")[0] == 0 and (out / "summary.json").read_bytes() == before
    assert command(*words, "image,blank")[0] == 0
    assert command(*words, "image,blank", "--dtype", "bfloat16")[0] == 2


@pytest.mark.parametrize(("device", "dtype"), [(None, "float32"), ("bfloat16", "bfloat16")])
def test_the_settings_say_in_which_numbers_it_was_computed(hub_dir, data, tmp_path, command, device, dtype):
    assert command(*eval_words(hub_dir, data, tmp_path / "eval", "--arms", "image", *(("--dtype", device) if device else ())))[0] == 0
    settings = json.loads((tmp_path / "eval" / "summary.json").read_text())["settings"]
    assert settings["dtype"] == dtype and settings["answered_by"].endswith(f" {dtype}")


# ---------------------------------------------------------------- answers that say nothing of the model

UNREAD = {
    "a letter alone": (says("A"), 'no letter could be read in 6 of 6 answers, the first: "A"; ', "--template paper-direct reads a letter alone"),
    "another form": (says(r"The answer is \boxed{A}"), r'the first: "The answer is \boxed{A}"; ', "name the --template that it was trained with"),
    "cut off": (says("<think>It", "length"), 'the first: "<think>It"; ', "it was cut off; raise --max-tokens"),
    "all of it thought": (says(None, reasoning_content="So <answer>A</answer>"), "the first: ", "start the server without a reasoning parser"),
}


@pytest.mark.parametrize("case", UNREAD)
def test_where_no_letter_can_be_read_a_sentence_says_so(endpoint, data, tmp_path, command, case):
    answer, *parts = UNREAD[case]
    code, _, err = command(*eval_words(endpoint(answer).url, data, tmp_path / "eval", "--arms", "image"))
    assert code == 0 and all(part in err for part in parts), err
    _, _, err = command(*eval_words(endpoint(stumbles(answer, "q1", "q2", "q3")).url, data, tmp_path / "half", "--arms", "image"))
    assert "no letter" not in err  # a half is answered
    _, _, err = command(*eval_words(endpoint(stumbles(answer, "q1", "q2", "q3", "q6")).url, data, tmp_path / "most", "--arms", "image"))
    assert "no letter could be read in 4 of 6 answers" in err


def test_what_an_endpoint_does_not_take_stands_in_the_settings_whenever_it_was_asked(endpoint, data, tmp_path, command):
    refusal = (400, {}, {"error": {"message": "'temperature' does not support 0 with this model. Only the default (1) value is supported."}})
    server, out = endpoint(lambda body: refusal if body.get("temperature") == 0 else stumbles((500, {}, {}), "q4")(body)), tmp_path / "eval"
    code, _, err = command(*eval_words(server.url, data, out, "--arms", "image"))
    assert code == 1 and err.count('the endpoint does not take "temperature": it is sent as 1 in the place of 0') == 1
    first = json.loads((out / "summary.json").read_text())["settings"]["not_taken_by_the_endpoint"]
    assert first == {"temperature=1": "is sent as 1 in the place of 0, so that answers that should be greedy are drawn"}
    server.answers[:] = [good]  # takes it now, and is asked for what is missing
    assert command(*eval_words(server.url, data, out, "--arms", "image"))[0] == 0
    assert json.loads((out / "summary.json").read_text())["settings"]["not_taken_by_the_endpoint"] == first
    assert "temperature" in (out / "report.html").read_text()


@pytest.mark.parametrize("name", ["", "#m"])
def test_a_web_page_is_no_endpoint(endpoint, refused, data, tmp_path, name):
    server = endpoint(good)
    server.models = (200, {"Content-Type": "text/html"}, b"<!doctype html><html>Sign in</html>")
    refused(eval_words(server.url + name, data, tmp_path / "eval"), "is not the place", "a web page", "Sign in", "end in /v1")
    assert server.asked == []


def test_a_web_page_in_the_place_of_an_answer(endpoint, data, tmp_path, command):
    code, _, err = command(*eval_words(endpoint(stumbles((200, {}, b"\n<html>login</html>"), "q2")).url, data, tmp_path / "eval", "--arms", "image"))
    assert code == 1 and 'cannot be read, since it is a web page ("<html>login</html>"); does the address end in /v1, and does no login stand before it?' in err


# ---------------------------------------------------------------- the key, and where it goes


def test_the_key_stands_in_no_file_and_no_message(endpoint, serve, data, tmp_path, command, monkeypatch):
    monkeypatch.setenv("MEDVLM_API_KEY", "sk-secret-1")
    server = endpoint(stumbles((403, {}, b"the key sk-secret-1 may not do that"), "q1"))
    code, out, err = command(*eval_words(server.url, data, tmp_path / "eval"))
    assert code == 1 and set(server.keys) == {"Bearer sk-secret-1"}
    assert "the key … may not do that" in read_samples(tmp_path / "eval" / "samples-image.jsonl")[0].text
    assert "sk-secret-1" not in out + err + "".join(file.read_text() for file in (tmp_path / "eval").iterdir())


@pytest.mark.parametrize("status", [403, 200])
@pytest.mark.parametrize("key", ["sk-secret-1-" + "x" * 40, 'sk-"secret"-\\1' + "x" * 40])
def test_not_even_its_beginning_where_a_message_is_cut(endpoint, data, tmp_path, command, monkeypatch, status, key):
    """A server repeats it at such a place that the cut after 200 characters (of an answer that cannot be read: 100) goes through it."""
    monkeypatch.setenv("MEDVLM_API_KEY", key)
    bodies = [(status, {}, {"said": f"{'.' * before}{key}"}) for before in (30, 60, 170, 180)]
    for n, body in enumerate(bodies):
        code, out, err = command(*eval_words(endpoint(stumbles(body, "q1")).url, data, tmp_path / str(n), "--arms", "image"))
        written = out + err + "".join(file.read_text() for file in (tmp_path / str(n)).iterdir())
        assert code == 1 and "said" in written and "sk-" not in written


@pytest.mark.parametrize("key", ["sk-secret-1\n", "sk secret-1", "sk-secret-1€"])
def test_a_key_that_cannot_be_sent_is_not_shown(refused, data, tmp_path, monkeypatch, capsys, key):
    monkeypatch.setenv("MEDVLM_API_KEY", key)
    refused(eval_words("http://127.0.0.1:9/v1", data, tmp_path / "eval"), "MEDVLM_API_KEY")
    assert "secret" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("name", ["", "#m"])
def test_a_wrong_key_and_a_moved_endpoint_are_told_at_once(endpoint, serve, refused, data, tmp_path, name):
    server, elsewhere = endpoint(good), serve((200, {}, {}))
    server.models = (401, {}, {"error": "who are you?"})
    refused(eval_words(server.url + name, data, tmp_path / "eval"), "401", "MEDVLM_API_KEY")
    server.models = (302, {"Location": elsewhere.url}, b"")
    refused(eval_words(server.url + name, data, tmp_path / "eval"), elsewhere.url)
    assert server.asked == elsewhere.asked == []


@pytest.mark.parametrize("address", ["http://me:secret@here/v1", "https://here/v1?api-key=secret", "http:///v1", "ftp://here/v1"])
def test_an_address_with_more_than_a_place(command, data, tmp_path, address):
    code, _, err = command(*eval_words(address, data, tmp_path / "eval"))
    assert code == 2 and len(err.splitlines()) == 1 and "secret" not in err


def test_no_proxy_stands_between_us_and_this_machine(endpoint, serve, data, tmp_path, command, monkeypatch):
    proxy = serve((502, {}, {}))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert command(*eval_words(endpoint(good).url, data, tmp_path / "eval"))[0] == 0 and proxy.asked == []


@pytest.mark.parametrize(
    ("text", "says"),
    [('{"key": "1", "note": "mine"}\n', "notes.jsonl, line 1"), ("years of work", "no record of completions"), ("years\nof work", "notes.jsonl, line 1")],
)
def test_a_record_that_is_none_stays(endpoint, refused, data, tmp_path, text, says):
    (tmp_path / "notes.jsonl").write_text(text)
    refused(eval_words(endpoint(good).url, data, tmp_path / "eval", "--cache", tmp_path / "notes.jsonl"), says)
    assert (tmp_path / "notes.jsonl").read_text() == text
