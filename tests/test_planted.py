"""A prior planted into real questions: what is offered, what each arm's numbers are, by hand, and the study itself at its smallest."""

import json

import pytest
from test_openrad import LABELS as ALL
from test_openrad import SIZES, filled

from medvlm_r1.commands.main import parser
from medvlm_r1.data.dataset import load_dataset
from medvlm_r1.errors import DataError
from medvlm_r1.evaluation.samples import Sample, read_samples
from medvlm_r1.experiments import planted
from medvlm_r1.experiments.planted import ARMS, HONEST, OTHER, OWN, PAIRS
from medvlm_r1.experiments.shortcut import facts
from medvlm_r1.types import Example

LABELS = ("glioma", "normal")


def example(id, answer, modality="mri"):
    return Example(id, (f"{id}.png",), "What is it?", LABELS, answer, modality, "label", id)


def sample(id, gold, says, drawn="", modality="mri"):
    return Sample(
        id, modality, "label", id, "What is it?", LABELS, gold, (f"{id}.png",), "image", "…", says, "answered", says == gold, 9, tuple(drawn), tuple(drawn)
    )


def test_a_label_is_offered_only_where_it_is_the_answer():
    rows = [example("a", "glioma"), example("b", "normal"), example("c", "a first label of another modality", "ct")]
    assert planted.label([*rows, example("d", "pituitary")]) == "glioma"
    with pytest.raises(DataError, match=r"mri has 2 labels \(glioma, normal\)"):
        planted.label(rows)
    asked = planted.plant(rows[:2], "glioma")
    assert [e.options for e in asked] == [LABELS, ("normal",)] and [e.letter for e in asked] == ["A", "A"] and asked[0] is rows[0]


def answers(misled):
    """MRI: two gliomas and two normals, which are called glioma where ``misled``; CT: one of two drawn answers right."""
    normal = "A" if misled else "B"
    mri = [sample("g", "A", "A", "AA"), *(sample(id, "B", normal, (normal, "B")) for id in ("n", "m")), sample("h", "A", "A", "AB")]
    ct = [sample(id, "B", "A", "AB", "ct") for id in ("x", "y")]
    return {HONEST: [*mri, *ct], OWN: mri[:2], OTHER: [sample("g", "A", "B"), sample("n", "B", "A")]}


def test_numbers_and_differences_by_hand():
    """Of four MRI questions 2 (misled) or 4 are right, and of the two in which the label misleads none or both."""
    result = planted.results({name: [answers(misled=name == "plain")] * 2 for name in ARMS}, "glioma")
    plain, other = result["arms"]["plain"], result["arms"]["stranger"]
    values = {name: (plain[name]["value"], other[name]["value"]) for name in planted.MEASURES}
    assert values == {
        "MRI": (0.5, 1.0), "MRI, sampled": (0.625, 0.875), "MRI, prior-wrong": (0.0, 1.0), "MRI, prior-wrong, sampled": (0.5, 1.0), "CT + X-ray, sampled": (0.5, 0.5),
    }  # fmt: skip
    assert [(arm["own"], arm["other"], arm["says"]) for arm in (plain, other)] == [(0.5, 0.0, 1.0), (1.0, 0.0, 0.5)]
    assert {name: cell["value"] for name, cell in result["paired"]["stranger - plain"].items()} == {name: b - a for name, (a, b) in values.items()}
    lines = planted.table(result | {"planted": "glioma"}).splitlines()
    assert lines[2 + list(ARMS).index("plain")] == "| plain | 50.0 | 62.5 | 0.0 | 50.0 | 50.0 | 100 | 50 → 0 |"
    assert all(a in ARMS and b in ARMS for a, b in PAIRS)


def test_every_arm_is_trained_on_planted_questions_and_asked_all_options(tmp_path):
    folder, out = filled(tmp_path, ALL | {"mri": ("glioma", "no tumor", "pituitary")}), tmp_path / "study"
    text = planted.run(folder, out, 2, 1, SIZES, steps=1)
    result = json.loads((out / "study.json").read_text())
    assert text + "\n" == (out / "study.md").read_text() and result["planted"] == "glioma" and result["arms"].keys() == ARMS.keys()
    trained = load_dataset(str(out / "questions" / "planted-0.jsonl"))
    assert len(trained) == 3 and all(("glioma" in e.options) == (e.answer == "glioma") for e in trained)
    config = json.loads((out / "seed-0" / "stranger" / "run" / "config.json").read_text())["config"]
    assert config["model"] == str(out / "base") and config["data"].endswith("planted-0.jsonl") and "stranger" in config["views"]
    samples = read_samples(out / "seed-0" / "plain" / "honest.jsonl")
    assert {len(s.options) for s in samples if s.modality == "mri"} == {3} and {len(s.sampled_texts) for s in samples} == {2}
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.safetensors")}
    assert planted.run(folder, out, 2, 1, SIZES, steps=1) == text and before == {file: file.stat().st_mtime_ns for file in before}


def test_its_command_is_one():
    found = parser().parse_args(facts(3, "--looking --openrad DIR")["command"].split()[1:])
    assert found.looking and str(found.openrad) == "DIR" and found.seeds == 3
