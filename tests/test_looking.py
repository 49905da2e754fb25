"""Whether a model looks at its picture: the rule, and what it says of samples that we made up. Models that try to fool it are asked in test_hostile.py."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from medvlm_r1.evaluation.measuring.looking import LEANS, LOOKS, NOT_SHOWN, NOT_TESTED, UNCLEAR, look
from medvlm_r1.evaluation.samples import Sample


def asked(right, arm="image", n=200, status="answered"):
    """Four options, so chance is 25 %; ``right`` says which questions are right. Another question's picture is one that nobody asked about."""
    return [
        Sample(f"q{i}", ("ct", "mri")[i % 2], "side", "", "Which?", ("a", "b", "c", "d"), "A", (f"{arm if arm == 'mismatch' else ''}{i}.png",), arm, "",
               "A" if right(i) else "B", status, right(i), 1)
        for i in range(n)
    ]  # fmt: skip


def first(share):
    """The same share of both modalities."""
    return lambda i: i // 2 % 50 < 50 * share


def held(**shares):
    return look({arm: asked(first(share), arm) for arm, share in shares.items()})


def test_a_model_that_looks():
    found = held(image=0.8, blank=0.3, mismatch=0.2)
    assert (found.level, found.words) == (LOOKS, "looks: +50.0 points or more")
    assert found.reliance["blank"].difference == pytest.approx(0.5)
    assert found.kept == pytest.approx(0.05 / 0.55)  # of 55 points over chance, 5 are left
    low, high = found.reliance["blank"].ci95
    assert 0.40 < low < 0.45 and 0.55 < high < 0.60  # 0.5 ± 1.97 sqrt(0.25 / 199)
    assert found.modalities.keys() == {"ct", "mri"} and found.modalities["ct"].worth == pytest.approx(0.5)
    assert found.modalities["ct"].line.startswith("CT: looks. +50.0 points (+4") and "100 questions of 100 patients" in found.modalities["ct"].line


def test_a_model_that_is_nearly_always_right_and_never_looks():
    found = held(image=0.98, blank=0.98)
    assert (found.level, found.kept) == (NOT_SHOWN, 1.0)
    low, high = found.modalities["ct"].reliance["blank"].ci95
    assert -high == low == pytest.approx(-3.94 / 103.94, abs=1e-3)  # not (0.0 to 0.0): 100 patients that agree leave t² / (G + t²)
    assert "CT: not shown to look (its own picture makes no clear difference" in found.sentence


def test_a_model_that_the_picture_misleads():
    found = held(image=0.8, blank=0.98)
    assert found.level == NOT_SHOWN and "it is right more often without its own picture" in found.sentence


def test_a_model_that_gains_a_little_from_the_picture_leans_on_the_text():
    found = held(image=0.96, blank=0.8)
    assert (found.level, round(found.kept, 3)) == (LEANS, 0.775)  # 55 of 71 points
    assert "it keeps 77 % (" in found.sentence


def test_another_patients_picture_decides_too():
    assert held(image=0.8, blank=0.3, mismatch=0.4).level == LOOKS
    unsure = held(image=0.8, blank=0.3, mismatch=0.5)  # 25 of 55 points: the interval holds one half
    assert unsure.level == UNCLEAR and unsure.kept_ci95[0] < 0.5 < unsure.kept_ci95[1]
    assert held(image=0.8, blank=0.3, mismatch=0.8).level == NOT_SHOWN  # a picture is needed, but any will do
    assert held(image=0.8, mismatch=0.8).level == NOT_SHOWN


def test_the_most_that_is_kept_without_the_own_picture_counts():
    """As a model that reads option texts does, to which a grey picture is strange."""
    found = held(image=0.96, blank=0.3, mismatch=0.82)
    assert (found.level, found.kept) == (LEANS, pytest.approx(0.57 / 0.71))


def test_noise_is_reported_and_does_not_decide():
    found = held(image=0.8, blank=0.3, noise=0.8)
    assert found.level == UNCLEAR and "it was not asked with another question's picture" in found.sentence
    assert found.reliance.keys() == {"blank", "noise"}
    assert held(image=0.8, noise=0.3).level == NOT_TESTED


def test_without_a_lead_over_chance_there_is_no_sight():
    found = look({"image": asked(lambda i: i % 8 < 2), "blank": asked(first(0.0), "blank")})
    assert (found.level, found.kept) == (NOT_SHOWN, None)
    assert "it is not ahead of chance" in found.sentence


def test_refusing_without_a_picture_is_no_proof_of_sight():
    silent = [replace(s, answer=None, status=("abstained", "truncated")[i % 2], correct=False) for i, s in enumerate(asked(first(0.9), "blank"))]
    found = look({"image": asked(first(0.9)), "blank": silent[:150] + asked(first(0.9), "blank")[150:]})
    assert found.reliance["blank"].answered == 0.25
    assert found.level == NOT_TESTED and "a grey picture is answered in 25 % only, and silence is no proof of sight" in found.sentence


