"""Intervals and tests against scipy, against hand-worked numbers, and by simulation."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from medvlm_r1.evaluation.measuring import statistics as st


@pytest.mark.parametrize(("right", "n"), [(0, 10), (10, 10), (1, 3), (207, 300), (704, 900), (299, 300), (5000, 10000)])
@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_wilson_is_scipys(right, n, confidence):
    wanted = stats.binomtest(right, n).proportion_ci(confidence, method="wilson")
    assert st.wilson(right, n, confidence) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 1), (7, 2), (2, 7), (40, 60), (150, 90), (1000, 1100)])
def test_mcnemar_is_the_binomial_test(first, second):
    assert st.mcnemar(first, second) == pytest.approx(stats.binomtest(first, first + second).pvalue, rel=1e-9)


def test_wilson_of_none_or_all_right_ends_at_the_edge_itself():
    assert {st.wilson(0, n)[0] for n in range(1, 100)} == {0.0} and {st.wilson(n, n)[1] for n in range(1, 100)} == {1.0}


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
    strata = ["mri", "ct"] * 25
    assert st.cluster_gap(values, range(50), strata, "ct", seed=5) != st.cluster_gap(values, range(50), strata, "ct", seed=6)
    shares = [st.cluster_share(values + 1, values + 3, range(50), strata, seed=seed) for seed in (5, 5, 6)]
    assert shares[0] == shares[1] != shares[2]


def test_large_inputs_are_drawn_in_pieces():
    found = st.cluster_mean(np.ones(9000), range(9000), draws=1000)
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)
    assert found.p == pytest.approx(1 / 1001)


@pytest.mark.parametrize("bad", [([], []), ([1.0, 2.0], ["a"])])
def test_unusable_input_is_refused(bad):
    with pytest.raises(ValueError, match="values"):
        st.cluster_mean(*bad)


def test_gap_by_hand():
    values, strata = [1, 1, 1, 0, 1, 0], ["mri", "mri", "mri", "ct", "ct", "xray"]
    found = st.cluster_gap(values, range(6), strata, "mri")
    assert found.value == pytest.approx(1 - (0.5 + 0) / 2)
    assert st.cluster_gap(values, range(6), strata, "ct").value == pytest.approx(0.5 - (1 + 0) / 2)
    assert found.low <= found.value <= found.high
    assert found.p is None
    with pytest.raises(ValueError, match="a gap is between 'mri' and others"):
        st.cluster_gap(values, range(6), ["mri"] * 6, "mri")
    with pytest.raises(ValueError, match="'us'"):
        st.cluster_gap(values, range(6), strata, "us")


def test_gap_of_single_items_is_as_wide_as_theory():
    rng = np.random.default_rng(8)
    a, b, c = rng.normal(1, 1, 300), rng.normal(0, 2, 200), rng.normal(0, 1, 400)
    found = st.cluster_gap(np.r_[a, b, c], range(900), ["a"] * 300 + ["b"] * 200 + ["c"] * 400, "a")
    half = 1.96 * (a.var() / 300 + (b.var() / 200 + c.var() / 400) / 4) ** 0.5
    assert found.value == pytest.approx(a.mean() - (b.mean() + c.mean()) / 2)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)


def test_a_patient_in_every_modality_narrows_the_gap():
    """What makes a patient easy in both modalities cancels: the opposite of the mean over them."""
    patient = np.random.default_rng(9).normal(0, 1, 80)
    found = st.cluster_gap(np.r_[patient, patient], [*range(80), *range(80)], ["mri"] * 80 + ["ct"] * 80, "mri")
    assert found.ci95 == pytest.approx([0, 0], abs=1e-12)


def test_a_draw_without_a_tiny_stratum_says_nothing_of_its_gap():
    """All values are equal: a draw that misses the CT or both others must not take them for 0."""
    assert st.cluster_gap([1.0] * 5, "abcde", ["mri", "mri", "mri", "ct", "xray"], "mri").ci95 == [0.0, 0.0]


def test_a_share_is_as_wide_as_theory():
    """The delta method: the spread of part - share x whole, over the mean whole."""
    rng = np.random.default_rng(11)
    wholes = rng.normal(1, 0.5, 400)
    parts = 0.4 * wholes + rng.normal(0, 0.5, 400)
    found = st.cluster_share(parts, wholes, range(400), ["mri"] * 400)
    half = 1.96 * (parts - found.value * wholes).std() / wholes.mean() / 20
    assert found.value == pytest.approx(parts.mean() / wholes.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)


def test_a_share_lies_between_none_and_all():
    assert (low := st.cluster_share([-1.0] * 4, [1.0] * 4, "abcd", "xxxx")).value == 0.0 and low.ci95 == [0.0, 0.0]
    assert (high := st.cluster_share([2.0] * 4, [1.0] * 4, "abcd", "xxxx")).value == 1.0 and high.ci95 == [1.0, 1.0]
    assert st.cluster_share([0.5] * 4, [1.0] * 4, "abcd", ["mri", "mri", "mri", "ct"]).ci95 == [0.5, 0.5]  # also where a draw misses the CT
    with pytest.raises(ValueError, match="a share of 0 is not defined"):
        st.cluster_share([1.0, 1.0], [1.0, -1.0], "ab", "xx")


def test_a_draw_without_a_whole_keeps_all_of_it():
    """Of three draws from 1, 1 and -1, two or three are -1 in 7 of 27: far more than the 2.5 % above the interval."""
    found = st.cluster_share([0.0] * 3, [1.0, 1.0, -1.0], "abc", "xxx")
    assert found.value == 0.0 and found.ci95 == [0.0, 1.0]


def test_design_effect_is_that_of_equal_groups():
    """Kish: 1 + (m - 1) x the intraclass correlation, here 1/2, for groups of m = 4."""
    rng = np.random.default_rng(10)
    group_N = np.repeat(np.arange(20000), 4)
    values = rng.normal(0, 1, 20000)[group_N] + rng.normal(0, 1, 80000)
    assert st.design_effect(values, group_N) == pytest.approx(2.5, rel=0.03)
    assert st.design_effect(rng.normal(0, 1, 80000), group_N) == pytest.approx(1, abs=0.03)
    assert st.design_effect([1.0, 1.0], "ab") == 1.0  # nothing varies


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
