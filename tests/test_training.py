"""Runs: exact resume, run directories, checkpoints that transformers loads, SFT."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from conftest import picture
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

from medvlm_r1.data.dataset import load_dataset
from medvlm_r1.errors import RunError
from medvlm_r1.launch.loading import load_model
from medvlm_r1.models import nano
from medvlm_r1.models.encode import Encoder
from medvlm_r1.models.families import prepare
from medvlm_r1.recipes import named as recipes
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.training import batches, checkpoint, sft, shards
from medvlm_r1.training.grpo import trainer as grpo
from medvlm_r1.training.optim import OptimConfig, Optimizer


def fresh(tokenizer):
    return prepare(nano.new_model(tokenizer, seed=1), Encoder(tokenizer, nano.build_image_processor(), picture))


def vowels(completion, example):
    """A reward that random text sometimes earns."""
    return {"vowels": sum(completion.text.count(v) for v in "aeiou") / 5}


GRPO = grpo.GRPOConfig(template="think", steps=4, prompts_per_step=2, sampling=Sampling(n=3, max_tokens=8), optim=OptimConfig(lr=1e-3), save_every=2)
SFT = sft.SFTConfig(template="direct", steps=4, prompts_per_step=2, optim=OptimConfig(lr=1e-3), save_every=2)


def run_grpo(tokenizer, examples, run_dir, config=GRPO):
    policy = fresh(tokenizer)
    return grpo.train(config, policy, LocalEngine(policy, learning=True), examples, vowels, run_dir), policy


def run_sft(tokenizer, examples, run_dir, config=SFT):
    policy = fresh(tokenizer)
    return sft.train(config, policy, examples, run_dir), policy


def files_of(run_dir):
    """metrics without times, rollouts."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    rows = [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in rows]
    rollouts = run_dir / "rollouts.jsonl"
    return rows, rollouts.read_text() if rollouts.exists() else ""


@pytest.mark.parametrize("run", [run_grpo, run_sft])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(run, tokenizer, examples, tmp_path):
    _, whole = run(tokenizer, examples, tmp_path / "whole")
    finished, resumed = resume_after_two(run, tokenizer, examples, tmp_path / "resumed", GRPO if run is run_grpo else SFT)
    assert finished
    for (name, p), q in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(p, q), name
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "resumed")


def resume_after_two(run, tokenizer, examples, run_dir, config):
    """Stop by a signal in step 2, as Ctrl-C does, and go on in a new process's state."""
    calls = []

    def stopping(completion, example):
        calls.append(1)
        if len(calls) == 7:  # the first rollout of step 2
            os.kill(os.getpid(), signal.SIGINT)
        return vowels(completion, example)

    policy = fresh(tokenizer)
    if run is run_grpo:
        assert not grpo.train(config, policy, LocalEngine(policy, learning=True), examples, stopping, run_dir)
    else:
        hook = policy.model.lm_head.register_forward_hook(lambda *_: calls.append(1) or (len(calls) == 2 and os.kill(os.getpid(), signal.SIGINT)) or None)
        assert not sft.train(config, policy, examples, run_dir)
        hook.remove()
    assert checkpoint.latest(run_dir).name == "step-2"
    return run(tokenizer, examples, run_dir, config)


def test_the_last_two_checkpoints_keep_their_optimiser(tokenizer, examples, tmp_path):
    run_grpo(tokenizer, examples, tmp_path, replace(GRPO, save_every=1))
    kept = [file.parent.parent.name for file in (tmp_path / "checkpoints").glob("*/trainer/state.safetensors")]
    assert sorted(kept) == ["step-3", "step-4"]
    assert (tmp_path / "checkpoints" / "step-2" / "model.safetensors").exists()


def test_a_bf16_weight_moves_at_the_papers_rate():
    """Neighbours of 0.02 in bfloat16 are 1.2e-4 apart; 300 steps of 1e-6 make 3e-4, none of which may be lost."""
    layer = torch.nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    torch.nn.init.constant_(layer.weight, 0.02)
    before = layer.weight.item()
    optimizer = Optimizer(layer, OptimConfig(lr=1e-6, schedule="constant"), 300)
    for _ in range(300):
        layer.weight.grad = torch.ones_like(layer.weight)
        optimizer.step()
    assert before - layer.weight.item() == pytest.approx(3e-4, abs=6.2e-5)  # half a neighbour's distance


