"""The hard variant: distractors that are answers elsewhere, and never a second truth."""

import pytest

from medvlm_r1.audit.harden import harden, save
from medvlm_r1.audit.prior import chance, text_prior
from medvlm_r1.data.dataset import load_dataset
from medvlm_r1.data.partners import kind
from medvlm_r1.errors import DataError, RunError
from medvlm_r1.types import Example


def question(name, options, answer, kind="finding", modality="mri", image=None):
    return Example(name, (image or f"{name}.png",), "What is it?", tuple(options), answer, modality, kind)


def test_distractors_come_from_the_answers_of_the_same_kind():
    rows = [
        question("a", ["cyst", "chair"], "cyst"),
        question("b", ["abscess", "table"], "abscess"),
        question("c", ["left", "blue"], "left", kind="side"),
        question("d", ["right", "red"], "right", kind="side"),
        question("e", ["mass", "x"], "mass", modality="ct"),
        question("f", ["nodule", "x"], "nodule", modality="ct"),
    ]
    made = harden(rows)
    assert [sorted(e.options) for e in made.examples] == [["abscess", "cyst"]] * 2 + [["left", "right"]] * 2 + [["mass", "nodule"]] * 2
    assert [(e.id, e.answer, e.images) for e in made.examples] == [(e.id, e.answer, e.images) for e in rows]
    assert harden(rows) == made


def test_what_may_be_true_too_is_never_a_distractor():
    rows = [
        question("a", ["CT", "x", "y", "z"], "CT", image="one.png"),
        question("b", ["CT scan.", "x", "y", "z"], "CT scan."),
        question("c", ["Tomogram", "x", "y", "z"], "Tomogram", image="one.png"),
        question("d", ["X-ray", "x", "y", "z"], "X-ray"),
    ]
    found = {e.id: set(e.options) for e in harden(rows).examples}
    assert found["a"] == {"CT", "X-ray"}  # "CT scan" is the same in more words, "Tomogram" is said of the same picture
    assert found["b"] == {"CT scan.", "Tomogram", "X-ray"}
    assert found["d"] == {"X-ray", "CT", "CT scan.", "Tomogram"}


def test_an_answer_is_a_distractor_as_often_as_it_is_an_answer():
    answers = ["cyst"] * 60 + ["abscess"] * 20 + ["mass"] * 100
    made = harden([question(f"{i}", [answer, "x"], answer) for i, answer in enumerate(answers)])
    beside_mass = [option for e in made.examples if e.answer == "mass" for option in e.options if option != "mass"]
    assert len(beside_mass) == 100 and 65 <= beside_mass.count("cyst") <= 85  # 75 wanted: 60 of 80, give or take 4.3


def test_a_kind_with_one_answer_is_left_out_and_free_text_passes():
    lonely, free = question("a", ["MRI", "CT"], "MRI", kind="technique"), question("b", [], "a mass")
    made = harden([lonely, free])
    assert made.left_out == [lonely] and made.examples == [free]


@pytest.mark.parametrize("answers", [("опухоль", "инсульт", "киста"), ("肿瘤", "梗死", "囊肿"), ("Ödem", "Gefäß", "Zyste")])
def test_words_of_any_script_are_words(answers):
    made = harden([question(f"q{n}", list(answers), answers[n % 3]) for n in range(12)])
    assert made.left_out == [] and len(made.examples) == 12


def test_where_no_type_is_stated_the_wording_stands_for_it():
    assert kind(question("a", [], "x", kind="")) == ("mri", "what is it?")


def test_the_text_prior_falls_to_chance():
    """Twelve answers, each beside three distractors that are never right: the texts tell all. Redrawn, they tell next to nothing."""
    easy = [question(f"{i}", [f"gold{i * 7 % 12}", "p", "q", "r"], f"gold{i * 7 % 12}") for i in range(600)]
    hard = harden(easy).examples
    accuracy = {name: text_prior(rows[:400], rows[400:], draws=5)["mri"]["accuracy"] for name, rows in (("easy", easy), ("hard", hard))}
    assert accuracy["easy"] == 1.0
    assert abs(accuracy["hard"] - chance(hard)["mri"]) < 0.08


def test_the_manifest_is_written_once(tmp_path):
    rows = [question("a", ["cyst", "x"], "cyst"), question("b", ["mass", "x"], "mass")]
    save(harden(rows), tmp_path / "hard")
    assert [sorted(e.options) for e in load_dataset(str(tmp_path / "hard"))] == [["cyst", "mass"]] * 2
    with pytest.raises(RunError, match="already holds a manifest"):
        save(harden(rows), tmp_path / "hard")
    with pytest.raises(DataError, match="question_type"):
        save(harden(rows[:1]), tmp_path / "none")
    assert not (tmp_path / "none").exists()
