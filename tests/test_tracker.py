"""The run's files: whole rows, exact resumption, a full disk."""

import errno
import io

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medvlm_r1.errors import RunError
from medvlm_r1.files import AppendFile, JsonLines, disk_errors, read_rows
from medvlm_r1.training.events import EventFile
from medvlm_r1.training.tracker import RolloutLog, Tracker
from medvlm_r1.types import Completion, Example, Prompt, Rollout, RolloutGroup


class Clock:
    """Each look is ``step_s`` later than the one before."""

    def __init__(self, step_s=1.0):
        self.now_s, self.step_s = -step_s, step_s

    def __call__(self):
        self.now_s += self.step_s
        return self.now_s


class SmallDisk(io.FileIO):
    """A file on a disk of ``free`` bytes, which like a real one writes the part that still fits, then fails."""

    def __init__(self, path, free, code=errno.ENOSPC):
        super().__init__(path, "ab")
        self.free, self.code = free, code

    def write(self, data):
        room = self.free - self.seek(0, io.SEEK_END)
        if room <= 0:
            raise OSError(self.code, "No space left on device")
        return super().write(data[:room])


def quiet():
    return Console(file=io.StringIO(), force_terminal=False, width=80)


def metrics(step):
    return {"reward": step / 10, "reward/format": 0.5, "reward/accuracy": step / 10 - 0.5, "kl": 0.01, "completion_length": 20 + step, "loss": float("nan")}


def track(run_dir, first, last, resumed_step=0, total=10):
    console = quiet()
    with Tracker(run_dir, total, resumed_step, console, every=4, clock=Clock()) as tracker:
        for step in range(first, last + 1):
            tracker.log(step, metrics(step))
    return console.file.getvalue()


def scalars(run_dir, name):
    events = EventAccumulator(str(run_dir))
    events.Reload()
    return [(event.step, round(event.value, 4)) for event in events.Scalars(name)]


