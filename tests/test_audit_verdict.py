"""The words of the verdict: each finding says its sentence, at its threshold and not below."""

import pytest

from medvlm_r1.audit.checks import AuditConfig, audit
from medvlm_r1.audit.verdict import grade, verdict
from medvlm_r1.types import Example


def report(**changes):
    """An audit of 100 CT questions that found nothing, with some parts replaced."""
    cell = {"accuracy": 0.25, "accuracy_first_of_ties": 0.25, "ci95": [0.2, 0.3], "train": 600, "draws": 20}
    return {
        "chance": {"ct": 0.25},
        "text_prior": {"ct": cell},
        "within": {"ct": cell},
        "positions": {"ct": {"accuracy": 0.3, "best": "C", "p": 0.001}},
        "cues": {"ct": {"longest": 0.3, "shortest": 0.2, "full_stop": 0.25}},
        "never_gold": {"ct": {"questions": 49, "of": 100}},
        "balance": {"ct": {"share": 0.4, "commonest": "no"}},
        "leaks": {"path_names_answer": {"questions": 1, "of": 100}},
        "groups_cut": [],
        "duplicates": {
            "pictures": 100, "hashed": 100, "shared_references": 0, "skipped": {"missing": 0},
            "within": {"exact": 0, "near": 0, "near_by_modality": {}}, "across": {"exact": 0, "near": 0, "near_by_modality": {}},
        },
    } | changes  # fmt: skip


def prior(accuracy, low):
    return {"ct": {"accuracy": accuracy, "ci95": [low, 1.0]}}


def test_a_clean_set_gets_one_calm_sentence():
    assert verdict(report()) == ["The option texts alone do not tell the answer in CT (25.0 %, chance 25.0 %)."]


DUPLICATES = report()["duplicates"]
FINDINGS = {
    "text decides": ({"text_prior": prior(0.625, 0.6)}, "In CT, 62.5 % of the questions can be answered from the option texts alone, chance is 25.0 %: accuracy on this set does not show that a model looks at the image."),
    "text helps": ({"text_prior": prior(0.62, 0.6)}, "In CT, the option texts alone reach 62.0 %, chance is 25.0 %: only what a model gains over the texts, not over chance, can come from the image."),
    "own questions decide": ({"within": prior(0.9, 0.8)}, "Learnt from other questions of the same modality, the option texts alone reach 90.0 % in CT: do not train on such questions and test here."),
    "twins across": ({"duplicates": DUPLICATES | {"across": {"exact": 2, "near": 5, "near_by_modality": {"ct": 5}}}}, "5 of the 100 pictures (5.0 %; 5 CT) have a twin in the training set, 2 of them pixel for pixel: an accuracy on them measures memory."),
    "names across": ({"duplicates": DUPLICATES | {"shared_references": 3}}, "The training set shows 3 of the 100 pictures too: an accuracy on them measures memory."),
    "groups": ({"groups_cut": ["p1", "p2", "p3", "p4"]}, "The split cuts 4 groups (p1, p2, p3 …): the same patient or document stands on both sides."),
    "twins within": ({"duplicates": DUPLICATES | {"within": {"exact": 0, "near": 1, "near_by_modality": {"ct": 1}}}}, "1 of the 100 pictures (1.0 %; 1 CT) have a twin in another group of this set: its questions are fewer than they seem, and intervals too narrow."),
    "letter": ({"positions": {"ct": {"accuracy": 0.31, "best": "C", "p": 0.001}}}, "One and the same letter earns 31.0 % in CT (always C): shuffle the options."),
    "cue": ({"cues": {"ct": {"longest": 0.36, "shortest": 0.2, "full_stop": 0.25}}}, "Always choosing the longest option earns 36.0 % in CT."),
    "never gold": ({"never_gold": {"ct": {"questions": 50, "of": 100}}}, "In 50 of 100 CT questions no distractor is ever an answer: knowing the list of answers is enough; medvlm-r1 data harden draws others."),
    "commonest": ({"balance": {"ct": {"share": 0.46, "commonest": "no"}}}, 'The commonest answer alone earns 46.0 % in CT ("no").'),
    "leak": ({"leaks": {"path_names_answer": {"questions": 2, "of": 100}}}, "2 of 100 questions have the answer in the picture's folder or file name; keep paths from the model."),
    "unseen": ({"duplicates": DUPLICATES | {"skipped": {"missing": 3, "drawn": 97}}}, "Not looked at for duplicates: 3 of 100 pictures missing and 97 of 100 pictures drawn when asked for (--images all looks at them)."),
}  # fmt: skip


@pytest.mark.parametrize("case", FINDINGS)
def test_each_finding_says_its_sentence(case):
    changes, sentence = FINDINGS[case]
    found = verdict(report(**changes))
    assert sentence in found and len(found) <= 2


def test_a_letter_that_is_ahead_by_accident_is_no_finding():
    assert len(verdict(report(positions={"ct": {"accuracy": 0.4, "best": "C", "p": 0.02}}))) == 1


def test_the_gravest_comes_first():
    changes = [FINDINGS[case][0] for case in ("letter", "groups", "text decides")]
    found = verdict(report(**{key: value for change in changes for key, value in change.items()}))
    assert [sentence.split()[0] for sentence in found] == ["In", "The", "One"]


def test_chance_inside_the_interval_is_no_help():
    assert grade(0.35, low=0.24, chance=0.25) == "nothing" and grade(0.35, low=0.26, chance=0.25) == "helps"


def test_a_set_without_options_is_audited_for_the_rest():
    rows = [Example(f"q{i}", (), "What is it?", (), "a mass", "mri") for i in range(5)]
    found = audit(rows, None, AuditConfig())
    assert found["chance"] == found["text_prior"] == {}
    assert found["verdict"] == (
        'The commonest answer alone earns 100.0 % in MRI ("a mass"). '
        "5 of 5 questions have a wording that always goes with the same answer, so the question alone decides."
    )
