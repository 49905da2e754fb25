"""From a configuration to a finished run."""

from collections.abc import Sequence
from pathlib import Path

from medvlm_r1.config import fingerprint
from medvlm_r1.console import notice
from medvlm_r1.data.views import viewed
from medvlm_r1.launch.loading import load_model, memory_errors
from medvlm_r1.models.adapt import adapt, table
from medvlm_r1.models.policy import Policy
from medvlm_r1.preflight import forecast, rehearsal, sifting
from medvlm_r1.preflight.machine import this_device
from medvlm_r1.preflight.memory import ModelShape
from medvlm_r1.preflight.questions import check_apart, put, questions, require_learnable, usable
from medvlm_r1.preflight.values import Config, check
from medvlm_r1.rewards.rubric import ByView
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.training import checkpoint, sft
from medvlm_r1.training.grpo import trainer as grpo
from medvlm_r1.types import Example


def run(config: Config, run_dir: Path, resume: bool = False) -> bool:
    """Train; True when all steps are done, False when stopped before (resume to go on)."""
    check(config)
    checkpoint.check_run(run_dir, config, resume)
    everything = questions(config.data)
    examples, lost = sifting.openable(everything)
    sifting.require_enough(lost, len(everything))
    check_apart(config, examples)
    examples = [viewed(example, config.view) for example in examples] if isinstance(config, sft.SFTConfig) else examples
    device = this_device()  # looked at before the model takes its share
    forecast.check_weights(config, device)
    with memory_errors():
        policy = load_model(config.model, config.dtype, config.max_pixels)
        policy.template, policy.other_views = config.template, other_views(config, policy)
        adapt(policy.model, config.trainable, config.seed)
        notice("\n".join(map(str, table(policy.model))))
        examples, unfit = usable(config, policy, examples)
        lost += unfit
        sifting.require_enough(lost, len(everything))
        asked = put(config, examples)
        require_learnable(config, policy, asked)
        checkpoint.open_run(run_dir, config, resume)
        checkpoint.check_space(run_dir, policy)
        fresh = checkpoint.latest(run_dir) is None
        sifting.keep(run_dir, lost, fresh)
        if lost:
            notice(f"left out: {sifting.told(lost, len(everything))}")
        planned = forecast.forecast(config, ModelShape.of(policy.model), forecast.Prompts.of(policy, config, asked), device)
        check_memory(planned, policy, asked, fresh)
        if isinstance(config, grpo.GRPOConfig):
            return grpo.train(config, policy, LocalEngine(policy, learning=True), examples, ByView(config.views), run_dir)
        return sft.train(config, policy, examples, run_dir)


def other_views(config: Config, policy: Policy) -> list[str]:
    """What a model has learnt from beside its own pictures, in this run and in those before it; a meter teaches nothing."""
    mine = list(config.views)[1:] if isinstance(config, grpo.GRPOConfig) else []
    return list(dict.fromkeys((*policy.other_views, *mine)))


def check_memory(planned: forecast.Forecast, policy: Policy, asked: Sequence[Example], fresh: bool) -> None:
    """Refuse what cannot fit, warn where the plan is tight; try the largest micro-batch of a new GRPO run where that can tell anything."""
    planned.refuse()
    if not planned.fits:
        notice(f"warning: {planned.sentence()}")
    if fresh and isinstance(planned.config, grpo.GRPOConfig) and rehearsal.is_worth(planned):
        notice(f"trying {rehearsal.describe(planned)}")
        rehearsal.rehearse(planned, policy, asked)


def default_run_dir(name: str, config: Config) -> Path:
    """A place of its own for every configuration: the same command finds its run again."""
    return Path("runs") / f"{name}-{fingerprint(config)}"


def trained_model(run_dir: Path) -> Path:
    """The newest model of a finished run."""
    return checkpoint.models(run_dir)[-1]
