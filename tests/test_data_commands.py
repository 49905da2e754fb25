"""``medvlm-r1 data`` from the command line: what it prints, what it refuses."""

import json
import shlex

import pytest
from PIL import Image

from medvlm_r1.commands import data as data_commands
from medvlm_r1.commands import main as cli
from medvlm_r1.data.dataset import load_dataset
from medvlm_r1.data.probe import PROBES
from medvlm_r1.data.readers import CORPORA


@pytest.fixture
def command(capsys):
    """Runs one command in this process: (exit code, stdout, stderr)."""

    def run(*words):
        try:
            code = cli.main(["data", *map(str, words)])
        except SystemExit as stop:  # argparse
            code = stop.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def scans(tmp_path):
    """Ten pictures of each of two labels, one of them broken."""
    for n in range(20):
        path = tmp_path / "scans/ct" / ("cyst" if n % 2 else "normal") / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8 + n, 6), n).save(path)
    path.write_bytes(b"no picture")
    return tmp_path / "scans"


def test_a_folder_of_scans_from_convert_to_split(command, scans, tmp_path):
    code, out, err = command("convert", "image-folder", scans, tmp_path / "set")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"19 questions from 20 rows, 1 rejected: {tmp_path}/set/manifest.jsonl",
        "rejected                   1  image broken",
        "modality                  19  ct",
        "split                     19  (none)",
        "question type             19  label",
        "options                   19  2",
        f"each by id in {tmp_path}/set/rejected.jsonl",
    ]
    code, out, _ = command("inspect", tmp_path / "set")
    assert code == 0 and "19 read, 0 missing or broken" in out and "width 8 to 26 px, median 17, height 6 to 6 px" in out
    code, out, _ = command("split", tmp_path / "set", tmp_path / "parts", "--test", "0.25")
    assert code == 0 and "train       14 questions" in out and "test         5 questions" in out
    assert len(load_dataset(f"{tmp_path / 'parts'}?split=test")) == 5


def test_json_is_for_machines(command, scans, tmp_path):
    report = json.loads(command("convert", "image-folder", scans, tmp_path / "set", "--json")[1])
    assert report == json.loads((tmp_path / "set/report.json").read_text())
    assert (report["questions"], report["rejected"], report["from"]) == (19, {"image broken": 1}, "scans")
    found = json.loads(command("inspect", tmp_path / "set", "--json")[1])
    assert found["image_sizes"] == {"read": 19, "failed": 0, "width": [8, 17, 26], "height": [6, 6, 6]}
    parts = json.loads(command("split", tmp_path / "set", tmp_path / "parts", "--json")[1])
    assert set(parts["train"]) == {"questions", "modality", "groups", "ids_sha256", "content_sha256"}


def test_pictures_that_went_missing_are_counted(command, scans, tmp_path):
    command("convert", "image-folder", scans, tmp_path / "set")
    (scans / "ct/normal/0.png").unlink()
    (scans / "ct/normal/2.png").write_bytes(b"")
    assert "17 read, 2 missing or broken" in command("inspect", tmp_path / "set")[1]


def test_a_drawn_set_can_be_inspected(command):
    found = json.loads(command("inspect", "phantom:ct?split=test", "--json")[1])
    assert (found["questions"], found["split"], found["image_sizes"]["width"]) == (300, {"test": 300}, [224, 224, 224])


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["ACTION"]),
        (["convert", "slaek", "a", "b"], ["slaek", "choose from", "slake"]),
        (["convert", "slake", "nowhere", "out"], ["nowhere", "train.json"]),
        (["split", "nowhere", "out"], ["nowhere", "does not exist"]),
        (["split", "phantom:mri", "out", "--test", "1.5"], ["1.5", "between 0 and 1"]),
        (["split", "phantom:mri", "out", "--paper"], ["0 mri, 0 ct, 0 xray", "--test-set"]),
        (["split", "phantom:mri", "out", "--test-set", "t.json"], ["t.json", "add --paper"]),
        (["split", "phantom:mri", "out", "--paper", "--test-set", "gone.json"], ["gone.json"]),
    ],
)
def test_wrong_usage_costs_one_sentence(command, tmp_path, monkeypatch, words, parts):
    monkeypatch.chdir(tmp_path)
    code, out, err = command(*words)
    assert (code, out) == (2, "") and len(err.strip().splitlines()) == 1
    assert all(part in err for part in parts), err
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(command, scans, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = command("convert", "image-folder", scans, tmp_path / "file/out")
    assert code == 2 and f"{tmp_path}/file" in err and "choose another OUT" in err


def test_the_parser_knows_the_corpora_without_importing_them():
    assert (tuple(CORPORA), tuple(PROBES)) == (data_commands.CORPORA, data_commands.CHECKS)


@pytest.mark.parametrize("name", ["convert", "inspect", "split"])
def test_every_command_explains_itself(command, name):
    code, out, _ = command(name, "--help")
    assert code == 0 and f"examples:\n  medvlm-r1 data {name}" in out and "Research use only" in out


@pytest.mark.parametrize("line", [line.strip() for text in data_commands.EXAMPLES.values() for line in text.splitlines()[1:]])
def test_the_examples_are_commands_that_exist(line):
    words = shlex.split(line.split("   ")[0])
    assert words[:2] == ["medvlm-r1", "data"] and cli.parser().parse_args(words[1:]).action == words[2]


def test_the_questions_that_the_texts_mislead_in(command, tmp_path):
    """Where the shortcut is turned round it misleads in all; on its own questions in none."""
    words = ("--train", "phantom:text-shortcut?split=train")
    code, out, err = command("prior-wrong", "phantom:text-reversed?split=test", tmp_path / "misled", *words)
    assert (code, err) == (0, "") and out.startswith(f"300 of 300 questions: {tmp_path}/misled/manifest.jsonl\n")
    assert len(load_dataset(str(tmp_path / "misled"))) == 300
    code, _, err = command("prior-wrong", "phantom:text-shortcut?split=test", tmp_path / "none", *words)
    assert code == 2 and "mislead in no question" in err and not (tmp_path / "none").exists()
    code, _, err = command("prior-wrong", "phantom:text-reversed?split=test", tmp_path / "misled", *words)
    assert code == 2 and "already holds a manifest" in err
