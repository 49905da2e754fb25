"""What is checked of a configuration before anything is loaded: every value that has a name or a bound."""

import math
from functools import reduce
from typing import Any

from medvlm_r1.data.views import EFFECTS, METER, VIEWS, arm_of
from medvlm_r1.errors import ConfigError, nearest
from medvlm_r1.models import adapt
from medvlm_r1.reasoning import TEMPLATES
from medvlm_r1.rewards.rubric import WEIGHT, Rubric
from medvlm_r1.rollout.calling import Endpoint
from medvlm_r1.training import sft
from medvlm_r1.training.grpo import trainer as grpo
from medvlm_r1.training.grpo.advantage import ADVANTAGES
from medvlm_r1.training.grpo.loss import KL, REDUCE, SURROGATES, TRUST
from medvlm_r1.training.grpo.source import Rollouts
from medvlm_r1.training.optim import SCHEDULES

Config = grpo.GRPOConfig | sft.SFTConfig

DTYPES = ("float32", "bfloat16")
_NAMES = {
    "template": TEMPLATES, "view": ("image", *EFFECTS), "dtype": DTYPES, "advantage": ADVANTAGES, "update.loss.kl": KL,
    "update.loss.surrogate": SURROGATES, "update.loss.reduce": REDUCE, "update.loss.trust": TRUST,
    "optim.schedule": SCHEDULES, "target": ("letter", "trace"),
    "rollout.engine": ("local", "vllm"), "rollout.weights": ("file", "nccl", "ipc"), "rollout.pause": ("wait", "keep"),
}  # fmt: skip
_LEAST = {
    "steps": 1, "prompts_per_step": 1, "save_every": 1, "sampling.n": 2, "sampling.max_tokens": 1, "sampling.min_tokens": 0, "max_pixels": 28**2, "seed": 0, "sampling.seed": 0,
    "update.tokens_per_micro_batch": 1, "tokens_per_micro_batch": 1, "update.loss.kl_beta": 0, "optim.warmup_steps": 0, "optim.weight_decay": 0,
    "update.epochs": 1, "update.mini_batches": 1, "redraws": 0, "meter": 0, "stop.window": 2, "stop.patience": 1, "held_out.every": 1, "update.loss.clip_low": 0, "update.loss.clip_high": 0, "update.loss.trust_least": 0,
    "rollout.lag": 0, "rollout.concurrency": 1,
}  # fmt: skip
_MOST = {"prompts_per_step": 2**16, "sampling.n": 2**12, "redraws": 2**10, "seed": math.inf, "sampling.seed": math.inf}  # others: 32 bits
_POSITIVE = (
    "optim.lr", "optim.max_grad_norm", "sampling.temperature", "update.temperature",
    "rollout.timeout_s", "stop.kept", "update.loss.temperature_up", "update.loss.temperature_down", "update.loss.trust_most",
)  # fmt: skip


def check(config: Config) -> None:
    """Every value that has a name or a bound. Raises ConfigError with the key, the value and what it may be."""
    for key, known in _NAMES.items():
        if (name := _value(config, key)) is not None and name not in known:
            raise ConfigError(f'unknown {key.rpartition(".")[2]} "{name}"{nearest(name, known)}')
    for key, least in _LEAST.items():
        if (value := _value(config, key)) is not None and not least <= value < math.inf:
            raise ConfigError(f'"{key}" wants {least} or more, got {value}')
        if value is not None and value > (most := _MOST.get(key, 2**31 - 1)):
            raise ConfigError(f'"{key}" wants {most} or less, got {value}')
    for key in _POSITIVE:
        if (value := _value(config, key)) is not None and not 0 < value < math.inf:
            raise ConfigError(f'"{key}" wants more than 0, got {value}')
    adapt.check(config.trainable)
    check_stop(config)
    if not all(0 <= beta < 1 for beta in config.optim.betas):
        raise ConfigError(f'"optim.betas" wants two numbers from 0 to below 1, got {list(config.optim.betas)}')
    if isinstance(config, grpo.GRPOConfig):
        check_views(config)
        check_rollouts(config)
        if config.sampling.min_tokens > config.sampling.max_tokens:
            raise ConfigError(f'"sampling.min_tokens" is {config.sampling.min_tokens}, above max_tokens ({config.sampling.max_tokens}); lower it')
        if config.sampling.temperature != config.update.temperature:
            raise ConfigError("sampling.temperature and update.temperature differ; the update must see the policy that sampled")
        if config.update.mini_batches > config.prompts_per_step:
            raise ConfigError(f'"update.mini_batches" is {config.update.mini_batches}, and a step has {config.prompts_per_step} groups to cut; lower it')
        if config.update.loss.trust_least > config.update.loss.trust_most:
            raise ConfigError(f'"update.loss.trust_least" is {config.update.loss.trust_least}, above trust_most ({config.update.loss.trust_most}); lower it')


