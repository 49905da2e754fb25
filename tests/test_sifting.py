"""Questions that cannot be put are left out of a training one by one, as far as few of them are."""

import json
import shutil
import struct
import zlib

import hub_model
import pytest
from conftest import SMALL, train
from PIL import Image

from medvlm_r1.errors import ConfigError, DataError, ImageError, RunError
from medvlm_r1.preflight.sifting import Lost, keep, openable, require_enough, sift
from medvlm_r1.types import Example

SFT = ("template=direct", "steps=8", "prompts_per_step=4", "optim.lr=1e-3", "dtype=float32", "max_pixels=3136", "save_every=100")


@pytest.fixture
def data(tmp_path):
    """Twenty questions, each about a picture of its own, one of which is of a thread."""
    for n in range(20):
        Image.effect_noise((60, 60), 20 + 5 * n).save(tmp_path / f"{n}.png")
    rows = [hub_model.question(f"q{n}", [f"{n}.png"], ("axial", "coronal")[n % 2]) for n in range(20)]
    return write(tmp_path / "questions.jsonl", rows)


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def words(command, model, data, run_dir, *more):
    return [
        command,
        "paper",
        "--model",
        model,
        "--data",
        data,
        *(w for v in (SMALL if command == "train" else SFT) for w in ("--set", v)),
        "--run-dir",
        run_dir,
        *more,
    ]


def ask(name, *images):
    return Example(name, images, "Which?", ("a", "b"), "a", "ct")


# ---------------------------------------------------------------- one by one


def test_each_is_tried_and_only_what_is_wrong_with_a_question_is_caught():
    def check(example):
        if example.id in ("q1", "q3"):
            raise (DataError if example.id == "q1" else ImageError)("it is broken")

    kept, lost = sift([ask(f"q{n}") for n in range(5)], check)
    assert [e.id for e in kept] == ["q0", "q2", "q4"]
    assert lost == [Lost("q1", 'question "q1": it is broken'), Lost("q3", 'question "q3": it is broken')]

    def wrong_template(example):
        raise ConfigError("unknown template")

    with pytest.raises(ConfigError):
        sift([ask("q1")], wrong_template)


def test_a_picture_is_opened_once_and_costs_every_question_that_shows_it(tmp_path, monkeypatch):
    from medvlm_r1.preflight import sifting

    opened = []

    def load(reference):
        opened.append(reference)
        if reference == "bad":
            raise ImageError("it is broken")

    monkeypatch.setattr(sifting, "load_image", load)
    kept, lost = openable([ask("q1", "good"), ask("q2", "good", "bad"), ask("q3", "bad"), ask("q4", "good")])
    assert [e.id for e in kept] == ["q1", "q4"] and [question.id for question in lost] == ["q2", "q3"] and opened == ["good", "bad"]


@pytest.mark.parametrize(
    ("lost", "total", "is_enough"), [(0, 1, True), (1, 10, True), (2, 19, False), (2, 20, True), (3, 20, False), (1, 1, False), (0, 0, True)]
)
def test_a_tenth_may_be_lost(lost, total, is_enough):
    questions = [Lost(f"q{n}", f'question "q{n}": gone') for n in range(lost)]
    if is_enough:
        require_enough(questions, total)
    else:
        with pytest.raises(DataError, match=f'{lost} of {total} questions.*question "q0": gone'):
            require_enough(questions, total)


def test_a_run_goes_on_with_the_questions_that_it_began_with(tmp_path):
    lost = [Lost("q2", "gone \ud83d"), Lost("q3", "gone")]
    keep(tmp_path, lost, fresh=True)
    assert [json.loads(line)["id"] for line in (tmp_path / "left_out.jsonl").read_text().splitlines()] == ["q2", "q3"]
    keep(tmp_path, lost[::-1], fresh=False)
    for now, says in (([lost[0]], '"q3" can be used again'), ([*lost, Lost("q4", "gone")], '"q4" cannot be used any more')):
        with pytest.raises(RunError, match=says):
            keep(tmp_path, now, fresh=False)
    keep(tmp_path, [], fresh=True)
    assert not (tmp_path / "left_out.jsonl").exists()


# ---------------------------------------------------------------- a training


