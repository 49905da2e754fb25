"""Confidence against outcome: by hand, against scipy, and at the edges. What the guarantee is worth stands in test_coverage.py."""

import json
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from medvlm_r1.evaluation.measuring import calibration as ca
from medvlm_r1.evaluation.measuring.floor import floor
from medvlm_r1.evaluation.measuring.statistics import wilson
from medvlm_r1.evaluation.samples import Sample


def test_brier_and_calibration_error_by_hand():
    assert ca.brier([1.0, 0.0, 0.5], [True, False, True]) == pytest.approx(0.25 / 3)
    assert ca.expected_calibration_error([1.0, 1.0, 0.0], [True, True, False]) == 0.0
    assert ca.expected_calibration_error([0.7, 0.7, 0.7, 0.7], [True, False, False, False]) == pytest.approx(0.45)
    # two bins: 0.3 + 0.1 - 1 and 0.9 - 0: |-0.6| + |0.9| over 3
    assert ca.expected_calibration_error([0.3, 0.1, 0.9], [True, False, False], bins=2) == pytest.approx(1.5 / 3)


def test_a_calibrated_guesser_has_little_error():
    rng = np.random.default_rng(7)
    confidence = rng.random(20000)
    assert ca.expected_calibration_error(confidence, rng.random(20000) < confidence) < 0.02


def test_an_edge_belongs_to_the_bin_above_it():
    table = ca.reliability([0.3, 0.7, 0.29, 1.0, 0.9, 0.0], [1, 0, 1, 1, 0, 0])
    assert [(b.low, b.n, b.accuracy) for b in table] == [(0.0, 1, 0), (0.2, 1, 1), (0.3, 1, 1), (0.7, 1, 0), (0.9, 2, 0.5)]
    assert ca.reliability([1 - 0.9], [1])[0].low == 0.1
    assert table[-1].confidence == pytest.approx(0.95)
    assert (table[0].ci95, table[-1].ci95) == (wilson(0, 1), wilson(1, 2))


def test_risk_coverage_by_hand():
    steps = ca.risk_coverage([0.2, 0.9, 0.5, 0.5], [0, 1, 1, 0])
    assert [(s.threshold, s.n, s.coverage) for s in steps] == [(0.9, 1, 0.25), (0.5, 3, 0.75), (0.2, 4, 1.0)]
    assert [s.error for s in steps] == pytest.approx([0, 1 / 3, 1 / 2])


@pytest.mark.parametrize("confidences", [np.random.default_rng(0).random(1250), np.random.default_rng(1).integers(0, 9, 1250) / 8])
def test_a_long_curve_is_thinned_to_its_own_steps(confidences):
    correct = np.random.default_rng(2).random(1250) < confidences
    steps = ca.risk_coverage(confidences, correct)
    assert len(steps) == min(50, len(set(confidences)))
    sizes = [(confidences >= c).sum() for c in set(confidences)]
    assert [s.n for s in steps] == sorted({min(n for n in sizes if n >= mark) for mark in range(25, 1251, 25)})
    for step in steps:  # by its definition
        answered = confidences >= step.threshold
        assert (step.n, step.error) == (answered.sum(), pytest.approx(1 - correct[answered].mean()))


def test_area_is_the_mean_over_all_orders_of_a_tie():
    confidences, correct = [0.9, 0.5, 0.5, 0.5, 0.1], [1, 1, 0, 0, 1]
    areas = []
    for tied in permutations([1, 0, 0]):
        right = np.array([1, *tied, 1])
        areas.append((np.cumsum(1 - right) / np.arange(1, 6)).mean())
    assert ca.area_under_risk_coverage(confidences, correct) == pytest.approx(np.mean(areas))


