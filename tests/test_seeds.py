"""Differences of methods over seeds and patients: held against scipy where one source is alone, and against the truth where both are there."""

import numpy as np
import pytest
from scipy import stats

from medvlm_r1.evaluation.measuring.seeds import over_seeds

RNG = np.random.default_rng(7)


def matches(estimate, test):
    low, high = test.confidence_interval(0.95)
    assert (estimate.low, estimate.high, estimate.p) == pytest.approx((low, high, test.pvalue))


def test_seeds_that_agree_leave_students_test_of_the_patients():
    values = RNG.normal(0.3, 1, 12)
    matches(over_seeds([values] * 5, range(12), ["mri"] * 12), stats.ttest_1samp(values, 0))


def test_patients_that_agree_leave_students_test_of_the_seeds():
    by_seed = [0.1, 0.3, 0.2]
    matches(over_seeds([[mean] * 8 for mean in by_seed], range(8), ["mri"] * 8), stats.ttest_1samp(by_seed, 0))


def test_a_patient_asked_twice_counts_once():
    values = RNG.normal(0, 1, (3, 10))
    once = over_seeds(values, range(10), ["ct"] * 10)
    twice = over_seeds(np.repeat(values, 2, axis=1), np.repeat(range(10), 2), ["ct"] * 20)
    assert twice.ci95 == pytest.approx(once.ci95) and twice.p == pytest.approx(once.p)


def test_a_modality_counts_as_much_as_another_whatever_its_size():
    estimate = over_seeds([[1, 1, 1, 0], [1, 1, 1, 0]], "abcd", ["mri", "mri", "mri", "ct"])
    assert estimate.value == 0.5 and estimate.low == estimate.high  # no patient of a modality differs from another of it


@pytest.mark.parametrize(("seeds", "patients"), [(1, 9), (4, 1)])
def test_one_seed_or_one_patient_is_no_basis(seeds, patients):
    with pytest.raises(ValueError, match="show no variance"):
        over_seeds([[1.0] * patients] * seeds, range(patients), ["mri"] * patients)


@pytest.mark.parametrize("spread", [0.0, 0.15])
def test_intervals_hold_the_truth_as_often_as_they_say(spread):
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        values = 0.1 + rng.normal(0, spread, (5, 1)) + rng.normal(0, 0.3, (1, 60)) + rng.normal(0, 0.3, (5, 60))
        held += (estimate := over_seeds(values, range(60), ["mri"] * 60)).low <= 0.1 <= estimate.high
    assert 0.92 <= held / 300 <= 0.985  # without the part of the seeds 0.71 at the larger spread


def test_patients_who_were_asked_unequally_often_count_for_fewer():
    """One patient with half of the questions: by hand 1 / (1/4 + 9/324) = 3.6 equal patients; the variance is that of ten, times 3.6 / 2.6."""
    groups, values = [0] * 9 + list(range(1, 10)), np.array([1.0] * 9 + [0, 1, 0, 0, 1, 0, 0, 0, 1])
    parts = np.array([sum(values[:9] - values.mean()), *(values[9:] - values.mean())]) / 18
    spread = np.sqrt((parts**2).sum() * 3.6 / 2.6)
    estimate = over_seeds([values, values], groups, ["ct"] * 18)
    assert estimate.high - estimate.value == pytest.approx(stats.t.ppf(0.975, 2.6) * spread)
