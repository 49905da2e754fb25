"""Recipes: Python functions that return a complete configuration. README.md says what number to expect."""

from collections.abc import Callable
from dataclasses import dataclass

from medvlm_r1.errors import ConfigError, nearest
from medvlm_r1.grpo.trainer import GRPOConfig
from medvlm_r1.recipes import nano, paper
from medvlm_r1.sft.trainer import SFTConfig


@dataclass(frozen=True)
class Recipe:
    """A named run: by reinforcement learning, its supervised counterpart, or both.

    >>> RECIPES["paper"].grpo().sampling.n
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
    "paper": Recipe("MedVLM-R1 as published: Qwen2-VL-2B, 600 MRI questions, 300 steps", paper.grpo, paper.sft),
}


def find(name: str, kind: str = "") -> GRPOConfig | SFTConfig:
    """The configuration of a recipe; kind is "grpo", "sft" or whichever there is. Raises ConfigError with the nearest name."""
    makers = {key: getattr(recipe, kind) if kind else recipe.grpo or recipe.sft for key, recipe in RECIPES.items()}
    offered = {key: make for key, make in makers.items() if make}
    if name not in offered:
        raise ConfigError(f'no {f"{kind} " * bool(kind)}recipe "{name}"{nearest(name, offered)}')
    return offered[name]()