def test_a_confidence_that_knows_has_a_smaller_area_than_one_that_does_not():
    rng = np.random.default_rng(3)
    confidence = rng.random(5000)
    correct = rng.random(5000) < confidence
    knows, guesses, inverted = (ca.area_under_risk_coverage(c, correct) for c in (confidence, rng.random(5000), 1 - confidence))
    assert knows == pytest.approx(0.25, abs=0.02)  # error (1 - t) / 2 at coverage 1 - t, over t
    assert guesses == pytest.approx(0.5, abs=0.03)
    assert inverted == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize(("wrong", "n"), [(0, 100), (3, 200), (100, 100)])
def test_the_bound_is_clopper_and_pearsons(wrong, n):
    """A two-sided interval of 97.5 % has 1.25 % above it: a fourth of 5 %."""
    found = ca.threshold_for([0.5] * n, [0] * wrong + [1] * (n - wrong), 0.999999)
    bound = stats.binomtest(wrong, n).proportion_ci(0.975, method="exact").high
    assert found is None if wrong == n else found.upper == pytest.approx(bound)


def test_a_perfect_model_needs_enough_questions():
    """0 of n wrong is shown to be 5 % or less where 0.95**n <= 0.0125: from 86 on."""
    assert ca.threshold_for([0.9] * 85, [1] * 85, 0.05) is None
    found = ca.threshold_for([0.9] * 86, [1] * 86, 0.05)
    assert (found.threshold, found.coverage, found.error, found.n) == (0.9, 1.0, 0.0, 86)
    assert found.upper == pytest.approx(1 - 0.0125 ** (1 / 86))


def test_the_lowest_threshold_is_taken_and_a_tie_is_never_cut():
    confidences = [0.9] * 200 + [0.7] * 200 + [0.5] * 200
    correct = [1] * 200 + [1] * 196 + [0] * 4 + [1, 0] * 100
    assert ca.threshold_for(confidences, correct, 0.05).threshold == 0.7
    assert ca.threshold_for(confidences, correct, 0.022).threshold == 0.9  # 0 of 200: below 0.0217
    assert ca.threshold_for(confidences, correct, 0.021) is None
    assert ca.threshold_for(confidences, correct, 0.3).threshold == 0.5  # 104 of 600 wrong


def test_one_early_mistake_does_not_end_the_search():
    confidences = np.linspace(1, 0, 1000)
    correct = np.ones(1000)
    correct[:5] = 0
    assert ca.threshold_for(confidences, correct, 0.05).coverage == 1.0
    assert ca.threshold_for(confidences, 1 - correct, 0.05) is None