def test_a_run_writes_rows_and_events(tmp_path):
    track(tmp_path / "run", 1, 10)
    rows = read_rows(tmp_path / "run/metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert rows[2] == {"step": 3, **metrics(3), "loss": None}
    assert scalars(tmp_path / "run", "reward") == [(step, step / 10) for step in range(1, 11)]


def test_a_row_is_on_the_disk_as_soon_as_it_is_logged(tmp_path):
    with Tracker(tmp_path, 3, console=quiet()) as tracker:
        tracker.log(1, metrics(1))
        assert len(read_rows(tmp_path / "metrics.jsonl")) == 1
        assert scalars(tmp_path, "reward") == [(1, 0.1)]


@pytest.mark.parametrize("torn", [b"", b'{"step": 8, "rew'])
def test_a_resumed_run_leaves_the_file_of_an_uninterrupted_one(tmp_path, torn):
    track(tmp_path / "whole", 1, 10)
    track(tmp_path / "cut", 1, 7)  # the last checkpoint was at step 4
    with (tmp_path / "cut/metrics.jsonl").open("ab") as file:
        file.write(torn)
    track(tmp_path / "cut", 5, 10, resumed_step=4)
    assert (tmp_path / "cut/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()
    assert scalars(tmp_path / "cut", "kl") == scalars(tmp_path / "whole", "kl")


def test_a_torn_row_within_the_resumed_steps_is_dropped_too(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2')
    assert read_rows(path) == [{"step": 1}]  # what decides whether a run is over, and which checkpoint is the best, is asked before it is mended
    JsonLines(path, resumed_step=2).close()
    assert path.read_text() == '{"step": 1}\n'


def test_a_new_run_starts_empty(tmp_path):
    track(tmp_path, 1, 3)
    track(tmp_path, 1, 2)
    assert len(read_rows(tmp_path / "metrics.jsonl")) == 2


@pytest.mark.parametrize("line", ["garbage", "[]", "{}", "7"])
def test_a_foreign_file_is_not_cut(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    before = path.read_bytes()
    with pytest.raises(RunError, match="metrics.jsonl.* at byte 12; mend it"):
        Tracker(tmp_path, 5, resumed_step=3, console=quiet())
    assert path.read_bytes() == before


# ---------------------------------------------------------------- what is shown


def test_without_a_terminal_there_is_a_line_every_few_steps(tmp_path):
    lines = track(tmp_path, 1, 10).splitlines()
    assert [line.split(" · ")[0] for line in lines] == ["step 1/10", "step 4/10", "step 8/10", "step 10/10"]
    assert lines[1] == "step 4/10 · 0:06 left · reward 0.400 (format 0.500, accuracy -0.100) · kl 0.0100 · 24 tokens"


def test_a_skipped_step_has_a_line_of_its_own(tmp_path):
    """Steps 1, 4 and the last are due; the second one moved nothing, and the count stays."""
    console = quiet()
    with Tracker(tmp_path, 5, 0, console, every=4, clock=Clock()) as tracker:
        for step, skipped in enumerate((0, 1, 1, 1, 2), 1):
            tracker.log(step, {"loss": float("nan"), "skipped_steps": skipped})
    assert [line.partition(" · ")[::2] for line in console.file.getvalue().splitlines()] == [
        ("step 1/5", "0:04 left"), ("step 2/5", "0:03 left · 1 step skipped, not finite"), ("step 4/5", "0:01 left · 1 step skipped, not finite"),
        ("step 5/5", "0:00 left · 2 steps skipped, not finite"),
    ]  # fmt: skip
    assert [row["skipped_steps"] for row in read_rows(tmp_path / "metrics.jsonl")] == [0, 1, 1, 1, 2]


def test_time_left_counts_only_the_steps_since_the_resumption(tmp_path):
    track(tmp_path, 1, 4)
    lines = track(tmp_path, 5, 10, resumed_step=4).splitlines()
    assert lines[0].startswith("step 5/10 · 0:05 left")  # one step took one second, five are to come


def test_on_a_terminal_there_is_a_bar_and_no_line(tmp_path):
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    with Tracker(tmp_path, 10, console=console, clock=Clock()) as tracker:
        for step in range(1, 11):
            tracker.log(step, metrics(step))
    shown = console.file.getvalue()
    assert "━" in shown and "step 10/10 · 0:00 left · reward 1.000" in shown
    assert shown.endswith("\x1b[?25h") or "\x1b[?25h" in shown  # the cursor comes back


def test_the_bar_comes_down_when_the_run_fails(tmp_path):
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    with pytest.raises(KeyboardInterrupt), Tracker(tmp_path, 10, console=console) as tracker:
        tracker.log(1, metrics(1))
        raise KeyboardInterrupt
    assert "\x1b[?25h" in console.file.getvalue()
    assert len(read_rows(tmp_path / "metrics.jsonl")) == 1


def test_without_tensorboard_the_run_goes_on_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "medvlm_r1.training.events", None)  # as if its import failed
    shown = track(tmp_path, 1, 2)
    assert "TensorBoard is missing" in shown and "pip install tensorboard" in shown
    assert len(read_rows(tmp_path / "metrics.jsonl")) == 2
    assert not list(tmp_path.glob("events*"))


# ---------------------------------------------------------------- rollouts


def group(name, texts):
    example = Example(name, (), "Which?", ("a", "b"), "a", "mri")
    rollouts = [Rollout(Completion((1, 2), (-0.1, -0.2), text, True), {"format": 1.0, "accuracy": 0.5}) for text in texts]
    return RolloutGroup(Prompt(example, "Which?"), tuple(rollouts))


def test_every_rollout_is_a_row(tmp_path):
    with RolloutLog(tmp_path) as log:
        log.log(1, [group("q1", ["ä\n", "\ud800"]), group("q2", ["c", "d"])], [[0.5, -0.5], [1.0, float("nan")]])
    rows = read_rows(tmp_path / "rollouts.jsonl")
    assert [row["id"] for row in rows] == ["q1", "q1", "q2", "q2"]
    assert rows[0] == {
        "step": 1,
        "id": "q1",
        "completion": "ä\n",
        "rewards": {"format": 1.0, "accuracy": 0.5},
        "reward": 1.5,
        "advantage": 0.5,
        "tokens": 2,
        "finished": True,
    }
    assert rows[3]["advantage"] is None


def test_rows_survive_every_kind_of_line_break(tmp_path):
    text = "a\u2028b\x85c\r\nd"
    with RolloutLog(tmp_path) as log:
        log.log(1, [group("q1", [text])], [[0.0]])
    assert [row["completion"] for row in read_rows(tmp_path / "rollouts.jsonl")] == [text]
    assert read_rows(tmp_path / "no such file") == []


def test_rollouts_resume_like_metrics(tmp_path):
    for first, last, resumed in ((1, 3, 0), (3, 4, 2)):
        with RolloutLog(tmp_path, resumed) as log:
            for step in range(first, last + 1):
                log.log(step, [group("q1", [f"run from {first}", "b"])], [[0.0, 0.0]])
    rows = read_rows(tmp_path / "rollouts.jsonl")
    assert [(row["step"], row["completion"]) for row in rows][::2] == [(1, "run from 1"), (2, "run from 1"), (3, "run from 3"), (4, "run from 3")]


def test_a_missing_advantage_is_an_error_and_writes_nothing(tmp_path):
    with RolloutLog(tmp_path) as log, pytest.raises(ValueError, match="shorter"):
        log.log(1, [group("q1", ["a", "b"])], [[0.0]])
    assert (tmp_path / "rollouts.jsonl").read_bytes() == b""


# ---------------------------------------------------------------- the disk


@pytest.mark.parametrize("free", range(0, 60, 3))
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_whole_rows(tmp_path, free, code):
    path = tmp_path / "rows.jsonl"
    rows = JsonLines(path, opener=lambda p: SmallDisk(p, free, code))
    written = 0
    with pytest.raises(RunError, match="no space left .*rows.jsonl.*free some and go on with --resume"):
        for step in range(1, 20):
            rows.append([{"step": step}, {"step": step}])
            written += 2
    assert len(read_rows(path)) == written


def test_another_fault_of_the_disk_is_named(tmp_path):
    file = AppendFile(tmp_path / "a", opener=lambda p: SmallDisk(p, 0, errno.EIO))
    with pytest.raises(RunError, match="cannot write"):
        file.append(b"x")


def test_a_run_error_passes_through_unchanged(tmp_path):
    with pytest.raises(RunError, match="^first$"), disk_errors(tmp_path):
        raise RunError("first")


def test_a_run_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write .*choose another --run-dir"):
        Tracker(tmp_path / "file" / "run", 5, console=quiet())


def test_closing_twice_is_harmless(tmp_path):
    events, tracker = EventFile(tmp_path), Tracker(tmp_path, 1, console=quiet())
    for thing in (events, tracker):
        thing.close()
        thing.close()
