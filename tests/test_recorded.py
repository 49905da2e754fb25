"""Nothing is asked twice, and nothing else is taken for it."""

import json
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import pytest

from medvlm_r1.errors import DataError, EngineError, RunError
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.recorded import Recorded
from medvlm_r1.types import Completion


class Counting:
    """An engine that says what it is asked, and how often it was."""

    def __init__(self, fails=()):
        self.asked, self.fails = [], set(fails)

    def generate(self, prompts, sampling):
        self.asked += [prompt.example.id for prompt in prompts]
        return [[Completion((), (), f"{p.example.id} {k}", True, "down" if p.example.id in self.fails else "") for k in range(sampling.n)] for p in prompts]


@pytest.fixture
def prompts(examples):
    return [render(example, "think") for example in examples]


def recorded(tmp_path, engine, identity="w1", image_key=str.upper):
    return Recorded(engine, tmp_path / "c.jsonl", identity, image_key)


def test_what_is_known_is_not_asked_again_in_this_process_or_the_next(tmp_path, prompts):
    engine, sampling = Counting(), Sampling(2, 1.0, 8)
    first = recorded(tmp_path, engine)
    said = first.generate(prompts[:2], sampling)
    assert first.generate(prompts, sampling)[:2] == said and engine.asked == ["q1", "q2", "q3"]
    first.close()
    again = Counting()
    second = recorded(tmp_path, again)
    assert second.generate(prompts[:2], sampling) == said and again.asked == []
    assert second.generate(prompts[:1], replace(sampling, n=1)) == [said[0][:1]] and again.asked == []
    assert [c.text for c in said[0]] == ["q1 0", "q1 1"]
    assert [c.text for c in second.generate(prompts[:1], replace(sampling, n=3))[0]] == ["q1 0", "q1 1", "q1 2"] and again.asked == ["q1"]
    rows = [json.loads(line)["key"] for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    assert len(rows) == len(set(rows)) == 3 * 2 + 1  # what was known is not written again


@pytest.mark.parametrize(
    "change",
    [
        {"sampling": Sampling(1, 0.5, 8)}, {"sampling": Sampling(1, 1.0, 9)}, {"sampling": Sampling(1, 1.0, 8, seed=1)},
        {"identity": "w2"}, {"image_key": str.lower}, {"template": "direct"}, {"opening": "<think></think>"}, {"id": "q2"},
        {"first": 1},
    ],
)  # fmt: skip
def test_everything_that_decides_an_answer_is_in_the_key(tmp_path, examples, change):
    asked = []
    for more in ({}, change):
        engine = Counting()
        prompt = render(replace(examples[0], id=more.get("id", "q1")), more.get("template", "think"))
        prompt = replace(prompt, opening=more.get("opening", ""), first=more.get("first", 0))
        with_these = {name: value for name, value in more.items() if name in ("identity", "image_key")}
        with closing(recorded(tmp_path, engine, **with_these)) as record:
            record.generate([prompt], more.get("sampling", Sampling(1, 1.0, 8)))
        asked.append(engine.asked)
    assert asked == [["q1"], [change.get("id", "q1")]]


HOLDS = "import fcntl, sys; file = open(sys.argv[1], 'ab'); fcntl.flock(file, fcntl.LOCK_EX); print('mine', flush=True); sys.stdin.read()"


def test_a_record_that_another_process_writes_is_refused_and_left_as_it_is(tmp_path, prompts):
    """The other has written half a row, which its next write completes: who dropped it as cut off would spoil the file."""
    path = tmp_path / "c.jsonl"
    path.write_bytes(b'{"key": "half')
    with subprocess.Popen([sys.executable, "-c", HOLDS, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(RunError, match="in use by another evaluation; wait for it or name another --cache"):
            recorded(tmp_path, Counting())
        assert path.read_bytes() == b'{"key": "half'
        other.stdin.close()
    with closing(recorded(tmp_path, Counting())) as record:
        record.generate(prompts, Sampling(1))
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 3


def test_a_file_that_is_no_record_is_left_as_it_is_and_free(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"years of work")
    refusals = [pytest.raises(DataError, recorded, tmp_path, Counting()) for _ in range(2)]  # not for being in use, though the first lives on
    assert all("is no record of completions" in str(refusal.value) for refusal in refusals)
    assert path.read_bytes() == b"years of work"


def test_in_one_process_too_and_only_until_it_is_closed(tmp_path):
    first = recorded(tmp_path, Counting())
    with pytest.raises(RunError, match="in use"):
        recorded(tmp_path, Counting())
    first.close()
    recorded(tmp_path, Counting()).close()


def test_a_failure_is_handed_on_but_not_kept(tmp_path, prompts):
    engine, sampling = Counting(fails=["q2"]), Sampling(1)
    record = recorded(tmp_path, engine)
    assert [group[0].error for group in record.generate(prompts, sampling)] == ["", "down", ""]
    engine.fails.clear()
    assert [group[0].error for group in record.generate(prompts, sampling)] == ["", "", ""]
    assert engine.asked == ["q1", "q2", "q3", "q2"]


def test_a_record_takes_no_weights(tmp_path, policy):
    """Its key names one model: after a sync the old one's answers would stand for the new one's."""
    with pytest.raises(EngineError, match="records one model"):
        recorded(tmp_path, Counting()).sync(policy)
