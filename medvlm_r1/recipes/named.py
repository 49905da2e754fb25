"""Recipes by name: functions that return a complete configuration. README.md says what number to expect."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, overload

from medvlm_r1.errors import ConfigError, nearest
from medvlm_r1.recipes import medvlm, nano, real
from medvlm_r1.training.grpo.trainer import GRPOConfig
from medvlm_r1.training.sft import SFTConfig


@dataclass(frozen=True)
class Recipe:
    """A named run: by reinforcement learning, its supervised counterpart, or both.

    >>> RECIPES["medvlm_r1_mri"].grpo().sampling.n
    4
    """

    summary: str
    grpo: Callable[[], GRPOConfig] | None = None
    sft: Callable[[], SFTConfig] | None = None


RECIPES = {
    "nano": Recipe("the embedded model on 600 phantom MRI questions, in about a minute on a CPU", nano.grpo, nano.sft),
    "nano-traces": Recipe("control: SFT on gold reasoning traces", sft=nano.traces),
    "nano-format-only": Recipe("control: only the format is rewarded", nano.format_only),
    "nano-accuracy-only": Recipe("control: only the letter is rewarded", nano.accuracy_only),
    "nano-no-think": Recipe("control: GRPO with direct answers", nano.no_think),
    "nano-blank": Recipe("control: GRPO on blank images", nano.blank_images),
    "nano-looking": Recipe("GRPO with another patient's picture beside the own one, where the gold letter costs", nano.looking),
    "real": Recipe("adapters on the base that real-base builds, on its MRI questions", real.grpo, real.sft),
    "real-looking": Recipe("the same with another patient's picture, where the gold letter costs", real.looking),
    "medvlm_r1_mri": Recipe("MedVLM-R1 as published: Qwen2-VL-2B, 600 MRI questions, 300 steps", medvlm.mri, medvlm.mri_sft),
    "medvlm_r1_modern": Recipe("what has been learnt since: G = 8, no penalty, advantages without deviation", medvlm.modern),
    "medvlm_r1_lora_24gb": Recipe("adapters over a frozen tower, on one card of 24 GB", medvlm.lora_24gb, medvlm.lora_24gb_sft),
    "medvlm_r1_looking": Recipe("the paper's run with another patient's picture beside the own one", medvlm.looking),
    "paper": Recipe("medvlm_r1_mri under its short name", medvlm.mri, medvlm.mri_sft),
}


@overload
def find(name: str, kind: Literal["grpo"]) -> GRPOConfig:
    """The training by reinforcement."""


@overload
def find(name: str, kind: Literal["sft"]) -> SFTConfig:
    """The supervised one."""


@overload
def find(name: str, kind: str = "") -> GRPOConfig | SFTConfig:
    """Whichever there is."""


def find(name: str, kind: str = "") -> GRPOConfig | SFTConfig:
    """The configuration of a recipe; kind is "grpo", "sft" or whichever there is. Raises ConfigError with the nearest name."""
    makers = {key: getattr(recipe, kind) if kind else recipe.grpo or recipe.sft for key, recipe in RECIPES.items()}
    offered = {key: make for key, make in makers.items() if make}
    if name not in offered:
        raise ConfigError(f'no {f"{kind} " * bool(kind)}recipe "{name}"{nearest(name, offered)}')
    return offered[name]()
