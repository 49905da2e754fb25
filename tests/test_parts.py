"""Without a word about the split, training leaves the test part alone, and evaluation says what it asks."""

import json
from pathlib import Path

import pytest
from conftest import train
from PIL import Image

from medvlm_r1.data.parts import part_of
from medvlm_r1.errors import DataError
from medvlm_r1.preflight.questions import questions


@pytest.fixture
def manifest(tmp_path):
    """Writes a manifest with one question for each of these splits; None leaves the key out."""
    Image.new("L", (8, 8)).save(tmp_path / "a.png")

    def write(*splits):
        rows = [
            {"id": f"q{n}", "image": "a.png", "question": "Which?", "options": ["left", "right"], "answer": "left", "modality": "ct"}
            | ({"split": split} if split else {})
            for n, split in enumerate(splits)
        ]
        (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / "m.jsonl")

    return write


@pytest.mark.parametrize(
    ("splits", "kept"),
    [
        (("train", "test"), [0]),
        (("test", "train", "val", "train"), [1, 3]),
        (("Training", "TEST", "dev"), [0]),
        (("train", None, "external"), [0]),
        ((None, "test", "validation", None), [0, 3]),  # no train part: all that nothing holds back
        (("fold1", "fold2", "held-out"), [0, 1]),
        ((None, None), [0, 1]),
        (("train", "train"), [0, 1]),
    ],
)
def test_the_train_part_is_trained_on(manifest, capsys, splits, kept):
    examples = questions(manifest(*splits))
    said = capsys.readouterr().err
    assert [e.id for e in examples] == [f"q{n}" for n in kept]
    assert ("left out" in said) == (len(kept) < len(splits)) and len(said.splitlines()) <= 1


def test_it_says_how_many_and_how_to_choose_otherwise(manifest, capsys):
    path = manifest("train", "test", "test", "val")
    questions(f"{path}?modality=ct")
    assert capsys.readouterr().err == (
        f'{path}?modality=ct: only its train part is trained on, 1 of 4 questions; left out: 2 of "test", 1 of "val"; '
        f'to choose otherwise write --data "{path}?modality=ct&split=…"\n'
    )


def test_a_split_that_is_named_is_what_is_trained_on(manifest, capsys):
    path = manifest("train", "test", "val")
    assert [e.id for e in questions(f"{path}?split=test")] == ["q1"]
    assert [e.id for e in questions(f"{path}?split=train&split=val")] == ["q0", "q2"]
    assert capsys.readouterr().err == ""


def test_a_set_of_test_questions_alone_is_refused(manifest):
    path = manifest("test", "test", "val")
    with pytest.raises(DataError, match=r'has nothing to train on: 2 of "test", 1 of "val"; .* write ".*m.jsonl\?split=test" if you mean it'):
        questions(path)


def test_a_picture_that_is_not_trained_on_may_be_missing(manifest, tmp_path):
    path = manifest("train", "test")
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    rows[1]["image"] = "gone.png"
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(questions(path)) == 1


@pytest.mark.parametrize(
    "name", ["test", "Test", "testing", "test_2", "internal_test", "external test", "testset", "eval", "evaluation", "holdout", "hold-out", "held_out"]
)
def test_words_for_the_test_part(name):
    assert part_of(name) == "test"


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Dev", "development"])
def test_words_for_the_validation_part(name):
    assert part_of(name) == "validation"


@pytest.mark.parametrize("name", ["contest", "latest", "device", "value", "constrained", "evaluated"])
def test_words_that_name_no_part(name):
    assert part_of(name) == ""


# ---------------------------------------------------------------- the commands


@pytest.mark.parametrize("kind", ["train", "sft"])
def test_both_trainings_refuse_a_set_of_test_questions_before_a_model_is_loaded(manifest, refused, tmp_path, kind):
    refused([kind, "paper", "--model", "nowhere/at-all", "--data", manifest("test"), "--run-dir", tmp_path / "run"], "has nothing to train on", "?split=test")


def test_a_run_puts_the_train_part_alone(manifest, command, hub_dir, tmp_path):
    path = manifest("test", "train", "test", "train")
    code, _, said = command(*train(hub_dir, path, tmp_path / "run", "--set", "steps=1"))
    rollouts = [json.loads(line) for line in (tmp_path / "run/rollouts.jsonl").read_text().splitlines()]
    assert code == 0 and {row["id"] for row in rollouts} == {"q1", "q3"}
    assert "only its train part is trained on, 2 of 4 questions" in said


def test_an_evaluation_says_that_it_asks_the_train_part_too(manifest, command, serve, tmp_path):
    server = serve((200, {}, {"choices": [{"message": {"content": "<answer>A</answer>"}, "finish_reason": "stop"}]}))
    server.models = (200, {}, {"data": [{"id": "m"}]})
    path = manifest("test", "train", "test")
    words = ["eval", "--model", server.url, "--arms", "image", "--data"]
    assert "1 of 3 questions are of its train part" in command(*words, path, "--out", tmp_path / "all")[2]
    assert "train part" not in command(*words, f"{path}?split=test", "--out", tmp_path / "test")[2]
