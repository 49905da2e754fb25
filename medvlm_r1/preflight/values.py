"""What is checked before step 1: no late step may fail on a value, a question or a picture that was there to see."""

import math
from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any

from medvlm_r1.data.clean import torn
from medvlm_r1.data.dataset import check_images, load_dataset, parsed
from medvlm_r1.data.leak import require_apart
from medvlm_r1.data.parts import to_train
from medvlm_r1.data.views import VIEWS
from medvlm_r1.errors import ConfigError, DataError, ImageError, MedVLMError, nearest
from medvlm_r1.models import adapt
from medvlm_r1.models.policy import Policy
from medvlm_r1.reasoning import TEMPLATES, gold, render
from medvlm_r1.rewards.rubric import REWARDS, Rubric
from medvlm_r1.training import sft
from medvlm_r1.training.batches import batch_indices
from medvlm_r1.training.grpo import trainer as grpo
from medvlm_r1.training.grpo.advantage import ADVANTAGES
from medvlm_r1.training.grpo.loss import KL
from medvlm_r1.training.optim import SCHEDULES
from medvlm_r1.training.tracker import notice
from medvlm_r1.types import Completion, Example

Config = grpo.GRPOConfig | sft.SFTConfig

DTYPES = ("float32", "bfloat16")
_NAMES = {
    "template": TEMPLATES, "view": ("image", *VIEWS), "dtype": DTYPES, "advantage": ADVANTAGES, "update.loss.kl": KL,
    "optim.schedule": SCHEDULES, "target": ("letter", "trace"),
}  # fmt: skip
_LEAST = {
    "steps": 1, "prompts_per_step": 1, "save_every": 1, "sampling.n": 2, "sampling.max_tokens": 1, "max_pixels": 28**2, "seed": 0,
    "update.tokens_per_micro_batch": 1, "update.loss.kl_beta": 0, "optim.warmup_steps": 0, "optim.weight_decay": 0,
}  # fmt: skip
_POSITIVE = ("optim.lr", "optim.max_grad_norm", "sampling.temperature", "update.temperature")


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
    adapt.check(config.trainable)
    if not all(0 <= beta < 1 for beta in config.optim.betas):
        raise ConfigError(f'"optim.betas" wants two numbers from 0 to below 1, got {list(config.optim.betas)}')
    if isinstance(config, grpo.GRPOConfig):
        if not Rubric(config.rewards).weights:
            raise ConfigError('"rewards" is empty, so nothing can be learnt; name one, such as {"accuracy": 1.0}')
        if config.sampling.temperature != config.update.temperature:
            raise ConfigError("sampling.temperature and update.temperature differ; the update must see the policy that sampled")


def _value(config: Any, key: str) -> Any:
    return reduce(lambda inner, name: getattr(inner, name, None), key.split("."), config)


def questions(spec: str) -> Sequence[Example]:
    """What of the data set behind ``spec`` is trained on, every image opened once before: without a split in ``spec``, not its test part."""
    data, (_, filters) = load_dataset(spec), parsed(spec)
    examples, left_out = (data, "") if "split" in filters else to_train(data, spec)
    for note in (*data.notes, *([left_out] if left_out else [])):
        notice(note)
    check_images(examples)
    return examples


def check_apart(config: Config, examples: Sequence[Example]) -> None:
    """Raises DataError where a training question shares a picture or a group with the test set that the configuration names."""
    if config.test:
        require_apart(examples, load_dataset(config.test))


def used(config: Config, examples: Sequence[Example]) -> list[Example]:
    """The questions that the run will put, each once."""
    steps = (batch_indices(len(examples), config.prompts_per_step, step, config.seed) for step in range(config.steps))
    return [examples[row] for row in sorted({row for rows in steps for row in rows})]


def prove(config: Config, policy: Policy, examples: Sequence[Example]) -> None:
    """Does every question fit the model, and can its gold answer earn every reward? Then no late step fails on one.

    Raises DataError or ImageError that names the question by id.
    """
    policy.ahead(examples)
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


def check_askable(policy: Policy, examples: Sequence[Example], template: str) -> None:
    """``check_prompt`` for an evaluation: a picture that cannot be opened costs its question only."""
    faults = []
    for example in examples:
        try:
            check_prompt(policy, example, template)
        except ImageError as error:
            faults.append(f'question "{example.id}": {error}')
    if faults:
        notice(f"{len(faults)} of {len(examples)} questions will have no answer, the first: {faults[0]}")


def check_prompt(policy: Policy, example: Example, template: str) -> None:
    """Can this model be asked this question? Raises DataError or ImageError that names it by id."""
    if half := torn(example):
        raise DataError(f'question "{example.id}": {half}, which no tokenizer takes; write the whole character, or take it out')
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