def test_a_step_that_fails_ends_its_walk_and_the_last_walk_starts_late():
    """At most 10 % wrong is wanted: the walks start at 42, 84, 167 and 333 answers."""

    def found(first):  # half of the first step is wrong, and nothing else
        return ca.threshold_for([0.9] * first + [0.5] * (4000 - first), [0] * (first // 2) + [1] * (4000 - first // 2), 0.1)

    assert found(200).n == 4000  # three walks ended at 200; the fourth began behind it
    assert found(340) is None  # 170 of 4000 would do, but all four ended before


def sample(name, answer="A", drawn=(), probs=()):
    return Sample(name, "mri", "side", "", "Which side?", ("left", "right"), "A", (), "image", "", answer,
                  "answered" if answer else "unparsed", answer == "A", 5, tuple(drawn), (), tuple(probs))  # fmt: skip


def test_confidence_is_that_of_the_greedy_answer():
    samples = [sample("a", "B", "ABBB", (0.3, 0.7)), sample("b", "A", [None, "A"]), sample("c", "A", "A")]
    samples.append(sample("d", None, "AB", (0.5, 0.5)))
    assert [ca.confidence_of(s, "option_probs") for s in samples] == [0.7, None, None, None]
    assert [ca.confidence_of(s, "agreement") for s in samples] == [0.75, 0.5, None, None]  # one draw says nothing of agreement


def test_calibration_of_samples():
    both = [sample(str(i), "A" if i % 4 else "B", "AAAB", (0.9, 0.1)) for i in range(200)] + [sample("x", None, "AAAB", (0.9, 0.1))]
    both.append(replace(both[-1], id="y", status="truncated"))
    found = ca.calibration(both)["option_probs"]
    assert (found["n"], found["unanswered"]) == (200, 2)
    assert found["brier"] == pytest.approx(0.75 * 0.1**2 + 0.25 * 0.1**2)  # says 0.9 where right, 0.1 where wrong
    assert found["thresholds"]["0.05"]["threshold"] == 0.9
    assert found["thresholds"]["0.2"]["coverage"] == 0.75
    assert ca.calibration(both)["agreement"]["ece"] == pytest.approx(0.25)  # 0.75 where right, 0.25 where wrong
    assert ca.calibration([replace(s, option_probs=()) for s in both]).keys() == {"agreement"}
    assert json.loads(json.dumps(found))["n"] == 200


def test_questions_of_one_patient_count_as_one_where_they_come_out_alike():
    """80 patients of two questions, both wrong for one: 1 of 80 does not show 5 %, 2 of 160 would."""
    alone = [sample(str(n), "B" if n < 2 else "A", probs=(0.1, 0.9) if n < 2 else (0.9, 0.1)) for n in range(160)]
    pairs = [replace(s, group=str(int(s.id) // 2)) for s in alone]
    found, naive = (ca.calibration(samples)["option_probs"] for samples in (pairs, alone))
    # twice as many, 80 / 79 for the patients' own mean, and Student's quantile over the normal one, squared
    at, cost = (2 * 80 / 79 * (stats.t.ppf(tail, 79) / stats.norm.ppf(tail)) ** 2 for tail in (0.025, 0.0125))
    assert found["bins"][-1]["ci95"] == pytest.approx(wilson(158 / at, 160 / at)) and naive["bins"][-1]["ci95"] == pytest.approx(wilson(158, 160))
    assert found["thresholds"]["0.1"]["upper"] == pytest.approx(stats.beta.ppf(1 - 0.0125, 2 / cost + 1, 158 / cost))
    assert found["thresholds"]["0.05"] is None and naive["thresholds"]["0.05"] is not None


def test_the_floor_is_what_a_calibrated_model_shows():
    """Agreement of four draws, sure as Beta(2, 1): by integration E[p | k of 4] = (2 + k) / 7, so bins are off by |k / 4 - (2 + k) / 7|."""
    rng = np.random.default_rng(8)
    k_N = rng.binomial(4, rng.beta(2, 1, 4000))
    expected = np.mean(np.abs(k_N / 4 - (2 + k_N) / 7))
    assert floor(ca.expected_calibration_error, (k_N / 4).tolist(), draws=4) == pytest.approx(expected, abs=0.012)
    assert floor(ca.expected_calibration_error, rng.random(4000).tolist()) < 0.02 < floor(ca.expected_calibration_error, rng.random(100).tolist())
    told = ca.calibration([sample(str(i), "A", "AABB" if i % 2 else "AAAA") for i in range(100)])["agreement"]
    assert 0 < told["ece_floor"] < 0.3


def test_without_a_measure_for_every_answer_there_is_no_calibration():
    assert ca.calibration([sample("a"), sample("b", drawn="AB")]) == {}
    assert ca.calibration([sample("a", None, "AB")]) == {}
    assert ca.calibration([]) == {}
    assert ca.calibration([sample("a", drawn="AB", probs=(0.9, 0.1)), sample("b", drawn="AB")]).keys() == {"agreement"}


def test_a_summary_of_many_questions_stays_small():
    rng = np.random.default_rng(4)
    many = [sample(str(i), probs=(p, 1 - p)) for i, p in enumerate(rng.random(3000))]
    found = ca.calibration(many)["option_probs"]
    assert (len(found["bins"]), len(found["risk_coverage"])) == (10, 50)
    assert len(json.dumps(found)) < 10_000
