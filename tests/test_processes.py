"""Two real processes over gloo: what threads cannot show. One start (seconds) serves all cases."""

import faulthandler
import json
import os
import traceback
import warnings

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from test_distributed import MIXED, PICTURES, assert_alike, groups_of, one_update
from test_resume import assert_near, weights
from test_training import GRPO, fresh, vowels
from torch.distributed import TCPStore

from medvlm_r1.models import nano
from medvlm_r1.models.adapt import LoRA, Trainable, adapt
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.training import checkpoint, sharding
from medvlm_r1.training.distributed import Devices, joined
from medvlm_r1.training.grpo import trainer as grpo
from medvlm_r1.training.grpo.loss import LossConfig
from medvlm_r1.training.grpo.update import Learner, UpdateConfig, update
from medvlm_r1.training.held_out import Exam
from medvlm_r1.training.optim import OptimConfig, Optimizer
from medvlm_r1.training.watchers import Watched

TEXTS = ["Which plane is this?\nA) axial\nB) coronal\nThink first, then answer.<think>Ears.</think>\n<answer>B</answer>"] * 4
SHARDED = {
    "several images": (PICTURES, {}, Trainable(), Devices(shard=True)),
    "no pictures on one": (MIXED, {}, Trainable(), Devices(shard=True)),
    "all of one skipped": (MIXED, {"skipped": (1, 3), "beta": 0.0}, Trainable(), Devices(shard=True)),
    "frozen tower": (MIXED, {}, Trainable(freeze=("vision",)), Devices(shard=True)),
    "adapters": (MIXED, {}, Trainable(lora=LoRA(rank=4)), Devices(shard=True)),
    "computed twice": (MIXED, {}, Trainable(), Devices(shard=True, recompute=True)),
    "replicas, computed twice": (MIXED, {}, Trainable(), Devices(recompute=True)),
    "replicas": (MIXED, {}, Trainable(), Devices()),
}


def gradient_on_devices(tokenizer, examples, settings, trainable, devices, dtype="float32"):
    """As ``one_update``; whole gradients, whatever is cut."""
    settings = {"skipped": (), "budget": 150, "beta": 0.04} | settings
    policy = fresh(tokenizer)
    adapt(policy.model, trainable)
    policy = sharding.spread(policy, devices, dtype, settings["beta"] > 0)
    groups, advantages = groups_of(examples)
    for p in settings["skipped"]:
        advantages[p] = [0.0] * len(advantages[p])
    optimizer = Optimizer(policy.model, OptimConfig(lr=1e-3, max_grad_norm=1e9), 10)
    config = UpdateConfig(LossConfig(kl_beta=settings["beta"]), tokens_per_micro_batch=settings["budget"])
    metrics = update(Learner(policy, policy.frozen_copy() if settings["beta"] else None, optimizer, config), groups, advantages)
    moments = {name: optimizer.adamw.state[p]["exp_avg"] * 10 for name, p in optimizer.named.items() if p in optimizer.adamw.state}
    return {name: m.full_tensor() if hasattr(m, "full_tensor") else m for name, m in moments.items()}, metrics


def rollouts(tokenizer, world):
    """What a cut policy writes, with as many questions as each rank likes."""
    policy = sharding.spread(fresh(tokenizer), Devices(shard=True), "float32", False)
    prompts = [render(example, "think") for example in PICTURES[: 3 * world.rank]]
    written = sharding.engine(policy).generate(prompts, Sampling(n=2, max_tokens=8))
    return [[c.token_ids for c in group] for group in written]


def trained(tokenizer, run_dir):
    policy = sharding.spread(fresh(tokenizer), Devices(shard=True), "float32", True)
    exam = Exam(
        [render(example, "think") for example in PICTURES[:3]], every=2, last=4, max_tokens=8
    )  # of a cut model, two questions on one rank and one on the other
    grpo.train(GRPO, policy, sharding.engine(policy), PICTURES, vowels, Watched(run_dir, exam))


def keep(tensors, file):
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


