"""The base that speaks English (docs/real.md) on its own questions: adapters over a frozen tower, on a CPU.

The rate is the tenfold of what a whole model of this size takes, as is usual for adapters; it is not tuned. It does not fall, so that
the checkpoint behind any step is what a run of so many steps ends with.
"""

from dataclasses import replace

from medvlm_r1.recipes.medvlm import ADAPTERS
from medvlm_r1.recipes.nano import contrast
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.training.grpo.trainer import GRPOConfig
from medvlm_r1.training.grpo.update import UpdateConfig
from medvlm_r1.training.optim import OptimConfig
from medvlm_r1.training.sft import SFTConfig

MODEL, DATA = "runs/real/model", "runs/real/questions/reserve.jsonl"  # as docs/real.md makes them
OPTIM = OptimConfig(lr=1e-4, betas=(0.9, 0.99), warmup_steps=5, schedule="constant")
MAX_TOKENS = 96  # its thoughts have about fifty


def grpo() -> GRPOConfig:
    """The paper's rewards, advantage and penalty; four questions a step, eight rollouts each.

    Two questions learn at a time: half the memory of all four, and few enough tokens that the head's logits need not be computed again going back.
    """
    return GRPOConfig(
        model=MODEL, data=DATA, template="think", steps=100, sampling=Sampling(n=8, max_tokens=MAX_TOKENS), optim=OPTIM, trainable=ADAPTERS,
        update=UpdateConfig(tokens_per_micro_batch=1024), dtype="float32", max_pixels=None, save_every=50,
    )  # fmt: skip


def looking() -> GRPOConfig:
    """Half of the rollouts are written on another patient's picture, where the gold letter costs."""
    return replace(grpo(), views=contrast())


def sft() -> SFTConfig:
    """600 letters, two epochs, answered directly."""
    return SFTConfig(
        model=MODEL, data=DATA, template="direct", steps=75, optim=OPTIM, trainable=ADAPTERS, dtype="float32", max_pixels=None, save_every=75
    )  # fmt: skip
