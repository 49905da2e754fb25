"""Intervals and tests against scipy, against hand-worked numbers, and by simulation."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from medvlm_r1.evaluation.measuring import clusters as cl
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
    found = cl.cluster_mean(values, range(400))
    half = 1.96 * values.std(ddof=1) / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.005)


def test_copies_inside_a_group_add_no_information():
    values = np.random.default_rng(1).normal(0.1, 1.0, 60)
    once = cl.cluster_mean(values, range(60))
    copied = cl.cluster_mean(np.repeat(values, 5), np.repeat(range(60), 5))
    naive = cl.cluster_mean(np.repeat(values, 5), range(300))
    assert copied.ci95 == pytest.approx(once.ci95)
    assert copied.p == once.p
    assert (naive.high - naive.low) * 2 < copied.high - copied.low


def test_strata_weigh_the_same_whatever_their_size():
    found = cl.cluster_mean([1.0] * 90 + [0.0] * 10, range(100), ["mri"] * 90 + ["ct"] * 10)
    t = stats.t.ppf(0.975, 98)
    assert found.value == 0.5 and found.ci95 == pytest.approx([0.5 - t**2 / (100 + t**2), 0.5 + t**2 / (100 + t**2)])
    assert cl.cluster_mean([1.0] * 90 + [0.0] * 10, range(100)).value == 0.9


def test_a_group_that_spans_strata_moves_as_one():
    rng = np.random.default_rng(2)
    patient = rng.normal(0, 1, 80)
    together = cl.cluster_mean(np.r_[patient, patient], [*range(80), *range(80)], ["mri"] * 80 + ["ct"] * 80)
    apart = cl.cluster_mean(np.r_[patient, patient], range(160), ["mri"] * 80 + ["ct"] * 80)
    assert (together.high - together.low) / (apart.high - apart.low) == pytest.approx(2**0.5, rel=0.08)


def test_a_stratum_of_two_patients_has_no_interval_and_neither_has_the_mean():
    strata = ["mri"] * 4 + ["ct"] * 2
    for measure in (cl.cluster_mean, cl.cluster_rate, lambda *told: cl.cluster_gap(*told, "ct"), lambda v, *told: cl.cluster_share(v, v, *told)):
        assert measure([1.0] * 6, "abcdef", strata).ci95 is None
        assert measure([1.0] * 7, "abcdefg", [*strata, "ct"]).ci95 is not None


def test_a_difference_is_never_without_width():
    """Perfect in all of five patients of sixty questions: 5 / (5 + t²) = 0.39, not +100.0 to +100.0; p is that of 2 in 32 ways."""
    found = cl.cluster_mean([1.0] * 300, [i % 5 for i in range(300)])
    t = stats.t.ppf(0.975, 4)
    assert found.ci95 == pytest.approx([5 / (5 + t**2), 1.0]) and found.p == 2 / 32
    nearly = cl.cluster_mean([0.0] * 99 + [1.0], range(100))
    assert nearly.high - nearly.value >= 0.0369


@pytest.mark.parametrize("values", [[1, 0, -1, 1, 1, 0, 0.5, 1], [1] * 5, [0.2, -0.1, 0.4]])
def test_signs_of_few_patients_are_flipped_in_every_way(values):
    """By definition, over all 2**G."""
    sums = [sum(x * (1 if how >> i & 1 else -1) for i, x in enumerate(values)) for how in range(2 ** len(values))]
    expected = sum(abs(each) >= abs(sum(values)) - 1e-9 for each in sums) / len(sums)
    assert cl.cluster_mean(values, range(len(values))).p == expected
    assert cl.cluster_mean([x for x in values for _ in range(3)], [i for i in range(len(values)) for _ in range(3)]).p == expected


def test_an_accuracy_of_single_questions_is_wilsons_and_of_copies_that_of_the_patients():
    right = [1.0] * 14 + [0.0] * 6
    assert cl.cluster_rate(right, range(20)).ci95 == pytest.approx(list(st.wilson(14, 20)))
    copied = cl.cluster_rate(right * 3, [*range(20)] * 3)
    expected = st.score_interval(0.7, 19, stats.t.ppf(0.975, 19))  # the variance of 20 patients, divided by G - 1
    assert copied.ci95 == pytest.approx(list(expected), abs=0.002)


def test_unequal_patients_count_for_fewer():
    """One of 60 questions and five of one are worth 65² / (60² + 5) = 1.17 patients; that is set to 1.5."""
    table = cl.Table.of([1.0] * 65, [0] * 60 + [1, 2, 3, 4, 5])
    assert table.spread(np.ones(1)).groups == 1.5
    assert cl.Table.of([1.0] * 65, [i % 5 for i in range(65)]).spread(np.ones(1)).groups == pytest.approx(5)


def test_the_seed_decides_p():
    values = np.random.default_rng(3).normal(0.1, 1, 50)
    assert cl.cluster_mean(values, range(50), seed=5) == cl.cluster_mean(values, range(50), seed=5)
    assert cl.cluster_mean(values, range(50), seed=5) != cl.cluster_mean(values, range(50), seed=6)


def test_large_inputs_are_drawn_in_pieces():
    found = cl.cluster_mean(np.ones(9000), range(9000), draws=1000)
    assert (found.value, found.high) == (1.0, 1.0) and found.low > 0.999
    assert found.p == pytest.approx(1 / 1001)


@pytest.mark.parametrize("bad", [([], []), ([1.0, 2.0], ["a"])])
def test_unusable_input_is_refused(bad):
    with pytest.raises(ValueError, match="values"):
        cl.cluster_mean(*bad)


def test_gap_by_hand():
    values, strata = [1, 1, 1, 0, 1, 0], ["mri", "mri", "mri", "ct", "ct", "xray"]
    found = cl.cluster_gap(values, range(6), strata, "mri")
    assert found.value == pytest.approx(1 - (0.5 + 0) / 2)
    assert cl.cluster_gap(values, range(6), strata, "ct").value == pytest.approx(0.5 - (1 + 0) / 2)
    assert found.ci95 is None and found.p is None  # two questions of CT
    with pytest.raises(ValueError, match="a gap is between 'mri' and others"):
        cl.cluster_gap(values, range(6), ["mri"] * 6, "mri")
    with pytest.raises(ValueError, match="'us'"):
        cl.cluster_gap(values, range(6), strata, "us")


def test_gap_of_single_items_is_as_wide_as_theory():
    rng = np.random.default_rng(8)
    a, b, c = rng.normal(1, 1, 300), rng.normal(0, 2, 200), rng.normal(0, 1, 400)
    found = cl.cluster_gap(np.r_[a, b, c], range(900), ["a"] * 300 + ["b"] * 200 + ["c"] * 400, "a")
    half = 1.96 * (a.var() / 300 + (b.var() / 200 + c.var() / 400) / 4) ** 0.5
    assert found.value == pytest.approx(a.mean() - (b.mean() + c.mean()) / 2)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)


def test_a_patient_in_every_modality_narrows_the_gap():
    """What makes a patient easy in both modalities cancels: the opposite of the mean over them. What stays is the least width."""
    patient = np.random.default_rng(9).uniform(-1, 1, 80)
    found = cl.cluster_gap(np.r_[patient, patient], [*range(80), *range(80)], ["mri"] * 80 + ["ct"] * 80, "mri")
    assert found.value == pytest.approx(0) and found.high == -found.low < 0.05


def test_patients_of_each_modality_move_for_themselves():
    """The variance of the mean is that of two independent means: with 30 and with 3 patients, the three decide how freely."""
    rng = np.random.default_rng(5)
    values, strata = rng.uniform(-1, 1, 33), ["mri"] * 30 + ["ct"] * 3
    spread = cl.Table.of(values, range(33), strata).spread(np.array([0.5, 0.5]))
    parts = [values[:30].var(ddof=1) / 30 / 4, values[30:].var(ddof=1) / 3 / 4]
    assert spread.variance == pytest.approx(sum(parts))
    assert spread.freedom == pytest.approx(sum(parts) ** 2 / (parts[0] ** 2 / 29 + parts[1] ** 2 / 2))  # Satterthwaite


def test_a_share_is_as_wide_as_theory():
    """The delta method: the spread of part - share x whole, over the mean whole."""
    rng = np.random.default_rng(11)
    wholes = rng.normal(1, 0.5, 400)
    parts = 0.4 * wholes + rng.normal(0, 0.5, 400)
    found = cl.cluster_share(parts, wholes, range(400), ["mri"] * 400)
    half = 1.96 * (parts - found.value * wholes).std() / wholes.mean() / 20
    assert found.value == pytest.approx(parts.mean() / wholes.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)


def test_a_share_lies_between_none_and_all():
    least = 1.96**2 / (4 + 1.96**2)
    assert (low := cl.cluster_share([-1.0] * 4, [1.0] * 4, "abcd", "xxxx")).value == 0.0 and low.ci95 == [0.0, 0.0]
    assert (high := cl.cluster_share([2.0] * 4, [1.0] * 4, "abcd", "xxxx")).value == 1.0 and high.ci95 == [1.0, 1.0]
    half = cl.cluster_share([0.5] * 4, [1.0] * 4, "abcd", "xxxx")
    assert half.ci95 == pytest.approx([max(0, 0.5 - least), min(1, 0.5 + least)], abs=0.001)
    with pytest.raises(ValueError, match="a share of 0 is not defined"):
        cl.cluster_share([1.0, 1.0], [1.0, -1.0], "ab", "xx")


def test_a_whole_that_may_be_nothing_leaves_all_shares_open():
    found = cl.cluster_share([0.0] * 3, [1.0, 1.0, -1.0], "abc", "xxx")
    assert found.value == 0.0 and found.ci95 == [0.0, 1.0]


def test_design_effect_is_that_of_equal_groups():
    """Kish: 1 + (m - 1) x the intraclass correlation, here 1/2, for groups of m = 4."""
    rng = np.random.default_rng(10)
    group_N = np.repeat(np.arange(20000), 4)
    values = rng.normal(0, 1, 20000)[group_N] + rng.normal(0, 1, 80000)
    assert cl.design_effect(values, group_N) == pytest.approx(2.5, rel=0.03)
    assert cl.design_effect(rng.normal(0, 1, 80000), group_N) == pytest.approx(1, abs=0.03)
    assert cl.design_effect([1.0, 1.0], "ab") == 1.0  # nothing varies


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
