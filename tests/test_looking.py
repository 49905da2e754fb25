"""Whether a model looks at its picture: the rule, and what it says of models that we made up."""

import json
from dataclasses import asdict, replace

import pytest

from medvlm_r1.evaluation.measuring.looking import DOUBTS, LEANS, LOOKS, NOT_SHOWN, NOT_TESTED, look
from medvlm_r1.evaluation.samples import Sample


def asked(right, arm="image", n=200, status="answered"):
    """Four options, so chance is 25 %; ``right`` says which questions are right."""
    return [
        Sample(f"q{i}", ("ct", "mri")[i % 2], "side", "", "Which?", ("a", "b", "c", "d"), "A", (f"{i}.png",), arm, "", "A" if right(i) else "B", status, right(i), 1)
        for i in range(n)
    ]  # fmt: skip


def first(share):
    return lambda i: i % 100 < 100 * share


def test_a_model_that_looks():
    found = look({"image": asked(first(0.8)), "blank": asked(first(0.3), "blank"), "mismatch": asked(first(0.2), "mismatch")})
    assert found.level == LOOKS
    assert found.reliance["blank"].difference == pytest.approx(0.5)
    assert found.kept == pytest.approx(0.05 / 0.55)  # of 55 points over chance, 5 are left
    low, high = found.reliance["blank"].ci95
    assert 0.40 < low < 0.45 and 0.55 < high < 0.60  # 0.5 ± 1.96 sqrt(0.25 / 200)
    assert found.sentence.startswith("Its own picture is worth +50.0 points (+4")


def test_a_model_that_is_nearly_always_right_and_never_looks():
    found = look({"image": asked(first(0.99)), "blank": asked(first(0.99), "blank")})
    assert (found.level, found.kept) == (NOT_SHOWN, 1.0)
    assert found.sentence == "Its own picture makes no clear difference: 0.0 points (0.0 to 0.0) over a grey picture."


def test_a_model_that_the_picture_misleads():
    found = look({"image": asked(first(0.8)), "blank": asked(first(0.99), "blank")})
    assert found.level == NOT_SHOWN and found.sentence.startswith("It is right more often without its own picture: −19.0 points")


def test_a_model_that_gains_a_little_from_the_picture_leans_on_the_text():
    found = look({"image": asked(first(0.95)), "blank": asked(first(0.8), "blank")})
    assert (found.level, round(found.kept, 3)) == (LEANS, 0.786)  # 55 of 70 points
    assert "keeps 79 % of its lead over chance" in found.sentence


def test_another_patients_picture_decides_too():
    arms = {"image": asked(first(0.8)), "blank": asked(first(0.3), "blank")}
    assert look(arms | {"mismatch": asked(first(0.4), "mismatch")}).level == LOOKS
    unsure = look(arms | {"mismatch": asked(first(0.5), "mismatch")})  # 25 of 55 points: the interval holds one half
    assert unsure.level == DOUBTS and unsure.kept_ci95[0] < 0.5 < unsure.kept_ci95[1]
    found = look(arms | {"mismatch": asked(first(0.8), "mismatch")})
    assert found.level == NOT_SHOWN  # a picture is needed, but any will do
    assert found.sentence.startswith(
        "Its own picture makes no clear difference: 0.0 points (0.0 to 0.0) over another question's picture. Besides, +50.0 points"
    )
    assert found.sentence.endswith("over a grey picture.")  # what is clear does not stand under "no clear difference"
    assert look({"image": arms["image"], "mismatch": asked(first(0.8), "mismatch")}).level == NOT_SHOWN


def test_the_most_that_is_kept_without_the_own_picture_counts():
    """As a model that reads option texts does, to which a grey picture is strange."""
    found = look({"image": asked(first(0.95)), "blank": asked(first(0.3), "blank"), "mismatch": asked(first(0.85), "mismatch")})
    assert (found.level, found.kept) == (LEANS, pytest.approx(0.6 / 0.7))
    assert found.sentence.startswith("With another question's picture it keeps 86 % of its lead over chance")


def test_noise_is_reported_and_does_not_decide():
    found = look({"image": asked(first(0.8)), "blank": asked(first(0.3), "blank"), "noise": asked(first(0.8), "noise")})
    assert found.level == DOUBTS and "It was not asked with another question's picture." in found.sentence
    assert found.reliance.keys() == {"blank", "noise"}
    assert look({"image": asked(first(0.8)), "noise": asked(first(0.3), "noise")}).level == NOT_TESTED


def test_without_a_lead_over_chance_there_is_no_sight():
    found = look({"image": asked(first(0.25)), "blank": asked(first(0.0), "blank")})
    assert (found.level, found.kept) == (NOT_SHOWN, None)
    assert found.sentence.startswith("It is not ahead of chance")


def test_refusing_without_a_picture_is_no_proof_of_sight():
    silent = [replace(s, answer=None, status=("abstained", "truncated")[i % 2], correct=False) for i, s in enumerate(asked(first(0.9), "blank"))]
    found = look({"image": asked(first(0.9)), "blank": silent[:150] + asked(first(0.9), "blank")[150:]})
    assert found.reliance["blank"].answered == 0.25
    assert found.level == NOT_TESTED and "With a grey picture it gives an answer to 25 % only, which decides nothing" in found.sentence


def test_a_model_that_often_refuses_is_held_against_its_own_habit():
    """Of 200 it answers 160, with its picture as without: this says nothing against its sight."""

    def habit(samples):
        return [replace(s, answer=None, status="abstained", correct=False) if i % 5 == 0 else s for i, s in enumerate(samples)]

    without = {arm: habit(asked(first(0.2), arm)) for arm in ("blank", "mismatch")}
    found = look({"image": habit(asked(first(1)))} | without)
    assert (found.level, found.reliance["blank"].answered) == (LOOKS, 0.8)
    assert "silence" not in found.sentence


