"""Group-relative policy optimisation (DeepSeekMath 2402.03300; the recipe of Pan et al. 2025).

Legend: P prompts of a step, G rollouts of a prompt.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from medvlm_r1.data.views import Share, shares
from medvlm_r1.models.adapt import Trainable
from medvlm_r1.models.policy import Policy
from medvlm_r1.rewards.rubric import WEIGHT, sources, weights_of
from medvlm_r1.rollout.collect import Scorer
from medvlm_r1.rollout.engine import Engine, Sampling
from medvlm_r1.training import checkpoint
from medvlm_r1.training.distributed import Devices, lead
from medvlm_r1.training.grpo.advantage import advantages, teaches_nothing
from medvlm_r1.training.grpo.asking import Asking
from medvlm_r1.training.grpo.meter import Stop, looking
from medvlm_r1.training.grpo.source import Ask, Rollouts, sourced
from medvlm_r1.training.grpo.update import Learner, UpdateConfig, update
from medvlm_r1.training.held_out import HeldOut
from medvlm_r1.training.interrupt import stoppable
from medvlm_r1.training.optim import OptimConfig, Optimizer
from medvlm_r1.training.saving import Saver
from medvlm_r1.training.tracker import RolloutLog, tracked
from medvlm_r1.training.verdict import is_over, verdict
from medvlm_r1.training.watchers import Watched
from medvlm_r1.types import Example, RolloutGroup

Views = dict[str, dict[str, float]]


def _rewarded(config: "GRPOConfig", rewards: Mapping[str, float]) -> "GRPOConfig":
    """The same run with other rewards under its first view."""
    (first, before), *others = config.views.items()
    weight = {name: value for name, value in before.items() if name == WEIGHT}
    return replace(config, views={first: dict(rewards) | weight, **dict(others)})


def _seen(config: "GRPOConfig", view: str) -> "GRPOConfig":
    """The same run with another first view."""
    (_, rewards), *others = config.views.items()
    return replace(config, views={view: rewards, **{name: values for name, values in others if name != view}})


@dataclass(frozen=True)
class GRPOConfig:
    """A whole run. The defaults are the paper's (300 steps of 4 prompts, G = 4).

    ``test`` names the questions that nothing may be trained on. ``redraws``: how often a step may draw other questions for
    those whose rollouts all earned the same. ``views``: what a question is shown as (``data.views``), each with its rewards and,
    if it is not 1, the ``weight`` of its advantages; ``sampling.n`` rollouts of a question are shared among them. ``meter``: how
    many of these are spent on another patient's picture to measure, not to learn.
    """

    model: str = "Qwen/Qwen2-VL-2B-Instruct"
    data: str = ""
    test: str = ""
    template: str = "paper-train"
    views: Views = field(default_factory=lambda: {"image": {"format": 1.0, "accuracy": 1.0}})
    meter: int = 0
    advantage: str = "grpo"
    steps: int = 300
    prompts_per_step: int = 4
    redraws: int = 0
    sampling: Sampling = Sampling()
    rollout: Rollouts = Rollouts()
    update: UpdateConfig = UpdateConfig()
    optim: OptimConfig = OptimConfig()
    trainable: Trainable = Trainable()
    devices: Devices = Devices()
    dtype: str = "bfloat16"
    max_pixels: int | None = 401408
    save_every: int = 100
    held_out: HeldOut = HeldOut()
    stop: Stop = Stop()
    seed: int = 0

    OLDER = MappingProxyType({"rewards": (dict[str, float], _rewarded), "view": (str, _seen)})  # what ``--set`` still understands: those of the first view

    @property
    def rewards(self) -> dict[str, float]:
        """Those of the first view."""
        return {name: value for name, value in next(iter(self.views.values())).items() if name != WEIGHT}

    @property
    def weights(self) -> dict[str, float]:
        """Of all rewards, by the names of their parts."""
        return weights_of(self.views)

    @property
    def shares(self) -> dict[str, Share]:
        """How many rollouts of a question each view gets."""
        return shares(self.views, self.sampling.n, self.meter)

    def asking(self, examples: Sequence[Example]) -> Asking:
        """What its steps ask, of these questions."""
        return Asking(examples, self.shares, self.prompts_per_step, self.seed, self.is_flat)

    def is_flat(self, group: RolloutGroup) -> bool:
        """Does a group teach nothing under its advantage?"""
        return teaches_nothing(self.advantage, self.weights, group)

    def code(self) -> dict[str, str]:
        """The rewards that are not built in, with a hash of what they are made of: part of the fingerprint."""
        return sources(name for view in self.views.values() for name in view if name != WEIGHT)


def train(config: GRPOConfig, policy: Policy, engine: Engine, examples: Sequence[Example], rubric: Scorer, run: Path | Watched) -> bool:
    """Run or resume; True when all steps are done (or the last that ``config.stop`` lets it do), False when asked to stop before.

    The state after step N is the same, on a CPU bit for bit, whether or not the run was
    interrupted: batches and samples are functions of (seed, step). With an engine apart from this process see ``source.Ahead``.
    """
    reference = policy.frozen_copy() if config.update.loss.kl_beta else None
    learner = Learner(policy, reference, Optimizer(policy.model, config.optim, config.steps), config.update)
    run = Watched.of(run)
    first, asking = resume(run.folder, learner, config), config.asking(examples)
    source = sourced(engine, asked(config, asking, engine, rubric), config.rollout.lag, range(first, config.steps))
    with (
        lead(tracked, run.folder, config.steps, first, run.sinks) as tracker,
        lead(RolloutLog, run.folder, first) as log,
        stoppable() as stop,
        source,
        Saver(run.folder) as saver,
    ):
        source.sync(policy)
        for step in range(first, config.steps):
            policy.read_ahead([shown.example for shown in asking.shown(step + 1)])
            with learner.watch("rollout"):
                groups_P, drawn = source.take(step)
            advantages_PG = advantages(config.advantage, groups_P, config.weights)
            metrics = update(learner, groups_P, advantages_PG)
            source.sync(policy)
            log.log(step + 1, groups_P, advantages_PG)
            tracker.log(step + 1, rewards(groups_P, config.is_flat) | looking(groups_P) | drawn | metrics | learner.watch.lap() | run.test(step + 1, policy))
            learner.optimizer.check()
            found = verdict(run.folder, step + 1, config, stop.agreed())
            saver.keep(policy, learner.optimizer, found.saves)
            if found.ends:
                return found.done
    return True


def resume(run_dir: Path, learner: Learner, config: GRPOConfig) -> int:
    """Restore the newest checkpoint, if any; returns the steps done, or all of them where ``config.stop`` has ended the run."""
    done = checkpoint.resume(run_dir, learner.policy, learner.optimizer)
    return config.steps if done and is_over(run_dir, done, config) else done


def asked(config: GRPOConfig, asking: Asking, engine: Engine, rubric: Scorer) -> Ask:
    """What a source asks: the scored groups of a step, whoever shares in the writing."""
    return lambda step, world: asking.take(step, engine, (rubric, config.template, sampling(config, step)), config.redraws, world)


def sampling(config: GRPOConfig, step: int) -> Sampling:
    """The step's sampling: same settings, a seed of its own."""
    return replace(config.sampling, seed=config.seed * 1_000_003 + config.sampling.seed + step)


def rewards(groups_P: Sequence[RolloutGroup], is_flat: Callable[[RolloutGroup], bool]) -> dict[str, float]:
    """Means over the rollouts that teach, part by part, each over those of its view; and the share of groups that teach nothing."""
    teaching = [group for group in groups_P if group.weight]
    rollouts = [rollout for group in teaching for rollout in group.rollouts]
    parts: dict[str, list[float]] = {}
    for rollout in rollouts:
        for name, value in rollout.rewards.items():
            parts.setdefault(name, []).append(value)
    flat = sum(map(is_flat, teaching))
    finished = sum(rollout.completion.finished for rollout in rollouts)
    return {
        "reward": sum(sum(values) / len(rollouts) for values in parts.values()),
        **{f"reward/{name}": sum(values) / len(values) for name, values in parts.items()},
        "zero_variance_groups": flat / len(teaching),
        "finished": finished / len(rollouts),
    }
