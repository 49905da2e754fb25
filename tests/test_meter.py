"""The meter: right with the own and with another patient's picture, and the run that ends when it forgets to look."""

import json
from dataclasses import replace

import pytest
from test_training import files_of
from test_views import GRPO, PLAIN, QUESTIONS, run

from medvlm_r1.errors import ConfigError
from medvlm_r1.preflight.values import check
from medvlm_r1.recipes.nano import contrast
from medvlm_r1.report.learning import tell
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.training import checkpoint
from medvlm_r1.training.grpo.meter import CHANCE, OTHER, OWN, Stop, forgets, kept, looking
from medvlm_r1.training.verdict import is_over
from medvlm_r1.types import Completion, Example, Prompt, Rollout, RolloutGroup

METERED = replace(GRPO, views=PLAIN, meter=2, sampling=Sampling(n=4, max_tokens=8), steps=4, save_every=4)


def group(example, answers, view=""):
    shown = replace(example, id=f"{example.id}/{view}") if view else example
    return RolloutGroup(
        Prompt(shown, "…", view=view),
        tuple(Rollout(Completion((7,), (), f"<think>x</think><answer>{letter}</answer>", True), {}) for letter in answers),
        weight=0.0 if view else 1.0,
    )


@pytest.mark.parametrize("view", ["mismatch", "stranger", "anyone"])
def test_accuracy_with_either_picture_is_of_questions_that_were_shown_with_both(view):
    """By evaluation's rule, which reads no "A." with words behind. Chance: 1/2 and 1/3, mean 5/12."""
    three = Example("q9", ("9.png",), "Which side?", ("left", "right", "both"), "both", "mri", "side", "p9")
    groups = [
        group(QUESTIONS[0], "AAAB"), group(QUESTIONS[0], "AB", view),
        group(three, "CA"), group(three, ("A", "C is it"), view),
        group(QUESTIONS[1], "AAAAAA"),  # without a partner
    ]  # fmt: skip
    assert looking(groups) == {OWN: (0.75 + 0.5) / 2, OTHER: 0.25, CHANCE: pytest.approx(5 / 12)}
    assert looking(groups[-1:]) == {}
    is_large = Example("q10", ("10.png",), "Is it large?", (), "no", "mri", "size", "p10")
    assert looking([group(is_large, ("No, small.", "It is not.")), group(is_large, ("Yes.",), view)]) == {OWN: 0.5, OTHER: 0.0, CHANCE: 0.0}


def test_a_run_that_learns_from_anothers_picture_needs_no_meter_to_be_ended():
    check(replace(METERED, meter=0, views=contrast(), stop=Stop(kept=0.5)))
    with pytest.raises(ConfigError, match="set meter=2"):
        check(replace(METERED, meter=0, stop=Stop(kept=0.5)))


def rows(count, own, other):
    """Steps that differ a little; chance 0.4."""
    return [{"step": n + 1, OWN: own + 0.02 * (n % 2), OTHER: other + 0.02 * (n % 2), CHANCE: 0.4} for n in range(count)]


def test_a_run_ends_once_it_keeps_too_much_for_certain_over_a_whole_window():
    stop = Stop(kept=0.5, window=10)
    assert forgets(rows(10, 0.8, 0.7), stop).share == pytest.approx(0.31 / 0.41)
    assert forgets(rows(9, 0.8, 0.7), stop) is None  # too early to tell
    assert forgets(rows(10, 0.8, 0.5), stop) is None  # it keeps a quarter
    assert forgets(rows(10, 0.3, 0.3), stop) is None  # no lead to keep
    assert forgets(rows(10, 0.8, 0.7), Stop(None, 10)) is None
    unsure = [{OWN: 0.8, OTHER: 0.4 + 0.4 * (n % 2) + 0.02, CHANCE: 0.4} for n in range(10)]
    assert kept(unsure).share > 0.5 and forgets(unsure, stop) is None
    assert forgets(rows(10, 0.8, 0.7) + rows(10, 0.8, 0.5), stop) is None  # it looks again


def test_the_numbers_are_in_the_metrics_and_in_the_report(tokenizer, tmp_path):
    assert run(tokenizer, tmp_path, METERED, examples=QUESTIONS)[0]
    found, rollouts = files_of(tmp_path)
    measured = [json.loads(line) for line in rollouts.splitlines() if '/mismatch"' in line]
    assert all({OWN, OTHER, CHANCE} <= row.keys() for row in found) and len(found) == 4
    assert len(measured) == 4 * 2 * 2  # two questions a step, two rollouts of each
    assert not any(row["advantage"] for row in measured)
    plain = tmp_path / "plain"
    run(tokenizer, plain, replace(METERED, meter=0))
    assert not any(OWN in row for row in files_of(plain)[0])


def with_rows(run_dir, config, found):
    checkpoint.open_run(run_dir, config, resume=False)
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row | {"reward": 1.0, "loss": 0.1}) + "\n" for row in found))


def test_the_report_says_why_a_run_ended(tmp_path):
    config = replace(METERED, steps=100, stop=Stop(0.5, 10))
    with_rows(tmp_path, config, rows(12, 0.8, 0.7))
    said = tell(tmp_path)
    assert said.startswith("12 of 100 steps: reward 1.00 → 1.00")
    assert "right 80 → 82 % with the own picture, 70 → 72 % with another patient's" in said
    assert (
        "It ended early: over 10 steps it kept 76 % of its lead over chance with another patient's picture, at least 75 %, more than stop.kept allows (50 %)."
        in said
    )
    page = (tmp_path / "report.html").read_text()
    assert "Right with its own picture" in page and "Right with another patient&#39;s picture" in page


def test_a_run_that_ended_early_is_finished_and_stays_so(tokenizer, tmp_path, monkeypatch):
    """Rows that say so are put before the first step: it ends behind its first, with a checkpoint, and a second start does nothing."""
    config = replace(METERED, steps=4, save_every=100, stop=Stop(kept=0.01, window=2))
    found = {OWN: 0.9, OTHER: 0.9, CHANCE: 0.4}
    monkeypatch.setattr("medvlm_r1.training.grpo.trainer.looking", lambda groups: dict(found))
    assert run(tokenizer, tmp_path, config)[0]
    assert [row["step"] for row in files_of(tmp_path)[0]] == [1, 2] and checkpoint.latest(tmp_path).name == "step-2"
    before = files_of(tmp_path)
    assert run(tokenizer, tmp_path, config)[0] and files_of(tmp_path) == before
    assert is_over(tmp_path, 2, config) and not is_over(tmp_path, 1, config) and not is_over(tmp_path, 2, replace(config, stop=Stop()))
