"""Shares of clustered items, by hand."""

from dataclasses import replace

import pytest

from medvlm_r1.evaluation.measuring.share import share
from medvlm_r1.evaluation.samples import Sample

SAMPLE = Sample("q", "mri", "side", "", "Which side?", ("left", "right"), "A", (), "image", "", "A", "answered", True, 5)


def in_groups(*groups):
    return [replace(SAMPLE, id=f"q{n}", group=group) for n, group in enumerate(groups)]


def test_a_share_is_of_items_and_its_interval_of_groups():
    alone = share([n % 2 == 0 for n in range(400)], in_groups(*[f"p{n}" for n in range(400)]))
    together = share([n % 8 < 4 for n in range(400)], in_groups(*[f"p{n // 4}" for n in range(400)]))
    assert (alone["n"], alone["share"], together["share"]) == (400, 0.5, 0.5)
    width, wide = (cell["ci95"][1] - cell["ci95"][0] for cell in (alone, together))
    assert wide / width == pytest.approx(2, rel=0.1)  # patients of 4 equal answers: sqrt(4)


def test_where_all_agree_the_interval_is_that_of_as_many_patients():
    """Ten of ten questions of ten patients: Wilson's 10 / (10 + 1.96²) = 0.7225 to 1. Of two each, nobody knows how alike
    they are, and Student's quantile of 9 degrees stands in the place of 1.96: 10 / (10 + 2.262²) = 0.6615."""
    for repeats, low in ((1, 0.7225), (2, 0.6615)):
        cell = share([True] * 10 * repeats, in_groups(*[f"p{n}" for n in range(10)] * repeats))
        assert cell["share"] == 1.0 and cell["ci95"] == pytest.approx([low, 1.0], abs=1e-4)
    assert share([False] * 10, in_groups(*"abcdefghij"))["ci95"] == pytest.approx([0.0, 0.2775], abs=1e-4)


def test_one_patient_alone_has_no_interval_and_none_has_no_share():
    assert share([True, False], in_groups("p", "p")) == {"n": 2, "share": 0.5, "ci95": None}
    assert share([], []) == {"n": 0, "share": None, "ci95": None}
