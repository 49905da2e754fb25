"""Intervals and tests against scipy, against hand-worked numbers, and by simulation."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from medvlm_r1.evaluation import statistics as st


@pytest.mark.parametrize(("right", "n"), [(0, 10), (10, 10), (1, 3), (207, 300), (704, 900), (299, 300), (5000, 10000)])
@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_wilson_is_scipys(right, n, confidence):
    wanted = stats.binomtest(right, n).proportion_ci(confidence, method="wilson")
    assert st.wilson(right, n, confidence) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 1), (7, 2), (2, 7), (40, 60), (150, 90), (1000, 1100)])
def test_mcnemar_is_the_binomial_test(first, second):
    assert st.mcnemar(first, second) == pytest.approx(stats.binomtest(first, first + second).pvalue, rel=1e-9)


def test_mcnemar_of_many_items_does_not_overflow():
    assert st.mcnemar(20_000, 10_000) < 1e-300


def test_cluster_mean_of_single_items_is_as_wide_as_theory():
    values = np.random.default_rng(0).normal(0.3, 1.0, 400)
    found = st.cluster_mean(values, range(400))
    half = 1.96 * values.std(ddof=1) / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.005)


def test_copies_inside_a_group_add_no_information():
    values = np.random.default_rng(1).normal(0.1, 1.0, 60)
    once = st.cluster_mean(values, range(60))
    copied = st.cluster_mean(np.repeat(values, 5), np.repeat(range(60), 5))
    naive = st.cluster_mean(np.repeat(values, 5), range(300))
    assert copied.ci95 == pytest.approx(once.ci95)
    assert copied.p == once.p
    assert (naive.high - naive.low) * 2 < copied.high - copied.low


def test_strata_weigh_the_same_whatever_their_size():
    found = st.cluster_mean([1.0] * 90 + [0.0] * 10, range(100), ["mri"] * 90 + ["ct"] * 10)
    assert found.value == found.low == found.high == 0.5
    assert st.cluster_mean([1.0] * 90 + [0.0] * 10, range(100)).value == 0.9


def test_a_group_that_spans_strata_moves_as_one():
    rng = np.random.default_rng(2)
    patient = rng.normal(0, 1, 80)
    together = st.cluster_mean(np.r_[patient, patient], [*range(80), *range(80)], ["mri"] * 80 + ["ct"] * 80)
    apart = st.cluster_mean(np.r_[patient, patient], range(160), ["mri"] * 80 + ["ct"] * 80)
    assert (together.high - together.low) / (apart.high - apart.low) == pytest.approx(2**0.5, rel=0.08)


def test_a_draw_may_miss_a_tiny_stratum():
    assert st.cluster_mean([1.0] * 4, "abcd", ["mri", "mri", "mri", "ct"]).ci95 == [1.0, 1.0]


def test_the_seed_decides_every_digit():
    values = np.random.default_rng(3).normal(0, 1, 50)
    assert st.cluster_mean(values, range(50), seed=5) == st.cluster_mean(values, range(50), seed=5)
    assert st.cluster_mean(values, range(50), seed=5) != st.cluster_mean(values, range(50), seed=6)


def test_large_inputs_are_drawn_in_pieces():
    found = st.cluster_mean(np.ones(9000), range(9000), draws=1000)
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)
    assert found.p == pytest.approx(1 / 1001)


@pytest.mark.parametrize("bad", [([], []), ([1.0, 2.0], ["a"])])
def test_unusable_input_is_refused(bad):
    with pytest.raises(ValueError, match="values"):
        st.cluster_mean(*bad)


def test_intervals_cover_and_p_values_are_level():
    """1,000 experiments of 60 patients with 1 to 4 correlated questions in two modalities; the truth is 0."""
    rng = np.random.default_rng(4)
    covered = rejected = 0
    experiments = 1000
    for _ in range(experiments):
        sizes = rng.integers(1, 5, 60)
        groups = np.repeat(np.arange(60), sizes)
        noise = rng.normal(0, 1, 60)[groups] + rng.normal(0, 1, len(groups))
        found = st.cluster_mean(noise, groups, groups % 2, draws=400)
        covered += found.low <= 0 <= found.high
        rejected += found.p <= 0.05
    assert 0.925 <= covered / experiments <= 0.97  # nominal 0.95; the percentile interval of 60 groups is a little narrow
    assert 0.035 <= rejected / experiments <= 0.065


def test_wilson_covers_by_simulation():
    rng = np.random.default_rng(5)
    for rate in (0.25, 0.55, 0.78):
        right = rng.binomial(300, rate, 3000)
        bounds = {int(k): st.wilson(int(k), 300) for k in set(right)}
        assert 0.93 <= np.mean([bounds[int(k)][0] <= rate <= bounds[int(k)][1] for k in right]) <= 0.97


def test_holm_by_hand_and_in_any_order():
    assert st.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert st.holm([0.6, 0.7]) == [1.0, 1.0]
    assert st.holm([0.02]) == [0.02]


@pytest.mark.parametrize(("n", "discordant"), [(300, 0.3), (900, 0.2)])
def test_minimum_detectable_difference_has_its_power(n, discordant):
    """Simulated with the normal test that the formula is about."""
    difference = st.minimum_detectable_difference(n, discordant)
    needed = (1.959964 * discordant**0.5 + 0.841621 * (discordant - difference**2) ** 0.5) ** 2 / difference**2
    assert needed == pytest.approx(n, rel=1e-5)  # Connor's formula, solved for n
    rng = np.random.default_rng(6)
    gain, loss = (discordant + difference) / 2, (discordant - difference) / 2
    wins, losses, _ = rng.multinomial(n, [gain, loss, 1 - discordant], size=20000).T
    found = np.abs(wins - losses) / np.sqrt(wins + losses) > 1.96
    assert found.mean() == pytest.approx(0.8, abs=0.02)
    assert st.minimum_detectable_difference(0, 0.3) == 1.0


def test_pass_at_k_is_the_mean_over_all_subsets():
    outcomes = [True, True, False, False, False]
    for k in range(1, 6):
        subsets = list(combinations(outcomes, k))
        assert st.pass_at_k(5, 2, k) == pytest.approx(sum(any(s) for s in subsets) / len(subsets))
    for n, correct, k in [(4, 5, 1), (4, 1, 5), (4, 1, 0), (0, 0, 1)]:
        with pytest.raises(ValueError, match="not defined"):
            st.pass_at_k(n, correct, k)


def test_majority_ignores_what_was_not_read():
    assert st.maj_at_k([None, None, None, "B"], "B") == 1.0
    assert st.maj_at_k(["A", "B", "C", None], "C") == pytest.approx(1 / 3)
    assert st.maj_at_k([], "A") == 0.0


def test_calibration_by_hand():
    assert st.brier([1.0, 0.0, 0.5], [True, False, True]) == pytest.approx(0.25 / 3)
    assert st.expected_calibration_error([1.0, 1.0, 0.0], [True, True, False]) == 0.0
    assert st.expected_calibration_error([0.7, 0.7, 0.7, 0.7], [True, False, False, False]) == pytest.approx(0.45)
    # two bins: 0.3 + 0.1 - 1 and 0.9 - 0: |-0.6| + |0.9| over 3
    assert st.expected_calibration_error([0.3, 0.1, 0.9], [True, False, False], bins=2) == pytest.approx(1.5 / 3)


def test_a_calibrated_guesser_has_little_error():
    rng = np.random.default_rng(7)
    confidence = rng.random(20000)
    assert st.expected_calibration_error(confidence, rng.random(20000) < confidence) < 0.02
