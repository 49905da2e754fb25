"""Every loss against its table: values and derivatives by log p, worked out from the papers' formulas by hand."""

import math
from dataclasses import replace

import pytest
import torch

from medvlm_r1.training.grpo.loss import LOSSES, REDUCE, Evidence, LossConfig, Totals, gspo, importance, loss, terms

WIDE = LossConfig("cispo", clip_high=4.0)


def evidence(ratio_RC, advantages_R, mask_RC=None, mismatch=1.0):
    """One whose old log-probabilities are zero, so that now is the logarithm of the ratio."""
    now_RC = torch.tensor(ratio_RC, dtype=torch.float64).log().requires_grad_()
    old_RC = torch.zeros_like(now_RC)
    mask_RC = torch.ones_like(now_RC) if mask_RC is None else torch.tensor(mask_RC)
    return Evidence(now_RC, old_RC, old_RC - math.log(mismatch), None, torch.tensor(advantages_R, dtype=torch.float64), mask_RC)


@pytest.mark.parametrize(
    ("config", "ratio", "advantage", "term", "slope"),
    [
        (LossConfig(), 1.0, 1.0, -1.0, -1.0),
        (LossConfig(), 1.5, 1.0, -1.2, 0.0),
        (LossConfig(), 0.5, 1.0, -0.5, -0.5),
        (LossConfig(), 1.5, -1.0, 1.5, 1.5),
        (LossConfig(), 0.5, -1.0, 0.8, 0.0),
        (LOSSES["dapo"], 1.25, 1.0, -1.25, -1.25),  # 1.28 is the bound above, 0.8 below
        (LOSSES["dapo"], 1.5, 1.0, -1.28, 0.0),
        (WIDE, 1.0, 1.0, 0.0, -1.0),
        (WIDE, 1.5, 1.0, -1.5 * math.log(1.5), -1.5),
        (WIDE, 8.0, 1.0, -5.0 * math.log(8.0), -5.0),
        (WIDE, 0.1, -1.0, 0.1 * math.log(0.1), 0.1),  # no bound below
        (LOSSES["sapo"], 1.0, 1.0, -2.0, -1.0),
        (LOSSES["sapo"], 1.5, 1.0, -2.4898, -1.4100),
        (LOSSES["sapo"], 1.0, -1.0, 4 / 1.05 / 2, 1.0),
    ],
)
def test_a_term_and_its_derivative(config, ratio, advantage, term, slope):
    e = evidence([[ratio]], [advantage])
    value = terms(e, replace(config, kl_beta=0.0))
    assert value.item() == pytest.approx(term, abs=1e-4)
    assert torch.autograd.grad(value.sum(), e.now_RC)[0].item() == pytest.approx(slope, abs=1e-4)


def test_gspo_has_one_ratio_for_a_sequence_and_clips_it_whole():
    e = evidence([[math.exp(0.2), math.exp(-0.1), 7.0]], [1.0], [[1, 1, 0]])
    loose = LossConfig("gspo", clip_low=0.2, clip_high=0.2)
    value = gspo(e, loose)
    assert value[0, :2].tolist() == pytest.approx([-1.0513, -1.0513], abs=1e-4)
    slopes = torch.autograd.grad(value[0, :2].sum(), e.now_RC)[0]
    assert slopes[0].tolist() == pytest.approx([-1.0513, -1.0513, 0], abs=1e-4)  # its own token's, times the sequence's ratio
    clipped = gspo(e, LOSSES["gspo"])
    assert clipped[0, :2].tolist() == pytest.approx([-1.0004, -1.0004])
    assert torch.autograd.grad(clipped.sum(), e.now_RC)[0].abs().sum() == 0


@pytest.mark.parametrize(
    ("reduce", "weights"),
    [("sequence", [1 / 2, 1 / 6, 1 / 6, 1 / 6]), ("token", [1 / 4] * 4), ("constant", [1 / 8] * 4)],
)
def test_what_a_token_weighs(reduce, weights):
    """Two rows of one and of three tokens, four at most."""
    values_RC = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    mask_RC = torch.tensor([[1, 0, 0], [1, 1, 1]])
    REDUCE[reduce](values_RC, mask_RC, Totals(rows=2, tokens=4, limit=4)).backward()
    assert values_RC.grad[mask_RC.bool()].tolist() == pytest.approx(weights)
    assert values_RC.grad[~mask_RC.bool()].abs().sum() == 0


@pytest.mark.parametrize(
    ("trust", "mismatch", "weight"),
    [("none", 3.0, 1.0), ("truncated", 1.5, 1.5), ("truncated", 3.0, 2.0), ("truncated", 0.1, 0.1)]
    + [("masked", 1.5, 1.5), ("masked", 3.0, 0.0), ("masked", 0.4, 0.0), ("masked", 0.5, 0.5)],
)
def test_how_far_the_sampler_is_believed(trust, mismatch, weight):
    e = evidence([[1.0]], [1.0], mismatch=mismatch)
    assert importance(e).item() == pytest.approx(mismatch)
    assert terms(e, LossConfig(trust=trust, kl_beta=0.0)).item() == pytest.approx(-weight)


@pytest.mark.parametrize("name", LOSSES)
def test_the_shares_of_micro_batches_add_up_to_the_step(name):
    generator = torch.Generator().manual_seed(1)
    ratio = torch.rand(6, 5, generator=generator, dtype=torch.float64) + 0.5
    mask_RC = (torch.arange(5) < torch.tensor([[5], [1], [3], [4], [2], [5]])).long()
    totals = Totals(6, int(mask_RC.sum()), 8)

    def gradient(parts):
        e = evidence(ratio.tolist(), torch.linspace(-1, 1, 6).tolist(), mask_RC.tolist())
        cut = [Evidence(e.now_RC[p], e.old_RC[p], e.sampled_RC[p], None, e.advantages_R[p], e.mask_RC[p]) for p in parts]
        sum(loss(part, replace(LOSSES[name], kl_beta=0.0), totals) for part in cut).backward()
        return e.now_RC.grad

    assert torch.allclose(gradient([slice(0, 6)]), gradient([slice(0, 1), slice(1, 4), slice(4, 6)]), rtol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_on_policy_all_surrogates_have_the_gradient_of_log_p(name):
    """Clipping means something with several updates a rollout, or with an engine that lags."""
    e = evidence([[1.0, 1.0]], [0.7])
    terms(e, replace(LOSSES[name], kl_beta=0.0)).sum().backward()
    assert e.now_RC.grad.tolist() == [pytest.approx([-0.7, -0.7])]
