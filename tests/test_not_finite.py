"""What is not finite is seen where it arises: the step moves nothing and is counted, a few in a row end the run, what was saved stays."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import train
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_training import GRPO, SFT, files_of, fresh, run_grpo, run_sft, vowels
from torch.utils._python_dispatch import TorchDispatchMode

from medvlm_r1.errors import NotFiniteError
from medvlm_r1.models import runs
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.training import checkpoint, sft, shards
from medvlm_r1.training.grpo import trainer as grpo
from medvlm_r1.training.optim import OptimConfig, Optimizer
from medvlm_r1.training.saving import Saver

BAD = [math.nan, math.inf, -math.inf]


def optimizer_of(dtype=torch.float32, total_steps=4, **more):
    """Four weights of one and a bias, after one step of gradient one: moments are there."""
    layer = torch.nn.Linear(4, 1).to(dtype)
    torch.nn.init.ones_(layer.weight)
    optimizer = Optimizer(layer, OptimConfig(lr=1.0, **more), total_steps)
    give(layer)
    step(optimizer)
    return layer, optimizer


def step(optimizer, loss=0.5):
    optimizer.loss = loss
    return optimizer.step()


def give(layer, entry=1.0):
    for p in layer.parameters():
        p.grad = torch.ones_like(p)
    layer.weight.grad[0, 2] = entry


def held(layer, optimizer):
    return {name: value.clone() for name, value in [*layer.named_parameters(), *optimizer.state().items()] if name != "skipped"}


# ---------------------------------------------------------------- one step


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("entry", "loss"), [(bad, 0.5) for bad in BAD] + [(1.0, bad) for bad in BAD])
def test_a_step_that_is_not_finite_leaves_weights_masters_and_moments(dtype, entry, loss):
    layer, optimizer = optimizer_of(dtype)
    before = held(layer, optimizer)
    give(layer, entry)
    norm = step(optimizer, loss)
    after = held(layer, optimizer)
    assert before.keys() == after.keys() and any(name.startswith("exp_avg_sq") for name in after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert math.isfinite(norm) == math.isfinite(entry)
    assert all(p.grad is None for p in [*layer.parameters(), *optimizer.masters.values()])
    assert (optimizer.steps, optimizer.skipped, optimizer.skipped_in_a_row) == (2, 1, 1)


def test_a_skipped_step_has_its_number_and_its_rate():
    """Rates of four steps fall 1, 3/4, 1/2, 1/4; AdamW's first two steps of a constant gradient move by the rate."""
    layer, optimizer = optimizer_of()
    assert layer.weight[0, 0].item() == pytest.approx(0.0, abs=1e-6)
    give(layer, math.inf)
    step(optimizer)
    assert (optimizer.lr, layer.weight[0, 0].item()) == (0.75, pytest.approx(0.0, abs=1e-6))
    give(layer)
    step(optimizer)
    assert (optimizer.lr, layer.weight[0, 0].item()) == (0.5, pytest.approx(-0.5, abs=1e-6))
    assert optimizer.adamw.state[layer.weight]["step"] == 2  # bias correction counts what was taken


def test_one_number_is_read_back_from_the_device_a_step():
    reads = []

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten._local_scalar_dense.default:
                reads.append(function)
            return function(*args, **(kwargs or {}))

    layer, optimizer = optimizer_of(torch.bfloat16)
    for entry in (1.0, math.nan):
        give(layer, entry)
        with Reads():
            step(optimizer)
    assert len(reads) == 2


def test_three_in_a_row_are_too_many_and_two_are_not():
    layer, optimizer = optimizer_of(total_steps=100)
    for entry in (math.nan, math.inf, 1.0, math.nan, math.nan):
        give(layer, entry)
        step(optimizer, 0.25)
        optimizer.check()
    give(layer, math.inf)
    step(optimizer, 0.25)
    with pytest.raises(NotFiniteError, match=r"^step 7 came to loss 0.25 and gradient norm inf, and 3 steps in a row moved nothing; lower optim.lr \(now 1\)"):
        optimizer.check()
    assert optimizer.skipped == 5


def test_a_run_does_not_end_on_weights_in_doubt_but_may_on_one_bad_gradient():
    for entry, loss, ends in ((math.inf, 0.5, True), (1.0, math.nan, False)):
        layer, optimizer = optimizer_of(total_steps=2)
        give(layer, entry)
        step(optimizer, loss)
        if ends:
            optimizer.check()
        else:
            with pytest.raises(NotFiniteError, match="step 2 came to loss nan and gradient norm .*, and the last step moved nothing"):
                optimizer.check()


# ---------------------------------------------------------------- whole runs


def spoilt(policy, steps):
    """One entry of one gradient is infinite in these steps, counted from 0."""
    weight = next(policy.model.parameters())
    weight.register_hook(lambda g: torch.where(torch.arange(g.numel()).view(g.shape) == 5, math.inf, g) if policy.version in steps else None)


def blind(policy, steps):
    """The loss is NaN in these steps; rollouts before them are not."""
    policy.model.lm_head.register_forward_hook(lambda *given: given[2] * math.nan if policy.version in steps and torch.is_grad_enabled() else None)


def go(kind, spoil, steps, tokenizer, examples, run_dir, config=None):
    policy = fresh(tokenizer)
    spoil(policy, steps)
    if kind == "grpo":
        return grpo.train(config or GRPO, policy, LocalEngine(policy, learning=True), examples, vowels, run_dir), policy
    return sft.train(config or SFT, policy, examples, run_dir), policy


