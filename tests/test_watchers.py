"""What looks at a run while it goes on: it learns the same to the last bit, its best checkpoint has a name, and it ends when nothing gets better."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import worlds
from test_training import GRPO, SFT, files_of, fresh, vowels

from medvlm_r1.errors import ConfigError, ModelError
from medvlm_r1.files import read_rows
from medvlm_r1.launch import sinks
from medvlm_r1.launch.following import follow
from medvlm_r1.launch.request import Request
from medvlm_r1.models import runs
from medvlm_r1.models.families import locate
from medvlm_r1.preflight.values import check
from medvlm_r1.reasoning import render
from medvlm_r1.report.learning import tell
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.training import checkpoint, sft
from medvlm_r1.training.grpo import trainer as grpo
from medvlm_r1.training.grpo.meter import Stop
from medvlm_r1.training.held_out import Exam, HeldOut, mark, shares, untested
from medvlm_r1.training.verdict import Verdict, is_over, verdict
from medvlm_r1.training.watchers import Watched
from medvlm_r1.types import Completion

TESTED = HeldOut("held-out.jsonl", every=1)


def exam_of(examples, every=1, last=4):
    return Exam([render(example, "think") for example in examples], every, last, max_tokens=8)


def train(kind, tokenizer, examples, run_dir, test=untested, opened=(), **changes):
    """A small run of either kind on the questions; its policy."""
    policy, watched = fresh(tokenizer), Watched(run_dir, test, opened)
    if kind == "grpo":
        done = grpo.train(replace(GRPO, **changes), policy, LocalEngine(policy, learning=True), examples, vowels, watched)
    else:
        done = sft.train(replace(SFT, **changes), policy, examples, watched)
    assert done
    return policy


def equal(one, other):
    return all(torch.equal(p, q) for p, q in zip(one.model.parameters(), other.model.parameters(), strict=True))


def said(*accuracies):
    """A test that says these, one a step."""
    return lambda step, policy: {runs.TEST: accuracies[step - 1], "test/questions": 10}


@pytest.mark.parametrize("kind", ["grpo", "sft"])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_tested_run_learns_what_an_untested_one_does_bit_for_bit(kind, frozen, tokenizer, examples, tmp_path):
    """Asked about the very pictures that it learns from: what was encoded for a test, alone and without gradients, must not be found by a step."""
    changes = {}
    if frozen:
        changes = {"trainable": replace(GRPO.trainable, freeze=("vision",))}
    before = torch.random.get_rng_state()
    plain = train(kind, tokenizer, examples, tmp_path / "plain", **changes)
    torch.random.set_rng_state(before)
    tested = train(kind, tokenizer, examples, tmp_path / "tested", exam_of(examples), **changes)
    assert equal(plain, tested)
    rows, rollouts = files_of(tmp_path / "tested")
    asked = [row for row in rows if runs.TEST in row]
    assert len(asked) == 4 and ([{k: v for k, v in row.items() if not k.startswith("test/")} for row in rows], rollouts) == files_of(tmp_path / "plain")


def test_a_test_draws_no_random_number_and_leaves_no_picture_behind(policy, examples):
    states = torch.random.get_rng_state(), policy.images._kept.held, dict(policy.images._remembered)
    found = exam_of(examples)(1, policy)
    assert found["test/questions"] == len(examples) and 0 <= found[runs.TEST] <= found["test/answered"] <= 1
    assert torch.equal(torch.random.get_rng_state(), states[0]) and (policy.images._kept.held, policy.images._remembered) == states[1:]


def test_two_ranks_ask_half_each_and_say_the_same(tokenizer, examples):
    policies = [fresh(tokenizer) for _ in range(2)]
    asked = []

    class Counting(Exam):
        def __call__(self, step, policy):
            asked.append(step)
            return super().__call__(step, policy)

    alone = exam_of(examples)(1, policies[0])
    found = worlds.run(2, lambda world: Counting(*vars(exam_of(examples)).values())(1, policies[world.rank]))
    drop = lambda row: {key: value for key, value in row.items() if not key.startswith("seconds")}  # noqa: E731
    assert drop(found[0]) == drop(found[1]) == drop(alone) and asked == [1, 1]


def test_marks_are_what_evaluation_counts(examples):
    prompt = render(examples[0], "think")
    right, wrong = (f"<think>x</think><answer>{letter}</answer>" for letter in (examples[0].letter, "AB"[examples[0].letter == "A"]))
    marks = [mark(Completion((1,), (0.0,), text, True), prompt) for text in (right, wrong, "nothing")]
    assert marks == [(1.0, 1.0), (0.0, 1.0), (0.0, 0.0)]
    assert shares([prompt] * 3, marks) == {runs.TEST: 1 / 3, "test/answered": 2 / 3, "test/questions": 3}
    open_prompt = render(replace(examples[0], options=(), answer="no"), "think")
    said = [f"<think>x</think><answer>{text}</answer>" for text in ("No, the heart is normal.", "Yes", "I cannot tell")]
    assert [mark(Completion((1,), (0.0,), text, True), open_prompt) for text in said] == [(1.0, 1.0), (0.0, 1.0), (0.0, 0.0)]


# ---------------------------------------------------------------- the best checkpoint


def test_the_best_checkpoint_is_saved_named_and_kept_with_its_optimiser(tokenizer, examples, tmp_path):
    run = tmp_path / "run"
    train("sft", tokenizer, examples, run, said(0.2, 0.6, 0.5, 0.6, 0.4, 0.3), steps=6, save_every=2, held_out=TESTED)
    assert [path.name for path in runs.checkpoints(run)] == ["step-1", "step-2", "step-4", "step-6"]  # 1 and 2 were best in their time
    assert runs.best(run).name == "step-2" and locate(f"{run}@best") == run / "checkpoints/step-2"
    assert locate(f"{run}@last").name == "step-6" and locate(f"{run}@4").name == "step-4"
    assert [path.name for path in checkpoint.resumable(run)] == ["step-6", "step-4", "step-2"]
    assert "most after step 2: 60.0 %" in tell_of(run)


def tell_of(run):
    (run / "config.json").write_text(json.dumps({"config": {"model": "nano", "data": "phantom:mri", "steps": 6, "stop": {"patience": None}}}))
    (run / "rollouts.jsonl").write_text("")
    told = tell(run)
    assert "Right on held-out questions" in (run / "report.html").read_text()
    return told


@pytest.mark.parametrize(
    ("name", "why"), [("best", "was asked held-out questions; train with --test-during"), ("3", 'no checkpoint of the name "3".*@last is step-4')]
)
def test_a_checkpoint_that_is_not_there_is_refused_by_name(tokenizer, examples, tmp_path, name, why):
    train("sft", tokenizer, examples, tmp_path / "run")
    with pytest.raises(ModelError, match=why):
        locate(f"{tmp_path}/run@{name}")
    with pytest.raises(ModelError, match="no model directory"):
        locate(f"{tmp_path}/gone@best")


# ---------------------------------------------------------------- early stop


def test_a_run_ends_when_nothing_gets_better_and_stays_ended(tokenizer, examples, tmp_path):
    """The best is step 2; steps 3 and 4 are no better, which is the patience."""
    changes = {"steps": 8, "save_every": 8, "held_out": TESTED, "stop": Stop(patience=2)}
    scores = said(0.4, 0.6, 0.6, 0.5, 0.9, 0.9, 0.9, 0.9)
    for kind in ("grpo", "sft"):
        run = tmp_path / kind
        train(kind, tokenizer, examples, run, scores, **changes)
        assert [row["step"] for row in files_of(run)[0]] == [1, 2, 3, 4] and checkpoint.latest(run).name == "step-4"
        before = files_of(run)
        train(kind, tokenizer, examples, run, scores, **changes)
        assert files_of(run) == before


def test_a_resumed_run_ends_where_the_undisturbed_one_does(tokenizer, examples, tmp_path):
    """It is cut off behind step 3, at patience 1 of 2, after its checkpoint of step 2: what it knew of its tests comes back with the rows."""
    changes = {"steps": 8, "save_every": 2, "held_out": TESTED, "stop": Stop(patience=2)}
    scores = said(0.6, 0.5, 0.6, 0.5, 0.9, 0.9, 0.9, 0.9)

    class Cut(Exception):
        pass

    def cut(step, policy):
        if step == 3:
            raise Cut
        return scores(step, policy)

    whole = train("sft", tokenizer, examples, tmp_path / "whole", scores, **changes)
    with pytest.raises(Cut):
        train("sft", tokenizer, examples, tmp_path / "cut", cut, **changes)
    resumed = train("sft", tokenizer, examples, tmp_path / "cut", scores, **changes)
    assert equal(whole, resumed) and files_of(tmp_path / "cut") == files_of(tmp_path / "whole")
    assert [row["step"] for row in files_of(tmp_path / "cut")[0]] == [1, 2, 3]


def test_a_verdict_is_of_the_rows_up_to_its_step_and_all_ranks_hear_it(tmp_path):
    config = replace(SFT, steps=9, save_every=4, held_out=TESTED, stop=Stop(patience=2))
    rows = [{"step": n, runs.TEST: score} for n, score in enumerate((0.1, 0.3, 0.2, 0.3, 0.5), 1)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step, expected in (
        (2, Verdict(True, False, False)),
        (3, Verdict(False, False, False)),
        (4, Verdict(True, True, True)),
        (5, Verdict(True, False, False)),
    ):
        assert worlds.run(2, lambda world, step=step: verdict(tmp_path, step, config, False)) == [expected] * 2
    assert verdict(tmp_path, 3, config, True) == Verdict(True, True, False)
    assert is_over(tmp_path, 4, config) and not is_over(tmp_path, 5, config)
    assert verdict(tmp_path, 9, replace(SFT, steps=9), False) == Verdict(True, True, True)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (replace(SFT, stop=Stop(patience=2)), "counts tests on held-out questions; name them with --test-during"),
        (replace(SFT, stop=Stop(kept=0.5)), "set meter=2"),
        (replace(SFT, held_out=HeldOut("q.jsonl", every=0)), '"held_out.every" wants 1 or more'),
    ],
)
def test_what_cannot_stop_a_run_is_refused(config, why):
    with pytest.raises(ConfigError, match=why):
        check(config)


# ---------------------------------------------------------------- other trackers


class Library:
    """Stands in for wandb and trackio: what they are told, run by run."""

    class Error(Exception):
        pass

    def __init__(self):
        self.begun, self.rows, self.finished = [], [], 0
        self.errors = SimpleNamespace(Error=self.Error)

    def Settings(self, **values):
        return values

    def init(self, **about):
        self.begun.append(about)
        return self

    def log(self, metrics, step):
        self.rows.append((step, metrics))

    def finish(self):
        self.finished += 1


@pytest.mark.parametrize("name", sinks.SINKS)
def test_a_library_gets_the_numbers_of_every_step_and_one_run_for_a_run(name, tokenizer, examples, tmp_path, monkeypatch):
    library = Library()
    monkeypatch.setitem(sys.modules, name, library)
    monkeypatch.delitem(sys.modules, sinks.SINKS[name][0], raising=False)
    opened = sinks.opener(name)
    config = replace(SFT, steps=2)
    checkpoint.open_run(tmp_path / "mine", config, resume=False)
    for _ in range(2):  # it goes on, and has nothing left to do
        train("sft", tokenizer, examples, tmp_path / "mine", said(0.5, 0.6), [opened], steps=2)
    rows = read_rows(tmp_path / "mine/metrics.jsonl")
    assert library.rows == [(row.pop("step"), row) for row in rows] and library.rows[1][1][runs.TEST] == 0.6
    names = [about["name"] if name == "trackio" else about["id"] for about in library.begun]
    assert len(names) == 2 and len(set(names)) == 1 and names[0].startswith("mine-") and all(about["resume"] == "allow" for about in library.begun)
    assert library.begun[0]["config"]["optim"]["lr"] == SFT.optim.lr and library.finished == 2


def test_a_library_that_is_missing_or_wants_a_login_is_told_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.delitem(sys.modules, sinks.SINKS["wandb"][0], raising=False)
    with pytest.raises(ConfigError, match=r"--track wandb needs wandb; .*pip install wandb"):
        sinks.opener("wandb")
    library = Library()
    monkeypatch.setitem(sys.modules, "wandb", library)
    checkpoint.open_run(tmp_path / "run", SFT, resume=False)

    def refuse(**about):
        raise Library.Error("no API key")

    library.init = refuse
    with pytest.raises(ConfigError, match="no API key.*WANDB_MODE=offline"):
        sinks.opener("wandb")(tmp_path / "run", 0)


# ---------------------------------------------------------------- by another process


def test_checkpoints_are_evaluated_as_they_appear_until_the_run_ends(tmp_path):
    """Two are there, a third comes while it waits, and the run ends while that one is asked."""
    run, asked = tmp_path / "run", []
    for step in (2, 4):
        (run / f"checkpoints/step-{step}").mkdir(parents=True)
    (run / "checkpoints/step-6.partial").mkdir()
    (run / "config.json").write_text("{}")

    def ask(request):
        asked.append((request.model, request.out.name))
        if request.out.name == "step-6":
            (run / "summary.json").write_text("{}")
        return {"n": len(asked)}

    waits = []

    def wait(seconds):
        waits.append(seconds)
        (run / "checkpoints/step-6").mkdir(exist_ok=True)

    found = [(request.out, summary) for request, summary in follow(Request("", "q.jsonl", tmp_path / "out"), run, ask, wait)]
    assert found == [(tmp_path / f"out/step-{step}", {"n": n}) for n, step in enumerate((2, 4, 6), 1)]
    assert asked == [(str(run / f"checkpoints/step-{step}"), f"step-{step}") for step in (2, 4, 6)] and len(waits) == 2
    with pytest.raises(ConfigError, match='--watch ".*" holds no run; name the --run-dir'):
        next(follow(Request("", "q.jsonl", tmp_path), tmp_path, ask, wait))
