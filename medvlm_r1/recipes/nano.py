"""The embedded model on the phantom: the demo's two runs and the study's controls."""

from dataclasses import replace

from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.training.grpo.trainer import GRPOConfig
from medvlm_r1.training.grpo.update import UpdateConfig
from medvlm_r1.training.optim import OptimConfig
from medvlm_r1.training.sft import SFTConfig

TRAIN = "phantom:mri?split=train"
MAX_TOKENS = 48


def grpo() -> GRPOConfig:
    """The paper's rewards, advantage and penalty; sizes and rate for 3 million parameters."""
    return GRPOConfig(
        model="nano",
        data=TRAIN,
        template="think",
        steps=100,
        prompts_per_step=8,
        sampling=Sampling(n=8, max_tokens=MAX_TOKENS),
        update=UpdateConfig(),
        optim=OptimConfig(lr=2e-4, betas=(0.9, 0.99), warmup_steps=5),
        dtype="float32",
        max_pixels=None,
        save_every=100,
    )


def contrast(view: str = "stranger", weight: float = 1.0) -> dict[str, dict[str, float]]:
    """The own picture as ever, and another's, where the gold letter costs what it earned; ``weight``: λ, what the latter's advantages weigh.

    >>> contrast(weight=0.5)["stranger"]
    {'format': 1.0, 'accuracy': -1.0, 'weight': 0.5}
    """
    other = {"format": 1.0, "accuracy": -1.0} | ({} if weight == 1.0 else {"weight": weight})
    return {"image": {"format": 1.0, "accuracy": 1.0}, view: other}


def looking() -> GRPOConfig:
    """Half of the rollouts are written on another patient's picture, where the gold letter costs (docs/looking.md)."""
    return replace(grpo(), views=contrast(), steps=60, save_every=60)


def sft() -> SFTConfig:
    """The same 600 letters, four epochs, answered directly."""
    return SFTConfig(
        model="nano",
        data=TRAIN,
        template="direct",
        steps=75,
        prompts_per_step=32,
        optim=OptimConfig(lr=2e-4, betas=(0.9, 0.99), warmup_steps=5),
        dtype="float32",
        max_pixels=None,
        save_every=75,
    )


def traces() -> SFTConfig:
    """The same questions with the gold reasoning that the paper does without."""
    return replace(sft(), template="think", target="trace")


def format_only() -> GRPOConfig:
    """Does the form alone explain the gain?"""
    return replace(grpo(), views={"image": {"format": 1.0}})


def accuracy_only() -> GRPOConfig:
    """Does it reason without being told to?"""
    return replace(grpo(), views={"image": {"accuracy": 1.0}})


def no_think() -> GRPOConfig:
    """Is the thought needed?"""
    return replace(grpo(), template="direct", views={"image": {"direct_format": 1.0, "accuracy": 1.0}})


def blank_images() -> GRPOConfig:
    """What is learned without looking?"""
    return replace(grpo(), views={"blank": grpo().rewards})
