"""Every loss against its table: values and derivatives by log p, worked out from the papers' formulas by hand; and against TRL's."""

import json
import math
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medvlm_r1.config import override
from medvlm_r1.errors import ConfigError
from medvlm_r1.rewards.length import overlong
from medvlm_r1.training.grpo.advantage import ADVANTAGES, gdpo
from medvlm_r1.training.grpo.loss import LOSSES, REDUCE, SURROGATES, Evidence, LossConfig, Totals, gspo, importance, losses, staleness, terms
from medvlm_r1.training.grpo.trainer import GRPOConfig
from medvlm_r1.types import Completion, Example, Prompt, Rollout, RolloutGroup

ROOT = Path(__file__).resolve().parents[1]

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
    REDUCE[reduce](values_RC, mask_RC, Totals(rows=2, tokens=4, limit=4)).mean().backward()
    assert values_RC.grad[mask_RC.bool()].tolist() == pytest.approx(weights)
    assert values_RC.grad[~mask_RC.bool()].abs().sum() == 0


@pytest.mark.parametrize(
    ("trust", "mismatch", "weight"),
    [
        *(("none", 3.0, 1.0), ("truncated", 1.5, 1.5), ("truncated", 3.0, 2.0), ("truncated", 0.1, 0.1)),
        *(("masked", 1.5, 1.5), ("masked", 3.0, 0.0), ("masked", 0.4, 0.0), ("masked", 0.5, 0.5)),
    ],
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
        sum(losses(part, replace(LOSSES[name], kl_beta=0.0), totals).sum() / 6 for part in cut).backward()
        return e.now_RC.grad

    assert torch.allclose(gradient([slice(0, 6)]), gradient([slice(0, 1), slice(1, 4), slice(4, 6)]), rtol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_on_policy_all_surrogates_have_the_gradient_of_log_p(name):
    """Clipping means something with several updates a rollout, or with an engine that lags."""
    e = evidence([[1.0, 1.0]], [0.7])
    terms(e, replace(LOSSES[name], kl_beta=0.0)).sum().backward()
    assert e.now_RC.grad.tolist() == [pytest.approx([-0.7, -0.7])]


def test_what_is_reported_of_stale_data():
    """Ratios 1.5, 0.5 and 1.1 of a row that did better, and of one that did worse; then one bound for a whole sequence."""
    e = evidence([[1.5, 0.5, 1.1], [1.5, 0.5, 9.0]], [1.0, -1.0], [[1, 1, 1], [1, 1, 0]], mismatch=3.0)
    told = {name: values.tolist() for name, values in staleness(e, LossConfig(trust="truncated")).items()}
    assert told["ratio"] == pytest.approx([3.1 / 3, 1.0]) and told["clip_fraction"] == pytest.approx([1 / 3, 1 / 2])
    assert told["trust_weight"] == [2.0, 2.0]
    assert staleness(e, LossConfig("gspo"))["clip_fraction"].tolist() == [0, 0]  # geometric means 0.938 and 0.866
    assert staleness(e, replace(LossConfig("gspo"), clip_low=0.1))["clip_fraction"].tolist() == [0, 1]
    assert staleness(e, LossConfig("cispo"))["clip_fraction"].tolist() == pytest.approx([1 / 3, 1 / 2])
    assert staleness(e, LossConfig("sapo"))["clip_fraction"].tolist() == [0, 0]


def test_a_loss_by_name():
    config = override(GRPOConfig(), ["update.loss.kl_beta=0.5", "update.loss=dapo", "update.loss.clip_high=0.3"])  # in the order of the line
    assert config.update.loss == replace(LOSSES["dapo"], clip_high=0.3)
    with pytest.raises(ConfigError, match='unknown loss "dapoo"; did you mean "dapo"'):
        LossConfig.named("dapoo")
    with pytest.raises(ConfigError, match="known are cispo, dapo, dr_grpo, grpo, gspo, sapo"):
        LossConfig.named("zzz")


# ---------------------------------------------------------------- advantages of all groups of a step

ONE, TWO = [{"format": 1.0, "accuracy": 1.0}, {"format": 0.0, "accuracy": 0.0}], [{"format": 1.0, "accuracy": 0.0}, {"format": 0.0, "accuracy": 0.0}]


def groups_of(*parts_PG):
    prompt = Prompt(Example("q1", (), "Which?", ("x", "y"), "x", "mri"), "Which?")
    return [RolloutGroup(prompt, tuple(Rollout(Completion((7,), (0.0,), "", True), parts) for parts in parts_G)) for parts_G in parts_PG]


@pytest.mark.parametrize(("name", "best"), [("grpo", (0.7071, 0.7071)), ("dr_grpo", (1.0, 0.5)), ("gdpo", (1.0954, 0.5477))])
def test_advantages_of_a_step(name, best):
    """GDPO: deviations 1.414 and 0.707 within the groups, sqrt((2 * 1.414**2 + 2 * 0.707**2) / 3) = 1.291 over the step."""
    found = ADVANTAGES[name](groups_of(ONE, TWO), {"format": 1.0, "accuracy": 1.0})
    assert found == [pytest.approx([b, -b], abs=3e-4) for b in best]


def test_gdpo_weighs_a_reward_after_it_is_normalised():
    """A rubric multiplies its weight in, which a normalised reward would lose: format at 3 is worth three times accuracy, and a penalty stays one."""
    weighted = [[{"format": 3 * parts["format"], "accuracy": parts["accuracy"]} for parts in parts_G] for parts_G in (ONE, TWO)]
    (both, _), (form, _) = gdpo(weighted, {"format": 3.0, "accuracy": 1.0})
    assert both / form == pytest.approx(4 / 3)
    assert gdpo([[{"overlong": -0.5}, {"overlong": 0.0}]], {"overlong": 0.5})[0] == pytest.approx([-(0.5**0.5), 0.5**0.5], abs=3e-4)
    assert gdpo([ONE, TWO], {"format": 0.0})[1] == [0.0, 0.0]


def test_gdpo_gives_equal_rewards_exactly_nothing():
    assert gdpo([ONE, [{"format": 0.1, "accuracy": 0.2}] * 2], {})[1] == [0.0, 0.0]
    assert gdpo([[{"format": 1.0}]], {}) == [[0.0]]


# ---------------------------------------------------------------- TRL

SCRIPT, RESULTS, PYTHON = (ROOT / path for path in ("benchmarks/_systems/trl_losses.py", "benchmarks/results/trl-losses.json", "runs/bench/trl-env/bin/python"))
TRL = json.loads(RESULTS.read_text())
OURS = {name: LOSSES[name] for name in LOSSES} | {
    "gspo with wide bounds": replace(LOSSES["gspo"], clip_low=0.2, clip_high=0.2),
    "cispo with a narrow bound": replace(LOSSES["cispo"], clip_high=0.2),
    "truncated": LossConfig(trust="truncated", trust_most=1.1, kl_beta=0.0),
    "masked": LossConfig(trust="masked", trust_least=0.9, trust_most=1.1, kl_beta=0.0),
}


@pytest.mark.parametrize("name", OURS)
def test_values_and_gradients_are_those_of_trl(name):
    """As recorded from its ``GRPOTrainer._compute_loss``: four rows of one to six tokens in float64."""
    given, theirs, config = {key: torch.tensor(values, dtype=torch.float64) for key, values in TRL["inputs"].items()}, TRL["cases"][name], OURS[name]
    now_RC = given["now"].requires_grad_()
    reference_RC = given["reference"] if config.kl_beta else None
    e = Evidence(now_RC, given["old"], given["sampled"], reference_RC, given["advantages"], given["mask"].long())
    value = losses(e, config, Totals(4, int(e.mask_RC.sum()), TRL["limit"])).mean()
    value.backward()
    assert value.item() == pytest.approx(theirs["loss"], rel=1e-12)
    assert torch.allclose(now_RC.grad, torch.tensor(theirs["gradient"], dtype=torch.float64), rtol=1e-12, atol=1e-15)
    if config.surrogate in ("ppo", "gspo"):  # of CISPO, TRL counts what did better only
        rows_R = staleness(e, config)["clip_fraction"] * e.mask_RC.sum(1)
        by_token = (rows_R.sum() / e.mask_RC.sum()).item()
        clipped_R = SURROGATES[config.surrogate].clipped(e, config)[:, 0].double().mean().item()
        assert (clipped_R if config.surrogate == "gspo" else by_token) == pytest.approx(theirs["clipped"])


def test_the_penalty_for_length_is_that_of_trl():
    prompt = Prompt(Example("q1", (), "Which?", ("x", "y"), "x", "mri"), "Which?", max_tokens=100)
    for n, theirs in TRL["overlong of 100"].items():
        assert overlong(Completion((7,) * int(n), (), "", True), prompt) == pytest.approx(theirs)
    assert overlong(Completion((7,) * 100, (), "", True), replace(prompt, max_tokens=0)) == 0


@pytest.mark.skipif(not PYTHON.exists(), reason=f"no {PYTHON.relative_to(ROOT)}; benchmarks/grpo_vs_trl.py --tiny --json FILE makes it")
def test_what_is_recorded_of_trl_is_what_it_says_today(tmp_path):
    subprocess.run([PYTHON, SCRIPT, tmp_path / "trl.json"], check=True)
    assert json.loads((tmp_path / "trl.json").read_text())["cases"] == TRL["cases"]
