"""From a configuration to a finished run: the only place that chooses concrete classes."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from medvlm_r1.config import fingerprint
from medvlm_r1.data.dataset import Dataset, check_images, load_dataset
from medvlm_r1.data.images import load_image
from medvlm_r1.data.views import VIEWS
from medvlm_r1.errors import ConfigError, DataError, EngineError, ImageError, MedVLMError, nearest
from medvlm_r1.evaluation.run import EvalConfig, evaluate
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.grpo import trainer as grpo
from medvlm_r1.grpo.advantage import ADVANTAGES
from medvlm_r1.grpo.loss import KL
from medvlm_r1.models.families import load_policy
from medvlm_r1.models.policy import Policy
from medvlm_r1.reasoning import TEMPLATES, gold, render
from medvlm_r1.rewards.rubric import REWARDS, Rubric
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.sft import trainer as sft
from medvlm_r1.training import checkpoint
from medvlm_r1.training.batches import batch_indices
from medvlm_r1.training.optim import SCHEDULES
from medvlm_r1.types import Completion, Example

Config = grpo.GRPOConfig | sft.SFTConfig

DTYPES = ("float32", "bfloat16")
_NAMES = {
    "template": TEMPLATES, "view": VIEWS, "dtype": DTYPES, "advantage": ADVANTAGES, "update.loss.kl": KL,
    "optim.schedule": SCHEDULES, "target": ("letter", "trace"),
}  # fmt: skip
_LEAST = {
    "steps": 1, "prompts_per_step": 1, "save_every": 1, "sampling.n": 2, "sampling.max_tokens": 1, "max_pixels": 28**2, "seed": 0,
    "update.tokens_per_micro_batch": 1, "update.loss.kl_beta": 0, "optim.warmup_steps": 0, "optim.weight_decay": 0,
}  # fmt: skip
_POSITIVE = ("optim.lr", "optim.max_grad_norm", "sampling.temperature", "update.temperature")


def run(config: Config, run_dir: Path, resume: bool = False) -> bool:
    """Train; True when all steps are done, False when stopped before (resume to go on)."""
    check(config)
    checkpoint.check_run(run_dir, config, resume)
    examples = questions(config.data)
    with memory_errors():
        policy = load_model(config.model, config.dtype, config.max_pixels).viewing(view_of(config.view))
        policy.template = config.template
        prove(config, policy, used(config, examples))
        checkpoint.open_run(run_dir, config, resume)
        checkpoint.check_space(run_dir, policy)
        if isinstance(config, grpo.GRPOConfig):
            return grpo.train(config, policy, LocalEngine(policy, learning=True), examples, Rubric(config.rewards), run_dir)
        return sft.train(config, policy, examples, run_dir)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turns a full GPU into an EngineError with the remedy."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise EngineError(
            "the GPU's memory is full; lower max_pixels, prompts_per_step, sampling.n or update.tokens_per_micro_batch "
            f"({str(error).splitlines()[0]})"
        ) from error


def check(config: Config) -> None:
    """Every value that has a name or a bound. Raises ConfigError with the key, the value and what it may be."""
    for key, known in _NAMES.items():
        if (name := _value(config, key)) is not None and name not in known:
            raise ConfigError(f'unknown {key.rpartition(".")[2]} "{name}"{nearest(name, known)}')
    for key, least in _LEAST.items():
        if (value := _value(config, key)) is not None and not least <= value < math.inf:
            raise ConfigError(f'"{key}" wants {least} or more, got {value}')
    for key in _POSITIVE:
        if (value := _value(config, key)) is not None and not 0 < value < math.inf:
            raise ConfigError(f'"{key}" wants more than 0, got {value}')
    if not all(0 <= beta < 1 for beta in config.optim.betas):
        raise ConfigError(f'"optim.betas" wants two numbers from 0 to below 1, got {list(config.optim.betas)}')
    if isinstance(config, grpo.GRPOConfig):
        if not Rubric(config.rewards).weights:
            raise ConfigError('"rewards" is empty, so nothing can be learnt; name one, such as {"accuracy": 1.0}')
        if config.sampling.temperature != config.update.temperature:
            raise ConfigError("sampling.temperature and update.temperature differ; the update must see the policy that sampled")


def _value(config: Any, key: str) -> Any:
    return reduce(lambda inner, name: getattr(inner, name, None), key.split("."), config)


def load_model(name: str, dtype: str = "float32", max_pixels: int | None = None) -> Policy:
    """A policy from a directory, a hub id or ``nano``, with every kind of image we can open."""
    logging.disable_progress_bar()  # it would write into ours
    logging.set_verbosity_error()  # what it reports of wrong weights is an error of ours, with a remedy
    return load_policy(name, load_image, dtype, max_pixels)


def questions(spec: str) -> Dataset:
    """The data set behind ``spec``, every image opened once before anything is trained."""
    if not spec:
        raise ConfigError("no data: give --data with a manifest (see docs/data.md) or phantom:mri")
    examples = load_dataset(spec)
    check_images(examples)
    return examples


def used(config: Config, examples: Sequence[Example]) -> list[Example]:
    """The questions that the run will put, each once."""
    steps = (batch_indices(len(examples), config.prompts_per_step, step, config.seed) for step in range(config.steps))
    return [examples[row] for row in sorted({row for rows in steps for row in rows})]


def prove(config: Config, policy: Policy, examples: Iterable[Example]) -> None:
    """Does every question fit the model, and can its gold answer earn every reward? Then no late step fails on one.

    Raises DataError or ImageError that names the question by id.
    """
    for example in examples:
        check_prompt(policy, example, config.template)
        if isinstance(config, sft.SFTConfig):
            sft.target(policy, config, example)
        else:
            check_gold(config.rewards, example)


def check_gold(rewards: Iterable[str], example: Example) -> None:
    """Raises DataError where the question's own answer, with or without a thought, earns none of a reward."""
    golds = [Completion((), (), gold(example, think), finished=True) for think in ("…", None)]
    for name in rewards:
        if not any(REWARDS[name](completion, example) for completion in golds):
            raise DataError(
                f'question "{example.id}": its own answer "{example.answer}" cannot earn the reward "{name}"; '
                "give it options, or name other rewards with --set rewards=…"
            )


