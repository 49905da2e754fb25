"""Kept draws give the digits of fresh ones, and memory stays bounded."""

import numpy as np
import pytest

from medvlm_r1.evaluation.measuring.clusters import cluster_mean
from medvlm_r1.evaluation.measuring.draws import Draws


def plain(values_G, strata_G, draws, seed):
    """The recipe in one piece, nothing kept: p of the mean over strata of single items."""
    rng, n = np.random.default_rng(seed), len(values_G)
    inside_GS = (strata_G[:, None] == np.unique(strata_G)).astype(float)
    rng.integers(0, n, size=(draws, n))  # the weights come first in the stream
    signs_DG = rng.integers(0, 2, size=(draws, n)) * 2 - 1
    flipped_D = (signs_DG @ (values_G[:, None] * inside_GS / inside_GS.sum(0))).mean(axis=1)
    value = (values_G @ inside_GS / inside_GS.sum(0)).mean()
    extreme = (np.abs(flipped_D) >= abs(value) - 1e-12).sum()
    return (1 + extreme) / (1 + draws)


@pytest.mark.parametrize(("groups", "strata", "draws"), [(13, 1, 300), (300, 3, 400), (1234, 2, 1001), (7000, 3, 701)])
def test_every_digit_is_that_of_the_plain_recipe(groups, strata, draws):
    """Values 1, 0 and -1: their sums are exact in whatever order, so equal means equal."""
    values_G = np.random.default_rng(groups).integers(-1, 2, groups).astype(float)
    strata_G = np.arange(groups) % strata
    for _ in range(2):  # made, then kept
        found = cluster_mean(values_G, range(groups), strata_G.tolist(), draws, seed=3)
        assert found.p == plain(values_G, strata_G, draws, 3)


def test_what_is_too_large_to_keep_is_drawn_alike():
    kept, streamed = Draws(max_bytes=10**9), Draws(max_bytes=0)
    for one, other in zip(kept.blocks(2000, 1000, 5), streamed.blocks(2000, 1000, 5), strict=True):
        one, other = list(one), list(other)
        assert len(one) > 1
        assert all((a == b).all() for a, b in zip(one, other, strict=True))
    assert streamed.n_bytes == 0


def test_the_oldest_make_room():
    draws = Draws(max_bytes=2 * 2 * 100 * 10)  # two of three fit
    first = draws.blocks(100, 10, seed=0)
    for _ in range(2):  # asked for again, it takes nobody's place
        draws.blocks(100, 10, seed=1)
    assert draws.blocks(100, 10, seed=0) is first
    draws.blocks(100, 10, seed=2)  # seed 1 was longest not asked for
    assert draws.n_bytes == draws.max_bytes
    assert draws.blocks(100, 10, seed=0) is first
    draws.blocks(200, 10, seed=0)
    assert draws.n_bytes == draws.max_bytes
    assert draws.blocks(100, 10, seed=0) is not first