@pytest.mark.parametrize("kind", ["grpo", "sft"])
@pytest.mark.parametrize("spoil", [spoilt, blind])
def test_one_bad_step_is_skipped_counted_and_forgotten(kind, spoil, tokenizer, examples, tmp_path):
    done, policy = go(kind, spoil, {1}, tokenizer, examples, tmp_path)
    rows, _ = files_of(tmp_path)
    assert done and [row["skipped_steps"] for row in rows] == [0, 1, 1, 1]
    assert [row["grad_norm" if spoil is spoilt else "loss"] is None for row in rows] == [False, True, False, False]
    assert [row["lr"] for row in rows] == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])
    assert all(p.isfinite().all() for p in policy.model.parameters())
    assert [path.name for path in runs.checkpoints(tmp_path)] == (["step-2", "step-4"] if spoil is spoilt else ["step-4"])
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.value for event in events.Scalars("skipped_steps")] == [0, 1, 1, 1]


@pytest.mark.parametrize(("kind", "skipped"), [("grpo", {1}), ("grpo", {1, 2}), ("sft", {0, 1}), ("sft", {2})])
def test_resume_is_exact_across_skipped_steps(kind, skipped, tokenizer, examples, tmp_path):
    """The run that is cut off goes as far as the checkpoint of step 2; another process goes on from there."""
    _, whole = go(kind, spoilt, skipped, tokenizer, examples, tmp_path / "whole")
    config = GRPO if kind == "grpo" else SFT
    cut = tmp_path / "cut"
    with pytest.raises(ZeroDivisionError):
        policy = fresh(tokenizer)
        spoilt(policy, skipped)
        policy.model.lm_head.register_forward_hook(lambda *_: 1 // 0 if policy.version == 2 else None)
        grpo.train(config, policy, LocalEngine(policy, learning=True), examples, vowels, cut) if kind == "grpo" else sft.train(config, policy, examples, cut)
    assert checkpoint.latest(cut).name == "step-2"
    _, resumed = go(kind, spoilt, skipped, tokenizer, examples, cut)
    for (name, p), q in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(p, q), name
    assert files_of(cut) == files_of(tmp_path / "whole")
    one, other = (load_file(path / "checkpoints/step-4/trainer/state.safetensors") for path in (cut, tmp_path / "whole"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_row_of_skipped_steps_is_as_long_for_a_resumed_run(tokenizer, examples, tmp_path):
    """Steps 2, 3 and 4 fail; the checkpoint of step 3 has seen two of them."""
    config = replace(SFT, steps=9, save_every=3)
    with pytest.raises(NotFiniteError, match="step 4 "):
        go("sft", spoilt, {1, 2, 3}, tokenizer, examples, tmp_path, config)
    with pytest.raises(NotFiniteError, match="step 4 "):
        go("sft", spoilt, {1, 2, 3}, tokenizer, examples, tmp_path, config)
    assert [row["step"] for row in files_of(tmp_path)[0]] == [1, 2, 3, 4]  # the last one is written down, too


@pytest.mark.parametrize("kind", ["grpo", "sft"])
def test_weights_in_doubt_are_not_saved_and_the_last_good_checkpoint_stays(kind, tokenizer, examples, tmp_path):
    """Every step would be saved; from the third on the loss is NaN."""
    config = replace(GRPO if kind == "grpo" else SFT, steps=9, save_every=1)
    with pytest.raises(NotFiniteError, match="step 5 came to loss nan .* 3 steps in a row"):
        go(kind, blind, range(2, 9), tokenizer, examples, tmp_path, config)
    assert [path.name for path in runs.checkpoints(tmp_path)] == ["step-1", "step-2"]
    assert checkpoint.latest(tmp_path).name == "step-2"
    assert all(value.isfinite().all() for value in load_file(checkpoint.latest(tmp_path) / "model.safetensors").values())


def test_weights_that_are_not_finite_are_never_saved(tokenizer, examples, tmp_path):
    """From a step with a finite gradient, as a rate beyond all bounds or a model that came with them would leave them."""
    _, policy = run_sft(tokenizer, examples, tmp_path)
    optimizer = Optimizer(policy.model, OptimConfig(), 10)
    optimizer.steps = 5
    for bad in BAD:
        with torch.no_grad():
            policy.model.model.visual.blocks[0].mlp.fc1.weight[3, 4] = bad
        with pytest.raises(NotFiniteError, match=r'after step 5 the weight "model.visual.blocks.0.mlp.fc1.weight" is not finite, so it is not saved'):
            Saver(tmp_path).keep(policy, optimizer, is_due=True)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-2", "step-4"]
    assert checkpoint.latest(tmp_path).name == "step-4"


def test_large_weights_are_finite(policy, tmp_path):
    """Their squares are not."""
    with torch.no_grad():
        next(policy.model.parameters()).fill_(1e30)
    checkpoint.check_finite(policy, 1)


def test_a_checkpoint_of_an_earlier_version_has_skipped_nothing(tokenizer, examples, tmp_path):
    _, policy = run_grpo(tokenizer, examples, tmp_path)
    state = load_file(file := checkpoint.latest(tmp_path) / "trainer/state.safetensors")
    assert state.pop("skipped").tolist() == [0, 0]
    save_file(state, file)
    optimizer = Optimizer(policy.model, OptimConfig(), 10)
    optimizer.load(shards.Stored(file.parent), 4)
    assert (optimizer.skipped, optimizer.skipped_in_a_row, optimizer.sound) == (0, 0, True)


def test_a_rate_beyond_all_bounds_is_a_sentence(refused, hub_dir, manifest, tmp_path):
    """One step is taken; what it leaves gives no finite loss."""
    run = tmp_path / "run"
    refused(train(hub_dir, manifest, run, "--set", "optim.lr=1e18", "--set", "save_every=2"), "step 4 came to loss nan", "optim.lr (now 1e+18)", "--run-dir")
    assert not (run / "checkpoints").exists() and not (run / "summary.json").exists()