def test_a_checkpoint_loads_in_transformers_as_it_stands(tokenizer, examples, tmp_path):
    _, policy = run_grpo(tokenizer, examples, tmp_path)
    directory = checkpoint.latest(tmp_path)
    model = Qwen2VLForConditionalGeneration.from_pretrained(directory)
    for (name, p), q in zip(policy.model.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(p, q), name
    assert AutoTokenizer.from_pretrained(directory).encode("<think>A</think>") == tokenizer.encode("<think>A</think>")


def test_a_run_directory_belongs_to_one_run(tmp_path):
    checkpoint.open_run(tmp_path / "run", GRPO, resume=False)
    with pytest.raises(RunError, match="--resume"):
        checkpoint.open_run(tmp_path / "run", GRPO, resume=False)
    checkpoint.open_run(tmp_path / "run", GRPO, resume=True)
    with pytest.raises(RunError, match="another run"):
        checkpoint.open_run(tmp_path / "run", replace(GRPO, seed=1), resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="not empty"):
        checkpoint.open_run(tmp_path / "other", GRPO, resume=False)


def test_a_partial_checkpoint_is_never_resumed_from(tokenizer, examples, tmp_path):
    run_grpo(tokenizer, examples, tmp_path)
    partial = tmp_path / "checkpoints" / "step-9.partial"
    partial.mkdir()
    (partial / "trainer").mkdir()
    (partial / "trainer/state.safetensors").write_bytes(b"")
    assert checkpoint.latest(tmp_path).name == "step-4"


def test_sft_learns_the_letters(tokenizer, examples, tmp_path):
    config = replace(SFT, steps=60, prompts_per_step=3, save_every=60, optim=OptimConfig(lr=3e-3))
    _, _policy = run_sft(tokenizer, examples, tmp_path, config)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.1 * rows[0]["loss"]


def test_supervised_gradients_do_not_depend_on_micro_batches(tokenizer, examples):
    """Questions of one and of two images, targets of one and more tokens: one pass against two and four."""
    found = []
    for budget in (10**6, 150, 1):
        policy = fresh(tokenizer)
        groups = [sft.target(policy, SFT, example) for example in [*examples, examples[0]]]
        parts = len(list(batches.micro_batches([policy.tokens_of(group) for group in groups], range(4), budget)))
        loss = sft.backward(policy, groups, budget)
        found.append((parts, loss, {name: p.grad for name, p in policy.model.named_parameters()}))
    (one, loss, whole), *cut = found
    assert one == 1 and [parts for parts, *_ in cut] == [2, 4]
    batch = policy.encoder.groups(groups)
    assert loss == (-policy.logprobs(batch).sum() / batch.n_tokens).item()  # digit for digit what it was without micro-batches
    for _, other, gradients in cut:
        assert other == pytest.approx(loss, rel=1e-6)
        assert max((gradients[name] - whole[name]).norm() for name in whole) <= 1e-6 * max(value.norm() for value in whole.values())
        difference = sum(((gradients[name] - whole[name]) ** 2).sum() for name in whole).sqrt()
        assert difference <= 1e-6 * sum((value**2).sum() for value in whole.values()).sqrt()


def test_a_supervised_step_of_the_embedded_model_is_one_micro_batch(tmp_path):
    """32 questions, the longest there are: 1,632 tokens with letters, 2,587 with traces."""
    policy, examples = load_model("nano"), load_dataset("phantom:mri?split=train")
    picture("a").save(tmp_path / "a.png")  # of the phantoms' size; these take seconds to draw
    examples = [replace(example, images=(str(tmp_path / "a.png"),)) for example in examples]
    for name, most in (("nano", 1632), ("nano-traces", 2587)):
        config = recipes.find(name, "sft")
        lengths = sorted(policy.tokens_of(sft.target(policy, config, example)) for example in examples)[-config.prompts_per_step :]
        assert sum(lengths) == most <= config.tokens_per_micro_batch == sft.SFTConfig().tokens_per_micro_batch


def test_the_optimizer_resumes_exactly_after_a_step_without_gradients(tmp_path):
    """Groups that teach nothing are left out, and a question may have no image: then a parameter skips a step."""

    def gradients(model, seed):
        generator = torch.Generator().manual_seed(seed)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)

    whole, resumed = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    optimizer = Optimizer(whole, OptimConfig(lr=1e-2), 10)
    optimizer.step()
    gradients(whole, 1)
    optimizer.step()
    resumed.load_state_dict(whole.state_dict())
    again = Optimizer(resumed, OptimConfig(lr=1e-2), 10)
    shards.part(optimizer.state(), 2, (0, 1), torch.clone).write(tmp_path)
    again.load(shards.Stored(tmp_path), 2)
    for model, one in ((whole, optimizer), (resumed, again)):
        gradients(model, 2)
        one.step()
    assert torch.equal(whole.weight, resumed.weight)
