"""Group-relative policy optimisation (DeepSeekMath 2402.03300; the recipe of Pan et al. 2025).

Legend: P prompts of a step, G rollouts of a prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from medvlm_r1.models.adapt import Trainable
from medvlm_r1.models.policy import Policy
from medvlm_r1.rewards.rubric import sources
from medvlm_r1.rollout.collect import Scorer, collect
from medvlm_r1.rollout.engine import Engine, Sampling
from medvlm_r1.training import checkpoint
from medvlm_r1.training.batches import batch
from medvlm_r1.training.grpo.advantage import ADVANTAGES, is_flat
from medvlm_r1.training.grpo.draw import draw, spare
from medvlm_r1.training.grpo.update import Learner, UpdateConfig, update
from medvlm_r1.training.interrupt import stoppable
from medvlm_r1.training.optim import OptimConfig, Optimizer
from medvlm_r1.training.tracker import RolloutLog, Tracker
from medvlm_r1.types import Example, RolloutGroup


@dataclass(frozen=True)
class GRPOConfig:
    """A whole run. The defaults are the paper's (300 steps of 4 prompts, G = 4).

    ``test`` names the questions that nothing may be trained on. ``redraws``: how often a step may draw other questions for
    those whose rollouts all earned the same.
    """

    model: str = "Qwen/Qwen2-VL-2B-Instruct"
    data: str = ""
    test: str = ""
    template: str = "paper-train"
    view: str = "image"
    rewards: dict[str, float] = field(default_factory=lambda: {"format": 1.0, "accuracy": 1.0})
    advantage: str = "grpo"
    steps: int = 300
    prompts_per_step: int = 4
    redraws: int = 0
    sampling: Sampling = Sampling()
    update: UpdateConfig = UpdateConfig()
    optim: OptimConfig = OptimConfig()
    trainable: Trainable = Trainable()
    dtype: str = "bfloat16"
    max_pixels: int | None = 401408
    save_every: int = 100
    seed: int = 0

    def code(self) -> dict[str, str]:
        """The rewards that are not built in, with a hash of what they are made of: part of the fingerprint."""
        return sources(self.rewards)


def train(config: GRPOConfig, policy: Policy, engine: Engine, examples: Sequence[Example], rubric: Scorer, run_dir: Path) -> bool:
    """Run or resume; True when all steps are done, False when asked to stop before.

    The state after step N is the same bit for bit whether or not the run was
    interrupted: batches and samples are functions of (seed, step).
    """
    reference = policy.frozen_copy() if config.update.loss.kl_beta else None
    learner = Learner(policy, reference, Optimizer(policy.model, config.optim, config.steps), config.update)
    first = resume(run_dir, learner)
    engine.sync(policy)
    with Tracker(run_dir, config.steps, first) as tracker, RolloutLog(run_dir, first) as log, stoppable() as stop:
        for step in range(first, config.steps):
            examples_P, next_P = (batch(examples, config.prompts_per_step, step + n, config.seed) for n in (0, 1))
            policy.read_ahead(next_P)
            ask = partial(collect, engine, rubric=rubric, template=config.template, sampling=sampling(config, step))
            with learner.watch("rollout"):
                groups_P, drawn = draw(ask, examples_P, spare(examples, examples_P, step, config.seed), config.redraws)
            advantages_PG = ADVANTAGES[config.advantage](groups_P, config.rewards)
            metrics = update(learner, groups_P, advantages_PG)
            engine.sync(policy)
            log.log(step + 1, groups_P, advantages_PG)
            tracker.log(step + 1, rewards(groups_P) | drawn | metrics | learner.watch.lap())
            learner.optimizer.check()
            if stop or (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                checkpoint.save(run_dir, policy, learner.optimizer)
            if stop:
                return step + 1 == config.steps
    return True


def resume(run_dir: Path, learner: Learner) -> int:
    """Restore the newest checkpoint, if any; returns the steps done."""
    newest = checkpoint.latest(run_dir)
    return checkpoint.restore(newest, learner.policy, learner.optimizer) if newest else 0


def sampling(config: GRPOConfig, step: int) -> Sampling:
    """The step's sampling: same settings, a seed of its own."""
    return replace(config.sampling, seed=config.seed * 1_000_003 + config.sampling.seed + step)


def rewards(groups_P: Sequence[RolloutGroup]) -> dict[str, float]:
    """Means over the step's rollouts, part by part, and the share of groups that teach nothing."""
    rollouts = [rollout for group in groups_P for rollout in group.rollouts]
    parts = {f"reward/{name}": sum(rollout.rewards[name] for rollout in rollouts) / len(rollouts) for name in rollouts[0].rewards}
    flat = sum(is_flat(group.rewards_G) for group in groups_P)
    finished = sum(rollout.completion.finished for rollout in rollouts)
    return {
        "reward": sum(parts.values()),
        **parts,
        "zero_variance_groups": flat / len(groups_P),
        "finished": finished / len(rollouts),
    }