def on_a_rank(rank, port, folder):
    """Everything that two processes show, each thing into a file of this rank."""
    os.dup2(os.open(folder / f"said-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    faulthandler.enable()
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank)}
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}  # as torchrun has it: who started them keeps the store
    torch.set_num_threads(1)
    tokenizer, told = nano.build_tokenizer(TEXTS), {}
    with joined() as world:
        for name, case in SHARDED.items():
            try:
                gradient, metrics = gradient_on_devices(tokenizer, *case)
                keep(gradient, folder / f"{name}-{rank}.safetensors")
                told[name] = metrics
            except Exception:
                told[name] = traceback.format_exc()
                break
        else:
            keep(gradient_on_devices(tokenizer, MIXED, {}, Trainable(), Devices(shard=True), "bfloat16")[0], folder / f"bfloat16-{rank}.safetensors")
            told["rollouts"] = rollouts(tokenizer, world)
            trained(tokenizer, folder / "run")
    (folder / f"told-{rank}.json").write_text(json.dumps(told), encoding="utf-8")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Where two ranks left what they show. Seen once in hundreds of starts: one ended by SIGABRT; that is told, and tried once more."""
    for _ in range(2):
        folder, store = tmp_path_factory.mktemp("two"), TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        try:
            mp.spawn(on_a_rank, (store.port, folder), nprocs=2)
            return folder
        except mp.ProcessExitedException as ended:
            said = [(folder / f"said-{rank}.txt").read_text(errors="replace")[:2000] for rank in (0, 1)]
            failure = f"{ended}; rank 0 said: {said[0]}; rank 1 said: {said[1]}"
            warnings.warn(failure, stacklevel=1)
    raise AssertionError(failure)


def told(folder, rank):
    return json.loads((folder / f"told-{rank}.json").read_text())


@pytest.mark.parametrize("name", SHARDED)
def test_gradients_are_those_of_one_process(two, tokenizer, name):
    examples, settings, trainable, _ = SHARDED[name]
    policy = fresh(tokenizer)
    adapt(policy.model, trainable)
    expected = one_update(policy, examples, **settings)
    for rank in (0, 1):
        metrics = told(two, rank)[name]
        assert isinstance(metrics, dict), metrics
        found = load_file(two / f"{name}-{rank}.safetensors")
        assert_alike({key: found[key] for key in expected["gradient"]}, expected["gradient"])
        assert all(not found[key].any() for key in found.keys() - expected["gradient"].keys())  # a cut parameter's is zero where one process has none
        assert metrics["loss"] == pytest.approx(expected["loss"], rel=1e-5, abs=1e-7) and metrics["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-5)


def test_short_numbers_are_computed_with_and_long_ones_kept(two, tokenizer):
    expected = one_update(fresh(tokenizer), MIXED)["gradient"]
    found = load_file(two / "bfloat16-0.safetensors")
    whole = torch.cat([g.flatten() for g in expected.values()])
    error = (torch.cat([found[name].flatten() for name in expected]) - whole).norm() / whole.norm()
    assert 1e-4 < error < 5e-2 and all(g.dtype == torch.float32 for g in found.values())


def test_ranks_write_what_one_process_writes_and_one_may_have_nothing_to_write(two, tokenizer):
    written = LocalEngine(fresh(tokenizer)).generate([render(example, "think") for example in PICTURES[:3]], Sampling(n=2, max_tokens=8))
    assert told(two, 0)["rollouts"] == [] and told(two, 1)["rollouts"] == [[list(c.token_ids) for c in group] for group in written]


def test_one_process_goes_on_from_what_two_have_cut(two, tokenizer, tmp_path):
    """The same steps by one process give the same weights; a checkpoint of two is read by one, and by transformers as it stands."""
    alone = fresh(tokenizer)
    grpo.train(GRPO, alone, LocalEngine(alone, learning=True), PICTURES, vowels, tmp_path / "alone")
    files = sorted(file.name for file in (two / "run/checkpoints/step-4/trainer").iterdir())
    assert files == ["files.json", "state-00001-of-00002.safetensors", "state-00002-of-00002.safetensors"]
    restored = fresh(tokenizer)
    optimizer = Optimizer(restored.model, GRPO.optim, 4)
    assert checkpoint.resume(two / "run", restored, optimizer) == 4
    moments = load_file(tmp_path / "alone/checkpoints/step-4/trainer/state.safetensors")
    assert_near(weights(restored), weights(alone), weights(fresh(tokenizer)))
    tested = [row for row in map(json.loads, (two / "run/metrics.jsonl").read_text().splitlines()) if "test/accuracy" in row]
    assert [(row["step"], row["test/questions"]) for row in tested] == [(2, 3), (4, 3)]
    for name, p in restored.model.named_parameters():
        if f"exp_avg/{name}" in moments:
            assert (optimizer.adamw.state[p]["exp_avg"] - moments[f"exp_avg/{name}"]).abs().max() < 1e-5, name