def check_prompt(policy: Policy, example: Example, template: str) -> None:
    """Can this model be asked this question? Raises DataError or ImageError that names it by id."""
    prompt = render(example, template)
    tokens = policy.encoder.tokenizer.all_special_tokens
    if found := next((token for token in tokens if token in prompt.text), None):
        raise DataError(f'question "{example.id}" contains "{found}", which steers the model; take it out')
    try:
        policy.encoder.prompt_ids(prompt)
    except MedVLMError:
        raise
    except ValueError as error:
        raise ImageError(f'question "{example.id}": an image cannot be prepared ({error}); crop it, or drop the question') from error


def view_of(name: str) -> Callable | None:
    """The view of a name; raises ConfigError with the nearest one."""
    if name not in VIEWS:
        raise ConfigError(f'unknown view "{name}"{nearest(name, VIEWS)}')
    return VIEWS[name]


def default_run_dir(name: str, config: Config) -> Path:
    """A place of its own for every configuration: the same command finds its run again."""
    return Path("runs") / f"{name}-{fingerprint(config)}"


def trained_model(run_dir: Path) -> Path:
    """The newest model of a finished run."""
    return checkpoint.models(run_dir)[-1]


def evaluate_policy(policy: Policy, examples: Sequence[Example], config: EvalConfig, progress: Callable[[int], None]) -> list[Sample]:
    """Evaluate on this machine, under one arm."""
    return evaluate(LocalEngine(policy.viewing(view_of(config.arm))), examples, config, progress)
