"""From a configuration to a finished run."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medvlm_r1.config import fingerprint
from medvlm_r1.console import notice
from medvlm_r1.data.views import arm_of, viewed
from medvlm_r1.launch import rollouts
from medvlm_r1.launch.loading import load_model, memory_errors
from medvlm_r1.launch.request import Request
from medvlm_r1.models.adapt import adapt, table
from medvlm_r1.models.families import locate
from medvlm_r1.models.policy import Policy
from medvlm_r1.models.runs import checkpoints
from medvlm_r1.preflight import forecast, many, rehearsal, sifting
from medvlm_r1.preflight.machine import this_device
from medvlm_r1.preflight.questions import check_apart, held_out, put, questions, require_learnable, usable
from medvlm_r1.preflight.shape import ModelShape
from medvlm_r1.preflight.values import Config, check
from medvlm_r1.rewards.rubric import ByView
from medvlm_r1.training import checkpoint, identity, sft, sharding
from medvlm_r1.training.claim import AGAIN_S, BESIDE_S, Claim
from medvlm_r1.training.distributed import current, lead, restarted
from medvlm_r1.training.grpo import trainer as grpo
from medvlm_r1.training.held_out import Exam, untested
from medvlm_r1.training.watchers import Open, Watched
from medvlm_r1.types import Example


def run(config: Config, run_dir: Path, resume: bool = False, sinks: Sequence[Open] = ()) -> bool:
    """Train; True when all steps are done, False when stopped before (resume to go on, as a run that torchrun restarts does by itself).

    ``sinks``: further places for the run's numbers (training.watchers).
    """
    check(config)
    world, resume = current(), resume or restarted()
    world.first(checkpoint.check_run, run_dir, config, resume)
    if isinstance(config, grpo.GRPOConfig) and config.rollout.servers:
        world.first(rollouts.check_up, config.rollout)
    everything = questions(config.data)
    examples, lost = sifting.openable(everything)
    sifting.require_enough(lost, len(everything))
    check_apart(config, examples)
    examples = [viewed(example, config.view) for example in examples] if isinstance(config, sft.SFTConfig) else examples
    device = this_device()  # looked at before the model takes its share
    if not sharding.is_cut(config.devices):
        forecast.check_weights(config, device)
    with memory_errors():
        policy = load_model(config.model, sharding.loaded_in(config.devices, config.dtype), config.max_pixels)
        policy.template, policy.other_views = config.template, other_views(config, policy)
        adapt(policy.model, config.trainable, config.seed)
        notice("\n".join(map(str, table(policy.model))))
        examples, unfit = usable(config, policy, examples)
        lost += unfit
        sifting.require_enough(lost, len(everything))
        asked = put(config, examples)
        require_learnable(config, policy, asked)
        world.first(checkpoint.open_run, run_dir, config, resume)
        fresh = checkpoint.latest(run_dir) is None
        world.first(sifting.keep, run_dir, lost, fresh)
        tests = exam(config, policy)
        inputs = {"file of the model": identity.of_model(locate(config.model)), "question": identity.of_questions(asked, policy.encoder)}
        if tests.prompts:
            inputs["held-out question"] = identity.of_questions([prompt.example for prompt in tests.prompts], policy.encoder)
        world.first(identity.check, run_dir, inputs)
        world.first(checkpoint.check_space, run_dir, policy)
        if lost:
            notice(f"left out: {sifting.told(lost, len(everything))}")
        own = replace(config, prompts_per_step=-(-config.prompts_per_step // world.size))  # the largest share of a step
        planned = forecast.forecast(own, ModelShape.of(policy.model, policy.shares_prompts), forecast.Prompts.of(policy, own, asked), device)
        if sharding.is_cut(config.devices):
            check_cut(planned)
        else:
            check_memory(planned, policy, asked, fresh)
        policy = sharding.spread(policy, config.devices, config.dtype, isinstance(config, grpo.GRPOConfig) and config.update.loss.kl_beta > 0)
        watched = Watched(run_dir, tests if tests.prompts else untested, sinks)
        with lead(Claim, run_dir, AGAIN_S if restarted() else BESIDE_S):
            if isinstance(config, grpo.GRPOConfig):
                return grpo.train(config, policy, rollouts.engine(config.rollout, policy, run_dir), examples, ByView(config.views), watched)
            return sft.train(config, policy, examples, watched)


def exam(config: Config, policy: Policy) -> Exam:
    """What a run is asked while it goes on: by an answer as long as one of its rollouts, or as an evaluation's."""
    most = config.sampling.max_tokens if isinstance(config, grpo.GRPOConfig) else Request.max_tokens
    return Exam(held_out(config, policy, most), config.held_out.every, config.steps, most)


def other_views(config: Config, policy: Policy) -> list[str]:
    """What a model has learnt from beside its own pictures, in this run and in those before it, by the evaluation's name for it; a meter teaches nothing."""
    mine = [arm_of(view) for view in list(config.views)[1:]] if isinstance(config, grpo.GRPOConfig) else []
    return list(dict.fromkeys((*policy.other_views, *mine)))


def check_memory(planned: forecast.Forecast, policy: Policy, asked: Sequence[Example], fresh: bool) -> None:
    """Refuse what cannot fit, warn where the plan is tight; try the largest micro-batch of a new GRPO run where that can tell anything."""
    planned.refuse()
    if not planned.fits:
        notice(f"warning: {planned.sentence()}")
    if fresh and isinstance(planned.config, grpo.GRPOConfig) and rehearsal.is_worth(planned):
        notice(f"trying {rehearsal.describe(planned)}")
        rehearsal.rehearse(planned, policy, asked)


def check_cut(planned: forecast.Forecast) -> None:
    """Warn where a rank's part of a cut model is too much for its device; gathered for a rollout it is largest."""
    parts = many.memory(planned.shape, planned.work, current().size, many.Layout(planned.config.devices))
    phase = max(parts, key=parts.__getitem__)
    if parts[phase] > forecast.FULL * planned.device.free:
        notice(
            f"warning: each of {current().size} ranks needs {forecast.gib(parts[phase])} ({phase}) and has {forecast.gib(planned.device.free)} free; take more"
        )


def default_run_dir(name: str, config: Config) -> Path:
    """A place of its own for every configuration: the same command finds its run again."""
    return Path("runs") / f"{name}-{fingerprint(config)}"


def trained_model(run_dir: Path) -> Path:
    """The newest model of a finished run; ``models.runs.best`` is the one that did best on the held-out questions."""
    return checkpoints(run_dir)[-1]
