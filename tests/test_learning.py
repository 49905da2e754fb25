"""A training run's own page: what changed, what it wrote first and last, nothing loaded from anywhere."""

import json
import re

import pytest

from medvlm_r1.report.learning import ends, render_learning, tell

CONFIG = {"model": "nano", "data": "phantom:mri?split=train", "optim": {"lr": 4e-05}}
ROWS = [{"step": n, "reward": 1 + n / 40, "reward/accuracy": n / 40, "loss": 0.0, "lr": 1.0, "seconds/update": 0.5} for n in range(1, 41)]


def rollout(step, name, text, accuracy, advantage):
    return {"step": step, "id": name, "completion": text, "rewards": {"format": 1.0, "accuracy": accuracy}, "reward": 1 + accuracy,
            "advantage": advantage, "tokens": 3, "finished": True}  # fmt: skip


ROLLOUTS = [
    rollout(1, "q1", "<think>first <i>", 0.0, -1.0), rollout(1, "q1", "<answer>A</answer>", 1.0, 1.0), rollout(1, "q2", "two", 0.0, 0.0),
    rollout(1, "q3", "a third question", 0.0, 0.0), rollout(2, "q4", "in between", 0.0, 0.0), rollout(3, "q5", "the last", 1.0, 0.0),
]  # fmt: skip


@pytest.fixture
def run(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"fingerprint": "abc", "config": CONFIG}))
    for name, rows in (("metrics", ROWS), ("rollouts", ROLLOUTS)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_a_run_is_told_by_its_first_and_last_tenth(run):
    """Means of steps 1 to 4 and 37 to 40: 2.5 and 38.5 fortieths."""
    assert tell(run) == "40 steps: reward 1.06 → 1.96, right letter 0.06 → 0.96, on training questions."
    summary = json.loads((run / "summary.json").read_text())
    assert summary["changes"]["reward/accuracy"] == {"first": pytest.approx(0.0625), "last": pytest.approx(0.9625)}
    assert (summary["steps"], summary["seconds"], summary["settings"]) == (40, {"update": 20.0}, CONFIG)


def test_the_page_shows_the_first_and_the_last_step_best_first(run):
    tell(run)
    page = (run / "report.html").read_text()
    assert re.findall(r"What it wrote in step (\d+)", page) == ["1", "3"]
    assert "in between" not in page and "a third question" not in page  # two questions a step
    assert page.index(">A<") < page.index("first &lt;i&gt;") and "−1.00" in page and "+1.00" in page
    assert "Research use only" in page and "4e-05" in page
    assert not re.search(r"<script|https?://|<img|<link", page)


def test_a_number_that_is_missing_in_some_step_has_no_ends():
    assert ends([{"step": 1, "reward": 1.0, "kl": None}, {"step": 2, "reward": 2.0, "kl": 0.1}]) == {"reward": (1.0, 2.0)}
    assert ends([]) == {}


def test_skipped_steps_are_counted_in_the_page_and_leave_no_hole(run):
    """Step 39 of 40 had a loss that is not finite; the last tenth of the other 39 are steps 37, 38 and 40."""
    rows = [dict(row, skipped_steps=int(row["step"] >= 39)) for row in ROWS]
    rows[38] |= {"loss": None, "kl": None}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = tell(run)
    assert said.startswith("40 steps: reward ") and said.endswith(" on training questions. 1 of them was skipped, since loss or gradient was not finite.")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["skipped_steps"] == 1 and summary["changes"]["reward/accuracy"]["last"] == pytest.approx((37 + 38 + 40) / 120)
    assert "1 of them was skipped" in (run / "report.html").read_text()


def test_rewards_under_any_name_have_a_curve_and_a_place_in_the_sentence(run):
    rows = [{"step": n, "reward": 0.5, "reward/my.py:organ": n / 4, "loss": 0.0} for n in (1, 2)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert tell(run) == "2 steps: reward 0.50 → 0.50, my.py:organ 0.25 → 0.50, on training questions."
    assert "Reward my.py:organ" in (run / "report.html").read_text()


def test_a_run_of_letters_alone_has_a_loss_and_no_rollouts():
    page = render_learning(CONFIG, [{"step": 1, "loss": 0.5, "seconds/update": 1.0}, {"step": 2, "loss": 0.25, "seconds/update": 1.0}], [])
    assert "2 steps: loss 0.50 → 0.25" in page and "What it wrote" not in page and "update 2.0 s." in page