def test_a_model_that_often_refuses_is_held_against_its_own_habit():
    """Of 200 it answers 160, with its picture as without: this says nothing against its sight."""

    def habit(samples):
        return [replace(s, answer=None, status="abstained", correct=False) if i % 5 == 0 else s for i, s in enumerate(samples)]

    without = {arm: habit(asked(first(0.2), arm)) for arm in ("blank", "mismatch")}
    found = look({"image": habit(asked(first(1)))} | without)
    assert (found.level, found.reliance["blank"].answered) == (LOOKS, 0.8)
    assert "silence" not in found.sentence


def test_what_is_kept_depends_on_the_number_of_options_and_moves_with_the_patient():
    shares = {"image": 0.8, "blank": 0.6}
    arms = {
        arm: [replace(s, modality="ct", options=("a", "b")) for s in asked(lambda i, share=share: i % 100 < 100 * share, arm, 1000)]
        for arm, share in shares.items()
    }
    fours = {arm: [replace(s, group=f"p{i // 4}") for i, s in enumerate(part)] for arm, part in arms.items()}
    alone, together = look(arms), look(fours)
    assert alone.kept == together.kept == pytest.approx(0.1 / 0.3)
    width, wide = (found.kept_ci95[1] - found.kept_ci95[0] for found in (alone, together))
    assert wide / width == pytest.approx(2, rel=0.1)  # patients of 4 equal answers: sqrt(4)


def test_answers_that_could_not_be_had_are_no_proof_of_sight():
    dead = [replace(s, answer=None, status="failed", correct=False) for s in asked(first(0.9), "blank")]
    found = look({"image": asked(first(0.9)), "blank": dead, "mismatch": dead})
    assert (found.level, found.reliance) == (NOT_TESTED, {})
    part = look({"image": asked(first(0.6)), "blank": asked(first(0.6), "blank")[:-10] + dead[-10:]})
    assert (part.level, part.reliance["blank"].difference) == (NOT_SHOWN, 0.0)


def test_few_questions_show_nothing_however_they_went():
    for n, why in ((2, "fewer than three patients show nothing"), (10, "with 5 patients no p can fall below 0.0625")):
        found = look({arm: asked(first(share), arm, n) for arm, share in (("image", 1.0), ("blank", 0.0), ("mismatch", 0.0))})
        assert found.level == UNCLEAR and why in found.sentence
    of_one = [[replace(s, group="p1") for s in part] for part in (asked(first(1.0)), asked(first(0.0), "blank"))]
    assert look({"image": of_one[0], "blank": of_one[1]}).level == UNCLEAR


def test_an_arm_that_asked_fewer_questions_is_held_against_the_same_ones_and_does_not_decide():
    image = asked(lambda i: i < 100)  # right on the first half only
    found = look({"image": image, "blank": asked(first(0.5), "blank")[:100]})
    assert found.reliance["blank"].difference == pytest.approx(0.5)
    assert found.level == NOT_TESTED and "could be asked of 50 % of the questions only" in found.sentence


def test_pictures_only():
    found = look({"image": asked(first(0.9)), "hard": asked(first(0.1), "hard")})
    assert (found.level, found.reliance, found.kept) == (NOT_TESTED, {}, None)


def test_an_arm_that_it_was_trained_under_decides_nothing_and_noise_takes_its_place():
    """It lost all with another's picture, which it was taught; with noise it keeps everything."""
    arms = {"image": asked(first(0.8)), "blank": asked(first(0.3), "blank"), "mismatch": asked(first(0.0), "mismatch")}
    alone = look(arms, ["mismatch"])
    assert (look(arms).level, alone.level, alone.trained_under) == (LOOKS, UNCLEAR, ("mismatch",))
    assert "it was not asked with noise" in alone.sentence
    assert alone.sentence.endswith("It was trained with another question's picture, too, which therefore decides nothing.")
    assert look(arms | {"noise": asked(first(0.3), "noise")}, ["mismatch"]).level == LOOKS
    assert look(arms | {"noise": asked(first(0.8), "noise")}, ["mismatch"]).level == NOT_SHOWN


def test_it_goes_into_summary_json():
    row = json.loads(json.dumps(asdict(held(image=0.8, blank=0.3))))
    assert row.keys() == {"level", "sentence", "reliance", "kept", "kept_ci95", "words", "modalities", "unread", "trained_under"}
    assert row["modalities"]["ct"]["reliance"]["blank"].keys() >= {
        "difference",
        "ci95",
        "p",
        "answered",
        "asked",
        "another",
        "kept",
        "n",
        "groups",
        "judged_on",
    }


@pytest.mark.parametrize("refuses", [0.0, 0.08])
def test_blind_models_are_hardly_ever_called_looking(refuses):
    """Blind, by a text prior of its own that changes from arm to arm, silent without its picture or not: in 25 evaluations at most 1 modality of 50; benchmarks/blind.py has more."""
    rng, called = np.random.default_rng(3), 0
    for _ in range(25):
        ease = rng.beta(1, 1.5, 120)
        arms = {}
        for arm in ("image", "blank", "mismatch"):
            right = rng.random(120) < ease
            mute = (rng.random(120) < refuses) & (arm != "image")
            arms[arm] = [
                replace(s, answer=None, status="abstained", correct=False) if off else s
                for s, off in zip(asked(lambda i, right=right: bool(right[i]), arm, 120), mute, strict=True)
            ]
        called += sum(one.level == LOOKS for one in look(arms).modalities.values())
    assert called <= 1
