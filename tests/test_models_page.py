"""What docs/models.md says of memory is what the plan says."""

import json
import re
from dataclasses import replace
from pathlib import Path

import other_models
import pytest
from huggingface_hub import constants
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from medvlm_r1.models.families import FAMILIES
from medvlm_r1.preflight import forecast as planning
from medvlm_r1.preflight.forecast import Prompts, forecast
from medvlm_r1.preflight.machine import Device
from medvlm_r1.preflight.published import PUBLISHED
from medvlm_r1.recipes.named import find

PAGE = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
VLLM = json.loads((RESULTS / "vllm-architectures.json").read_text())
MEASURED = json.loads((RESULTS / "cpu1-other-models.json").read_text())["kinds"]
RECIPES = ("medvlm_r1_mri", "medvlm_r1_modern", "medvlm_r1_lora_24gb")


def row(name, recipe):
    """A line of the page: the peak, and where it fits below nine tenths of a card."""
    config = replace(find(recipe, "grpo"), model=name)
    shape, budget, _ = planning._shape(config)
    cards = [Device(f"a card of {gib} GiB", gib << 30, gib << 30, is_host=False) for gib in (24, 48, 80)]
    made = [forecast(config, shape, Prompts.assumed(shape.tower, budget), card) for card in cards]
    return f"| `{name}` | `{recipe}` | {made[0].peak / 1e9:.1f} | {' | '.join('yes' if each.fits else 'no' for each in made)} |"


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_page_has_the_plans_of_published_models(name, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    wanted = [row(name, recipe) for recipe in RECIPES]
    assert [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |") and re.search("medvlm_r1_", line)] == wanted


def kind_row(kind):
    """A line of the page: what the code says of a kind, and what was measured of it."""
    served = "yes" if MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[kind] in VLLM["architectures"] else "no"
    found = MEASURED.get(kind, {})
    if "refused" in found:
        return f"| `{kind}` | needs `pip install torchvision` | | | | | {served} |"
    path, plan = ("shared prefix", "counted") if kind in FAMILIES else ("general", "estimated")
    missing = [stage for stage, ok in found.get("stages", {}).items() if not ok]
    done = "" if not found else f"not {', '.join(missing)}" if missing else "yes"
    cells = (path, f"{found['difference']:.0e}" if found else "", f"{found['ratio']:.1f}" if "ratio" in found else "", done, plan, served)
    return f"| `{kind}` | " + " | ".join(cells) + " |"


def test_the_page_says_of_each_kind_what_code_and_measurement_say():
    kinds = [
        *FAMILIES,
        *(kind for kind in other_models.OTHERS if kind not in FAMILIES and (kind != "mistral3" or kind in MEASURED)),
    ]  # refused without torchvision: test_general
    shown = PAGE.partition("| `model_type` | path | difference |")[2].partition("\n\n")[0].splitlines()[2:]
    assert shown == [kind_row(kind) for kind in kinds]
    assert all(found["difference"] <= 1e-5 for found in MEASURED.values() if "refused" not in found)
    assert f"vLLM {VLLM['vllm']}" in PAGE
