"""What docs/models.md says of memory is what the plan says."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from medvlm_r1.preflight import forecast as planning
from medvlm_r1.preflight.forecast import Prompts, forecast
from medvlm_r1.preflight.machine import Device
from medvlm_r1.preflight.published import PUBLISHED
from medvlm_r1.recipes.named import find

PAGE = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
RECIPES = ("medvlm_r1_mri", "medvlm_r1_modern", "medvlm_r1_lora_24gb")


def row(name, recipe):
    """A line of the page: the peak, and where it fits below nine tenths of a card."""
    config = replace(find(recipe, "grpo"), model=name)
    shape, budget, _ = planning._shape(config)
    cards = [Device(f"a card of {gib} GiB", gib << 30, gib << 30, is_host=False) for gib in (24, 48, 80)]
    made = [forecast(config, shape, Prompts.assumed(shape.tower, budget), card) for card in cards]
    return f"| `{name}` | `{recipe}` | {made[0].peak / 1e9:.1f} | {' | '.join('yes' if each.fits else 'no' for each in made)} |"


@pytest.mark.parametrize("name", [name for name in PUBLISHED if f"`{name}`" in PAGE])
def test_the_page_has_the_plans_of_published_models(name, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    wanted = [row(name, recipe) for recipe in RECIPES]
    assert [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |") and re.search("medvlm_r1_", line)] == wanted
