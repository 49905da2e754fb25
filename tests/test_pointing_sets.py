"""The sets that ask where on the screen the lesion lies: true, balanced, apart, and telling nothing by their text."""

from collections import Counter

import pytest

from medvlm_r1.audit.prior import chance, text_prior
from medvlm_r1.data.phantom import place, sets
from medvlm_r1.data.phantom.questions import MODALITIES, PLACES, reasoning


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_texts_of_a_pointing_set_tell_nothing(modality):
    """Chance is 25 %; 300 test questions leave a standard error of 2.5 points."""
    train, test = (sets.load(f"pointing-{modality}", split) for split in ("train", "test"))
    assert (len(train), len(test), chance(test)) == (600, 300, {modality: 0.25})
    assert abs(text_prior(train, test, draws=5, train_size=600)[modality]["accuracy"] - 0.25) < 0.06
    asked = Counter(e.answer for e in train + test)
    assert set(asked) == set(PLACES[modality]) and min(asked.values()) > 0.75 * 900 / len(asked)
    assert all(e.question_type == "place" and "screen" in e.question and "patient" in e.question for e in train + test)


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_picture_shows_the_lesion_in_the_gold_cell(modality):
    for split, index in (("train", 1), ("train", 599), ("test", 7)):
        asked = sets.question(f"pointing-{modality}", split, index)
        assert place.place_of(asked.scene) == asked.answer in asked.options
        assert reasoning(asked).endswith(f"On screen: {asked.answer}. Hence {asked.answer}.")


def test_the_draw_that_is_kept_is_the_first_that_fits():
    kept = sets.kept_draws()["pointing-ct", "train"]
    few = [n for n in range(40) if kept[n] < 6][:3]
    assert [sets.find_draw("pointing-ct", "train", n) for n in few] == [kept[n] for n in few]


def test_no_patient_of_a_pointing_set_is_in_another():
    """Two questions share a patient; the other sets' patients have numbers below 50,000, and in test below 150,000."""
    groups = [{e.group for e in sets.load(f"pointing-{modality}", split)} for modality in MODALITIES for split in sets.SIZES]
    assert [len(group) for group in groups] == 3 * [300, 150] and sum(map(len, groups)) == len(set.union(*groups))
    assert all(int(patient.rpartition("-")[2]) % 100_000 >= 50_000 for group in groups for patient in group)
    assert max(patient % 100_000 for patient in (sets.question(name, "test", 299).scene.patient for name in ("mri", "ct", "xray", "text-reversed"))) < 50_000
