"""The set whose option texts give the answer away, and the table of the study made with it."""

import os
import sys
from collections import defaultdict

from medvlm_r1.audit.prior import text_prior
from medvlm_r1.commands.main import parser
from medvlm_r1.data.phantom import sets
from medvlm_r1.data.phantom.questions import answer_of
from medvlm_r1.experiments import shortcut
from medvlm_r1.preflight.values import check
from medvlm_r1.recipes.named import find

TRAIN, TEST = (sets.load("text-shortcut", split) for split in ("train", "test"))


def test_no_label_is_answer_and_distractor_so_the_texts_alone_answer_everything():
    answers, distractors = defaultdict(set), defaultdict(set)
    for example in TRAIN + TEST:
        answers[example.question_type].add(example.answer)
        distractors[example.question_type] |= set(example.options) - {example.answer}
    assert all(answers[kind] and not answers[kind] & distractors[kind] for kind in answers)
    assert text_prior(TRAIN, TEST)["mri"]["accuracy"] == 1.0
    assert text_prior(sets.load("mri", "train"), sets.load("mri", "test"))["mri"]["accuracy"] < 0.4


def test_the_reversed_set_is_the_same_questions_with_the_halves_exchanged():
    reversed_set, answers = sets.load("text-reversed"), {(e.question_type, e.answer) for e in TRAIN}
    assert not any((e.question_type, e.answer) in answers for e in reversed_set)
    assert all((e.question_type, option) in answers for e in reversed_set for option in e.options if option != e.answer)
    assert text_prior(TRAIN, sets.load("text-reversed", "test"))["mri"]["accuracy"] == 0.0
    example = sets.load("text-reversed", "test")[7]
    assert answer_of(sets.scene_of(example.images[0]), example.question_type) == example.answer


def test_the_picture_answers_everything_too():
    for example in TEST:
        _, split, index = example.images[0].split("/")
        assert answer_of(sets.question("text-shortcut", split, int(index)).scene, example.question_type) == example.answer
    assert {example.modality for example in TEST} == {"mri"}


def test_no_patient_is_in_two_parts_or_in_another_set():
    groups = [{e.group for e in part} for part in (TRAIN, TEST, *(sets.load(name) for name in ("mri", "ct", "xray", "text-reversed")))]
    assert sum(map(len, groups)) == len(set().union(*groups))


def test_the_table_has_means_over_seeds_and_every_verdict():
    def model(right, blank, level):
        return {"arms": {"image": {"accuracy": right}, "blank": {"accuracy": blank}}, "looking": {"level": level}}

    seeds = [{"t": {"a": model(0.8, 0.3, "looks")}}, {"t": {"a": model(0.9, 0.6, "leans on the text")}}]
    lines = shortcut.table({"tests": {"t": "phantom:t"}, "arms": ["image", "blank"], "models": {"a": "Model A"}, "seeds": seeds}).splitlines()
    assert lines[0] == "| asked phantom:t | image | blank | verdict |"
    assert lines[-1] == "| Model A | 85.0 | 45.0 | looks, leans on the text |"


def test_the_study_says_how_it_was_made():
    found = shortcut.facts(3)
    assert found.keys() == {"date", "command", "hardware", "versions"}
    arguments = parser().parse_args(found["command"].split()[1:])
    assert (arguments.command, arguments.shortcut, arguments.seeds) == ("study", True, 3)
    assert found["hardware"].startswith(f"{os.cpu_count()} CPU cores, ")
    assert all(sys.modules[name].__version__.startswith(found["versions"][name].split("+")[0]) for name in ("torch", "transformers"))


def test_every_pupil_has_a_recipe_and_only_the_blind_one_sees_grey():
    for pupil in shortcut.PUPILS.values():
        if pupil.kind:
            check(find("nano", pupil.kind))
    assert [name for name, pupil in shortcut.PUPILS.items() if pupil.view != "image"] == ["blind-sft"]
