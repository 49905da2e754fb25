"""Supervised fine-tuning on the same questions: letters alone, or gold reasoning traces."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from medvlm_r1.errors import DataError
from medvlm_r1.models.adapt import Trainable
from medvlm_r1.models.policy import Policy
from medvlm_r1.reasoning import gold, render
from medvlm_r1.training import checkpoint
from medvlm_r1.training.batches import batch
from medvlm_r1.training.distributed import Devices, current, lead, own_micro_batches
from medvlm_r1.training.grpo.meter import Stop
from medvlm_r1.training.held_out import HeldOut
from medvlm_r1.training.interrupt import stoppable
from medvlm_r1.training.optim import OptimConfig, Optimizer
from medvlm_r1.training.saving import Saver
from medvlm_r1.training.stopwatch import Stopwatch
from medvlm_r1.training.tracker import tracked
from medvlm_r1.training.verdict import is_over, verdict
from medvlm_r1.training.watchers import Watched
from medvlm_r1.types import Completion, Example, Rollout, RolloutGroup


@dataclass(frozen=True)
class SFTConfig:
    """A whole run; ``target`` is "letter" (the paper's baseline) or "trace" (gold reasoning).

    ``test`` names the questions that nothing may be trained on. A micro-batch holds ``tokens_per_micro_batch``
    tokens at most: prompts, images and targets.
    """

    model: str = "Qwen/Qwen2-VL-2B-Instruct"
    data: str = ""
    test: str = ""
    template: str = "paper-direct"
    view: str = "image"
    target: str = "letter"
    steps: int = 300
    prompts_per_step: int = 16
    tokens_per_micro_batch: int = 4096
    optim: OptimConfig = OptimConfig()
    trainable: Trainable = Trainable()
    devices: Devices = Devices()
    dtype: str = "bfloat16"
    max_pixels: int | None = 401408
    save_every: int = 100
    held_out: HeldOut = HeldOut()
    stop: Stop = Stop()
    seed: int = 0


def train(config: SFTConfig, policy: Policy, examples: Sequence[Example], run: Path | Watched) -> bool:
    """Run or resume; True when all steps are done (or the last that ``config.stop`` lets it do), False when asked to stop before."""
    optimizer, watch = Optimizer(policy.model, config.optim, config.steps), Stopwatch()
    run = Watched.of(run)
    done = checkpoint.resume(run.folder, policy, optimizer)
    first = config.steps if done and is_over(run.folder, done, config) else done
    with lead(tracked, run.folder, config.steps, first, run.sinks) as tracker, stoppable() as stop, Saver(run.folder) as saver:
        for step in range(first, config.steps):
            with watch("update"):
                examples_P = batch(examples, config.prompts_per_step, step, config.seed)
                optimizer.loss = backward(policy, [target(policy, config, example) for example in examples_P], config.tokens_per_micro_batch)
                norm = optimizer.step()
            policy.version += 1
            metrics = {"loss": optimizer.loss, "grad_norm": norm, "lr": optimizer.lr, "skipped_steps": optimizer.skipped} | watch.lap()
            tracker.log(step + 1, metrics | run.test(step + 1, policy))
            optimizer.check()
            found = verdict(run.folder, step + 1, config, stop.agreed())
            saver.keep(policy, optimizer, found.saves)
            if found.ends:
                return found.done
    return True


def backward(policy: Policy, groups_P: Sequence[RolloutGroup], budget: int) -> float:
    """Gradients of the mean over all target tokens of a step, in micro-batches of ``budget`` tokens; returns that mean loss.

    Of many processes each adds its share.
    """
    n_tokens = sum(len(rollout.completion.token_ids) for group in groups_P for rollout in group.rollouts)
    losses, tokens_P = [], [policy.tokens_of(group) for group in groups_P]
    for part, weight in own_micro_batches(tokens_P, range(len(groups_P)), budget, policy.is_cut):
        loss = -weight * policy.logprobs(policy.encoder.groups([groups_P[p] for p in part])).sum() / n_tokens
        loss.backward()
        losses.append(loss.detach())
    return current().total(torch.stack(losses).sum().item() if losses else 0.0)


def target(policy: Policy, config: SFTConfig, example: Example) -> RolloutGroup:
    """The completion to learn, as a group of one."""
    if config.target == "trace" and not example.reasoning:
        raise DataError(f'example "{example.id}" has no reasoning to learn from; set target=letter')
    text, prompt = gold(example, example.reasoning if config.target == "trace" else None), render(example, config.template)
    ids = policy.encoder.tokenizer(policy.encoder.thoughts.behind(text, prompt), add_special_tokens=False)["input_ids"] + [policy.stop_ids[0]]
    completion = Completion(tuple(ids), (0.0,) * len(ids), text, finished=True)
    return RolloutGroup(prompt, (Rollout(completion, {}),))