def test_greedy_answers_decide_whatever_the_drawn_ones_say():
    shares = {"image": 0.8, "blank": 0.3}
    arms = {arm: [replace(s, sampled_answers=("A", "B")) for s in asked(first(share), arm)] for arm, share in shares.items()}
    assert look(arms).reliance["blank"].difference == pytest.approx(0.5)


def test_what_is_kept_depends_on_the_number_of_options_and_moves_with_the_patient():
    shares = {"image": 0.8, "blank": 0.6}
    arms = {arm: [replace(s, options=("a", "b")) for s in asked(first(share), arm, 1000)] for arm, share in shares.items()}
    fours = {arm: [replace(s, group=f"p{i // 4}") for i, s in enumerate(part)] for arm, part in arms.items()}
    alone, together = look(arms), look(fours)
    assert alone.kept == together.kept == pytest.approx(0.1 / 0.3)
    width, wide = (found.kept_ci95[1] - found.kept_ci95[0] for found in (alone, together))
    assert wide / width == pytest.approx(2, rel=0.1)  # patients of 4 equal answers: sqrt(4)


def test_what_is_kept_is_of_questions_that_both_answered():
    """Of the last 190, all are right with the own picture and half without it: 25 of 75 points over chance are left."""

    def without_ten(samples):
        return [replace(s, answer=None, status="failed", correct=False) if i < 10 else s for i, s in enumerate(samples)]

    image, blank = asked(first(1)), asked(lambda i: i < 105, "blank")
    for arms in ({"image": without_ten(image), "blank": blank}, {"image": image, "blank": without_ten(blank)}):
        assert look(arms).kept == pytest.approx(1 / 3)


def test_a_lead_must_be_there_beside_every_deciding_arm():
    """On the second hundred, all that the other pictures were asked of, it is right in 24 %: no lead over chance."""
    image = asked(lambda i: i < 100 or i // 2 % 4 == 0)
    found = look({"image": image, "blank": asked(first(0), "blank"), "mismatch": asked(first(0), "mismatch")[100:]})
    assert all(r.is_clear for r in found.reliance.values())
    assert (found.level, found.kept) == (NOT_SHOWN, None)


def test_a_difference_that_may_be_none_is_no_harm():
    found = look({"image": asked(first(0.5)), "blank": asked(lambda i: not first(0.5)(i), "blank")})
    assert found.sentence.startswith("Its own picture makes no clear difference: 0.0 points (−")


def test_answers_that_could_not_be_had_are_no_proof_of_sight():
    dead = [replace(s, answer=None, status="failed", correct=False) for s in asked(first(0.9), "blank")]
    found = look({"image": asked(first(0.9)), "blank": dead, "mismatch": dead})
    assert (found.level, found.reliance) == (NOT_TESTED, {})
    part = look({"image": asked(first(0.6)), "blank": asked(first(0.6), "blank")[:-10] + dead[-10:]})
    assert (part.level, part.reliance["blank"].difference) == (NOT_SHOWN, 0.0)


def test_few_questions_show_nothing_however_they_went():
    for n in (1, 5):
        found = look({"image": asked(first(1.0), n=n), "blank": asked(first(0.0), "blank", n=n), "mismatch": asked(first(0.0), "mismatch", n=n)})
        assert (found.level, found.reliance["blank"].ci95) == (NOT_SHOWN, (1.0, 1.0))
    of_one = [[replace(s, group="p1") for s in part] for part in (asked(first(1.0)), asked(first(0.0), "blank"))]
    assert look({"image": of_one[0], "blank": of_one[1]}).level == NOT_SHOWN


def test_an_arm_that_asked_fewer_questions_is_held_against_the_same_ones():
    image = asked(lambda i: i < 100)  # right on the first half only
    found = look({"image": image, "blank": asked(first(0.5), "blank")[:100]})
    assert found.reliance["blank"].difference == pytest.approx(0.5)
    assert found.kept == pytest.approx((0.75 - 0.5) / 0.75)


def test_pictures_only():
    found = look({"image": asked(first(0.9)), "hard": asked(first(0.1), "hard")})
    assert (found.level, found.reliance, found.kept) == (NOT_TESTED, {}, None)


def test_an_arm_that_it_was_trained_under_decides_nothing_and_noise_takes_its_place():
    """It lost all with another's picture, which it was taught; with noise it keeps everything."""
    arms = {"image": asked(first(0.8)), "blank": asked(first(0.3), "blank"), "mismatch": asked(first(0.0), "mismatch")}
    alone = look(arms, ["mismatch"])
    assert (look(arms).level, alone.level, alone.trained_under) == (LOOKS, DOUBTS, ("mismatch",))
    assert alone.sentence.endswith("It was not asked with noise. It was trained with another question's picture, too, which therefore decides nothing.")
    assert look(arms | {"noise": asked(first(0.3), "noise")}, ["mismatch"]).level == LOOKS
    assert look(arms | {"noise": asked(first(0.8), "noise")}, ["mismatch"]).level == NOT_SHOWN


def test_it_goes_into_summary_json():
    row = json.loads(json.dumps(asdict(look({"image": asked(first(0.8)), "blank": asked(first(0.3), "blank")}))))
    assert row.keys() == {"level", "sentence", "reliance", "kept", "kept_ci95", "trained_under"}
    assert row["reliance"]["blank"].keys() == {"difference", "ci95", "p", "answered"}
