"""`medvlm-r1 audit` and `data harden` from the command line, and the page."""

import json
import re

import pytest
from PIL import Image

from medvlm_r1.audit.checks import sides
from medvlm_r1.commands import main as cli
from medvlm_r1.report import charts


@pytest.fixture
def questions(tmp_path):
    """40 MRI training and 20 test questions whose text tells the answer, one picture on both sides, one torn, an evil id."""
    rows = []
    for i in range(60):
        name = f"{i}.png"
        Image.effect_noise((40, 40), 90).save(tmp_path / name)
        split = "train" if i < 40 else "test"
        rows.append({"id": f"q{i}", "image": [name], "question": "What is it?", "options": ["cyst", "<b>chair</b>"], "answer": "cyst",
                     "modality": "mri", "question_type": "finding", "group": f"p{i}", "split": split})  # fmt: skip
    (tmp_path / "50.png").write_bytes((tmp_path / "3.png").read_bytes())
    (tmp_path / "51.png").write_bytes(b"torn <script>")
    rows[52]["group"] = "p4"
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def command(capsys):
    def run(*words):
        code = cli.main([str(word) for word in words])
        return code, *capsys.readouterr()

    return run


def test_the_json_has_the_promised_keys(command, questions):
    code, out, _ = command("audit", "--data", questions, "--train-size", 30, "--draws", 3, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["chance"] == {"mri": 0.5}
    cell = found["text_prior"]["mri"]
    assert cell | {"ci95": None} == {"accuracy": 1.0, "accuracy_first_of_ties": 1.0, "ci95": None, "train": 30, "draws": 3}
    assert found["groups_cut"] == ["p4"]
    assert found["questions"] == 20 and found["train"] == f"{questions}, split=train"
    assert found["duplicates"]["across"]["exact"] == found["duplicates"]["skipped"]["unreadable"] == 1
    assert found["verdict"].startswith("In MRI, 100.0 % of the questions can be answered from the option texts alone, chance is 50.0 %")


def test_the_terminal_shows_the_verdict_and_a_table(command, questions):
    code, out, _ = command("audit", "--data", f"{questions}?split=test", "--images", "none")
    assert code == 0
    assert out.startswith("- In MRI, 100.0 %") and "training set" not in out
    assert re.search(r"MRI +50\.0 +100\.0 +83\.9–100\.0", out)


def test_the_page_stands_alone_and_shows_pairs(command, questions, tmp_path):
    page = tmp_path / "new" / "audit.html"
    code, out, _ = command("audit", "--data", f"{questions}?split=test", "--train", f"{questions}?split=train", "--html", page)
    text = page.read_text()
    assert code == 0 and f"report: {page}" in out
    assert not re.search(r'(src|href)="(?!data:|#)', text) and "<b>chair" not in text and "&lt;b&gt;chair" in text
    assert text.count("<img ") == 2 and "the same pixels" in text
    assert text.index("does not show that a model looks at the image") < text.index("<svg") < text.index('id="checks"')


def test_the_train_part_of_a_set_is_what_the_rest_is_held_against(questions):
    examples, train, _names = sides(str(questions), None)
    assert ({e.split for e in examples}, {e.split for e in train}) == ({"test"}, {"train"})
    assert sides(f"{questions}?split=train", None)[1] is None
    assert sides("phantom:mri?split=test", "phantom:ct")[2] == {"data": "phantom:mri?split=test", "train": "phantom:ct"}


def test_a_page_that_cannot_be_written_is_said_before_the_work(command, questions, tmp_path):
    (tmp_path / "file").write_text("")
    code, out, err = command("audit", "--data", questions, "--html", tmp_path / "file" / "audit.html")
    assert code == 2 and out == "" and "--html" in err and err.startswith("medvlm-r1: ")


def test_a_set_audited_against_itself_is_refused(command, questions):
    code, _, err = command("audit", "--data", questions, "--train", questions, "--images", "none")
    assert code == 2 and "--train" in err


def test_a_set_whose_training_shows_every_audited_picture_is_reported(command, tmp_path):
    """The worst leak there is; nobody named a training set that could be left out."""
    rows = [
        {"image": f"phantom:mri/test/{n % 4}", "question": "Which side?", "options": ["left", "right"], "answer": "left", "modality": "mri"} for n in range(8)
    ]
    rows = [row | {"id": f"q{n}", "group": row["image"], "split": "train" if n < 4 else "test"} for n, row in enumerate(rows)]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, _ = command("audit", "--data", tmp_path / "set.jsonl", "--images", "none", "--json")
    assert code == 0 and len(json.loads(out)["groups_cut"]) == 4


def test_the_phantom_is_within_three_points_of_chance(command):
    for modality in ("mri", "ct", "xray"):
        found = json.loads(command("audit", "--data", f"phantom:{modality}", "--json")[1])
        assert abs(found["text_prior"][modality]["accuracy"] - found["chance"][modality]) < 0.03, modality
        assert found["groups_cut"] == []


def test_harden_writes_a_set_that_can_be_audited(command, questions, tmp_path):
    code, out, _ = command("data", "harden", "phantom:mri?split=test", tmp_path / "hard", "--json")
    assert code == 0 and json.loads(out) == {"manifest": str(tmp_path / "hard" / "manifest.jsonl"), "questions": 294, "left_out": json.loads(out)["left_out"]}
    code, out, _ = command("audit", "--data", tmp_path / "hard", "--json")
    assert code == 0 and json.loads(out)["questions"] == 294
    code, out, err = command("data", "harden", questions, tmp_path / "none")
    assert code == 2 and "question_type" in err


# ---------------------------------------------------------------- charts


def test_bars_are_as_long_as_their_values_and_say_them():
    svg = str(charts.bars("CT", [charts.Bar("Chance", 0.25, role="baseline"), charts.Bar("Text prior", 0.6, (0.55, 0.65))], 0.25))
    assert re.findall(r'<rect class="level (\w+)" x="0" y="\d+" width="([\d.]+%)"', svg) == [("baseline", "25.00%"), ("prior", "60.00%")]
    assert 'aria-label="CT, accuracy: Chance 25 %; Text prior 60 %"' in svg
    assert re.search(r'class="whisker" x1="55.00%" x2="65.00%"', svg)


def test_growth_spaces_doublings_evenly():
    svg = str(charts.growth("Prior", {"CT": [(25, 0.5), (50, 0.75), (100, 1.0)]}, {"CT": 0.25}, "questions"))
    frame = charts.Frame
    middle = (frame.LEFT + frame.RIGHT) / 2
    ends = [(float(x), float(y)) for x, y in re.findall(r'class="end run0" cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert ends == [(frame.LEFT, (frame.TOP + frame.BOTTOM) / 2), (middle, frame.TOP + (frame.BOTTOM - frame.TOP) / 4), (frame.RIGHT, frame.TOP)]
    assert charts.growth("Prior", {}, {}, "questions") == ""