def servers(rollout: Rollouts) -> list[str]:
    """Their addresses, with or without the /v1 that other programs want. Raises ConfigError for one that is none.

    >>> servers(Rollouts("vllm", ("http://gpu01:8000/v1", "http://gpu02:8000/")))
    ['http://gpu01:8000', 'http://gpu02:8000']
    """
    return [Endpoint(url.rstrip("/").removesuffix("/v1"), "").url for url in rollout.servers]


def check_rollouts(config: grpo.GRPOConfig) -> None:
    """Who writes, and how old it may be. Raises ConfigError."""
    rollout, found = config.rollout, servers(config.rollout)
    if rollout.engine == "local" and found:
        raise ConfigError('"rollout.servers" names servers that nobody asks; set rollout.engine=vllm too')
    if rollout.engine == "vllm" and not found:
        raise ConfigError('"rollout.engine" is vllm and "rollout.servers" is empty; set \'rollout.servers=["http://HOST:PORT"]\'')
    if len(set(found)) < len(found):
        raise ConfigError(f'"rollout.servers" names a server twice: {", ".join(found)}')
    if rollout.lag and rollout.engine == "local":
        raise ConfigError(f'"rollout.lag" is {rollout.lag}, and this process writes and learns by turns; set rollout.engine=vllm, or rollout.lag=0')
    if rollout.lag and config.update.loss.trust == "none":
        raise ConfigError(f'"rollout.lag" is {rollout.lag}, so that older weights write than those that learn; set update.loss.trust=truncated')


def check_views(config: grpo.GRPOConfig) -> None:
    """What a run is shown, what that earns, and how its rollouts are shared. Raises ConfigError."""
    if not config.views:
        raise ConfigError('"views" is empty, so nothing is shown; write {"image": {"format": 1, "accuracy": 1}}')
    for view, weights in config.views.items():
        if view not in VIEWS:
            raise ConfigError(f'unknown view "{view}"{nearest(view, VIEWS)}')
        if not 0 < (weight := weights.get(WEIGHT, 1.0)) < math.inf:
            raise ConfigError(f'the view "{view}" weighs {weight}; give it more than 0, or leave it out, and use the meter to measure without learning')
        rewards = Rubric({name: value for name, value in weights.items() if name != WEIGHT}).weights
        if not rewards:
            raise ConfigError(f'"rewards" of the view "{view}" is empty, so nothing can be learnt; name one, such as {{"accuracy": 1.0}}')
        if max(rewards.values()) < 0:
            raise ConfigError(f'under the view "{view}" everything costs and nothing earns, so that a broken answer is the best; add "format": 1')
    if config.meter and (measured := [view for view in config.views if arm_of(view) == METER]):
        raise ConfigError(f'"meter" measures what the view "{measured[0]}" shows already; set meter=0')
    if (config.meter or config.stop.kept is not None) and (first := next(iter(config.views))) != "image":
        raise ConfigError(f'"meter" and "stop.kept" hold the first view against another patient\'s picture, and the first is "{first}"; name "image" first')
    few = [view for view, share in config.shares.items() if share.n < 2 and share.weight]
    if few:
        shared = " and ".join(f"{share.n} of {view}" for view, share in config.shares.items())
        raise ConfigError(f'"sampling.n" is {config.sampling.n}, which makes {shared} a question; a group of less than 2 teaches nothing, raise sampling.n')


def check_stop(config: Config) -> None:
    """Can a run know what is to end it? Raises ConfigError."""
    metered = isinstance(config, grpo.GRPOConfig) and (config.meter or METER in map(arm_of, config.views))
    if config.stop.kept is not None and not metered:
        raise ConfigError('"stop.kept" needs to know what a run keeps with another patient\'s picture; set meter=2')
    if config.stop.patience is not None and not config.held_out.data:
        raise ConfigError('"stop.patience" counts tests on held-out questions; name them with --test-during DATA')


def _value(config: Any, key: str) -> Any:
    return reduce(lambda inner, name: getattr(inner, name, None), key.split("."), config)