@pytest.mark.parametrize("kind", ["train", "sft"])
def test_a_training_leaves_out_what_cannot_be_put_and_goes_on(hub_dir, data, tmp_path, command, kind):
    """A picture that is missing shows before the model is there, a question beyond the context after. The run is that of a file without the two."""
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    clean = write(tmp_path / "clean.jsonl", [row for row in rows if row["id"] not in ("q3", "q7")])
    rows[7]["question"] *= 9000
    write(data, rows)
    (tmp_path / "3.png").rename(tmp_path / "away.png")
    code, _, err = command(*words(kind, hub_dir, data, tmp_path / "run"))
    assert code == 0 and err.count("left out: 2 of 20 questions, the first: ") == 1
    assert 'left out: 2 of 20 questions, the first: question "q3": image' in err and "is missing" in err
    assert [json.loads(line)["id"] for line in (tmp_path / "run" / "left_out.jsonl").read_text().splitlines()] == ["q3", "q7"]
    assert command(*words(kind, hub_dir, clean, tmp_path / "same"))[0] == 0 and not (tmp_path / "same" / "left_out.jsonl").exists()
    last = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1].name
    ours, theirs = ((tmp_path / name / "checkpoints" / last / "model.safetensors").read_bytes() for name in ("run", "same"))
    assert ours == theirs
    (tmp_path / "away.png").rename(tmp_path / "3.png")
    code, _, err = command(*words(kind, hub_dir, data, tmp_path / "run", "--resume"))
    assert code == 2 and f'{tmp_path}/run began with other questions: "q3" can be used again; restore it as it was, or start anew' in err


def test_where_many_cannot_be_put_nothing_is_trained(refused, hub_dir, data, tmp_path):
    for n in (2, 5, 11):
        (tmp_path / f"{n}.png").write_bytes(b"no picture")
    refused(train(hub_dir, data, tmp_path / "run"), '3 of 20 questions, the first: question "q2": image', "is not an image")
    assert not (tmp_path / "run").exists()


def test_where_the_model_can_take_few_of_them_the_budget_is_named(refused, hub_dir, data, tmp_path):
    model = shutil.copytree(hub_dir, tmp_path / "model")
    config = json.loads((model / "config.json").read_text()) | {"max_position_embeddings": 120}
    (model / "config.json").write_text(json.dumps(config))
    for n in range(20):
        Image.effect_noise((280, 280), 20 + 5 * n).save(tmp_path / f"{n}.png")
    small = (*(value for value in SMALL if not value.startswith("max_pixels")), "max_pixels=78400")
    refused(train(model, data, tmp_path / "run", values=small), "20 of 20 questions", "the model reads 120 in all", "--set max_pixels=")


def test_a_broken_picture_of_the_test_set_is_no_obstacle_to_telling_the_parts_apart(hub_dir, data, tmp_path, command):
    """Its pixels are like nobody's; by file and by group it is still held against the training."""
    (tmp_path / "broken.png").write_bytes(b"no picture")
    test = write(tmp_path / "test.jsonl", [hub_model.question("t1", ["broken.png"], "axial")])
    assert command(*words("sft", hub_dir, data, tmp_path / "run", "--set", f"test={test}"))[0] == 0
    write(test, [hub_model.question("t1", ["broken.png"], "axial"), hub_model.question("t2", ["7.png"], "axial")])
    code, _, err = command(*words("sft", hub_dir, data, tmp_path / "other", "--set", f"test={test}"))
    assert code == 2 and '"q7" and the test question "t2" have the file' in err


# ---------------------------------------------------------------- looking at the questions


def too_large(file):
    """A picture of 400 megapixels, one bit each, in 49 kB: more than Pillow opens."""
    parts = {b"IHDR": struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0), b"IDAT": zlib.compress(bytes(20_000 * 2501), 9), b"IEND": b""}
    chunks = (struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts.items())
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


@pytest.fixture
def broken(data, tmp_path):
    """A picture that is missing, one that is none, one cut off, one of a thread, one of 400 megapixels."""
    too_large(tmp_path / "5.png")
    (tmp_path / "1.png").unlink()
    (tmp_path / "2.png").write_bytes(b"no picture")
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:200])
    Image.new("L", (1, 300)).save(tmp_path / "4.png")
    return data


def test_inspect_counts_them_and_goes_on(broken, command):
    code, out, _ = command("data", "inspect", broken, "--json")
    sizes = json.loads(out)["image_sizes"]
    assert code == 0 and sizes["read"] + sizes["failed"] == 20 and sizes["failed"] >= 3


def test_audit_counts_them_and_goes_on(broken, command):
    code, out, _ = command("audit", "--data", broken, "--draws", "1", "--json")
    found = json.loads(out)["duplicates"]
    assert code == 0 and (found["skipped"]["missing"], found["skipped"]["unreadable"], found["hashed"]) == (1, 3, 16)


def test_convert_rejects_it_and_goes_on(tmp_path, command):
    for label in ("left", "right"):
        (tmp_path / "scans" / label).mkdir(parents=True)
        Image.effect_noise((60, 60), 50).save(tmp_path / "scans" / label / f"{label}.png")
    too_large(tmp_path / "scans" / "left" / "huge.png")
    code, _, err = command("data", "convert", "image-folder", tmp_path / "scans", tmp_path / "out")
    assert code == 0, err
    assert "too large" in (tmp_path / "out" / "rejected.jsonl").read_text() and len((tmp_path / "out" / "manifest.jsonl").read_text().splitlines()) == 2
