"""From a configuration to a finished run: the only place that chooses concrete classes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers.utils import logging

from medvlm_r1.config import fingerprint
from medvlm_r1.data.images import load_image
from medvlm_r1.data.views import viewed
from medvlm_r1.errors import EngineError
from medvlm_r1.evaluation.asking.run import EvalConfig, evaluate
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.models.adapt import adapt, table
from medvlm_r1.models.families import is_hub_id, load_policy, locate
from medvlm_r1.models.policy import Policy
from medvlm_r1.preflight import forecast as planning
from medvlm_r1.preflight import rehearsal
from medvlm_r1.preflight.machine import this_device
from medvlm_r1.preflight.memory import ModelShape
from medvlm_r1.preflight.values import Config, check, check_apart, prove, questions, used
from medvlm_r1.rewards.rubric import Rubric
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.training import checkpoint, sft
from medvlm_r1.training.grpo import trainer as grpo
from medvlm_r1.training.tracker import notice
from medvlm_r1.types import Example

SLOW_BYTES = 2**28  # a model of this size takes long enough to load that one wants to know


def run(config: Config, run_dir: Path, resume: bool = False) -> bool:
    """Train; True when all steps are done, False when stopped before (resume to go on)."""
    check(config)
    checkpoint.check_run(run_dir, config, resume)
    examples = questions(config.data)
    check_apart(config, examples)
    examples = [viewed(example, config.view) for example in examples]
    device = this_device()  # looked at before the model takes its share
    planning.check_weights(config, device)
    with memory_errors():
        policy = load_model(config.model, config.dtype, config.max_pixels)
        policy.template = config.template
        adapt(policy.model, config.trainable, config.seed)
        notice("\n".join(map(str, table(policy.model))))
        asked = used(config, examples)
        prove(config, policy, asked)
        checkpoint.open_run(run_dir, config, resume)
        checkpoint.check_space(run_dir, policy)
        forecast = planning.forecast(config, ModelShape.of(policy.model), planning.Prompts.of(policy, config, asked), device)
        check_memory(forecast, policy, asked, fresh=checkpoint.latest(run_dir) is None)
        if isinstance(config, grpo.GRPOConfig):
            return grpo.train(config, policy, LocalEngine(policy, learning=True), examples, Rubric(config.rewards), run_dir)
        return sft.train(config, policy, examples, run_dir)


def check_memory(forecast: planning.Forecast, policy: Policy, asked: Sequence[Example], fresh: bool) -> None:
    """Refuse what cannot fit, warn where the plan is tight; try the largest micro-batch of a new GRPO run where that can tell anything."""
    forecast.refuse()
    if not forecast.fits:
        notice(f"warning: {forecast.sentence()}")
    if fresh and isinstance(forecast.config, grpo.GRPOConfig) and rehearsal.is_worth(forecast):
        notice(f"trying {rehearsal.describe(forecast)}")
        rehearsal.rehearse(forecast, policy, asked)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turns a full GPU into an EngineError with the remedy."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise EngineError(
            f"the GPU's memory is full; lower max_pixels, prompts_per_step, sampling.n or (update.)tokens_per_micro_batch ({str(error).splitlines()[0]})"
        ) from error


def load_model(name: str, dtype: str = "float32", max_pixels: int | None = None) -> Policy:
    """A policy from a directory, a hub id or ``nano``, with every kind of image we can open."""
    logging.disable_progress_bar()  # it would write into ours
    logging.set_verbosity_error()  # what it reports of wrong weights is an error of ours, with a remedy
    if is_hub_id(name):
        notice(f"fetching {name} from the hub, as far as it is not here yet")
    directory = locate(name)
    size = sum(file.stat().st_size for file in directory.glob("model*.safetensors"))
    if size >= SLOW_BYTES:
        notice(f"loading {name}, {planning.gib(size)}")
    return load_policy(str(directory), load_image, dtype, max_pixels)


def default_run_dir(name: str, config: Config) -> Path:
    """A place of its own for every configuration: the same command finds its run again."""
    return Path("runs") / f"{name}-{fingerprint(config)}"


def trained_model(run_dir: Path) -> Path:
    """The newest model of a finished run."""
    return checkpoint.models(run_dir)[-1]


def evaluate_policy(policy: Policy, examples: Sequence[Example], config: EvalConfig, progress: Callable[[int], None]) -> list[Sample]:
    """Evaluate on this machine, under one arm."""
    return evaluate(LocalEngine(policy), examples, config, progress)
