"""Recipes: the paper's values one by one, plans that fit, a README that agrees."""

import json
import re
from argparse import Namespace
from pathlib import Path

import pytest
from huggingface_hub import constants

from medvlm_r1 import recipes
from medvlm_r1.errors import ConfigError
from medvlm_r1.preflight import forecast as planning
from medvlm_r1.preflight.forecast import Prompts, forecast
from medvlm_r1.preflight.machine import Device
from medvlm_r1.preflight.shape import QWEN2_VL_2B
from medvlm_r1.preflight.values import check
from medvlm_r1.recipes import presets
from medvlm_r1.recipes.named import RECIPES, find

README = (Path(recipes.__file__).parent / "README.md").read_text()
PUBLISHED = ("medvlm_r1_mri", "medvlm_r1_modern", "medvlm_r1_lora_24gb", "medvlm_r1_looking")
CARD = Device("a card of 24 GB", total=24_000_000_000, free=24_000_000_000, is_host=False)


def made_for(config, device=CARD):
    return forecast(config, planning.learning(QWEN2_VL_2B, config.trainable), Prompts.assumed(QWEN2_VL_2B.tower, config.max_pixels), device)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_sound_and_in_the_readme(name):
    for make in (RECIPES[name].grpo, RECIPES[name].sft):
        if make:
            check(make())
    assert f"`{name}`" in README


def test_the_faithful_recipe_has_the_papers_values():
    config = find("medvlm_r1_mri", "grpo")
    assert (config.model, config.template, config.steps, config.prompts_per_step) == ("Qwen/Qwen2-VL-2B-Instruct", "paper-train", 300, 4)
    assert (config.sampling.n, config.sampling.temperature, config.sampling.max_tokens) == (4, 1.0, 512)
    assert (config.optim.lr, config.optim.schedule, config.optim.warmup_steps, config.optim.weight_decay) == (1e-6, "linear", 0, 0.0)
    assert (config.update.loss.kl_beta, config.update.loss.kl, config.advantage) == (0.04, "k3", "grpo")
    assert (config.rewards, config.max_pixels, config.dtype) == ({"format": 1.0, "accuracy": 1.0}, 401408, "bfloat16")
    assert config.optim.max_grad_norm == 1.0 and config.trainable.freeze == () and config.trainable.lora.rank == 0
    assert find("paper", "grpo") == config and find("paper", "sft") == find("medvlm_r1_mri", "sft")


def test_the_modern_one_differs_where_its_reasons_say():
    config = find("medvlm_r1_modern", "grpo")
    assert (config.sampling.n, config.advantage, config.update.loss.kl_beta) == (8, "dr_grpo", 0.0)
    assert config.rewards == {"format": 1.0, "strict_accuracy": 1.0} and config.template == "paper-eval"
    assert config.trainable == find("medvlm_r1_mri", "grpo").trainable


def test_the_contrast_pays_the_gold_letter_here_and_charges_it_there_and_fits_a_card_of_80_gib():
    config, device = find("medvlm_r1_looking", "grpo"), Device("a card", 80 * 2**30, 80 * 2**30, is_host=False)
    assert config.views == {"image": {"format": 1.0, "accuracy": 1.0}, "stranger": {"format": 1.0, "accuracy": -1.0}}
    assert {view: share.n for view, share in config.shares.items()} == {"image": 4, "stranger": 4}
    assert config.steps * config.prompts_per_step == 300 * 4 and made_for(config, device).fits
    assert find("nano-looking", "grpo").views == config.views


@pytest.mark.parametrize("kind", ["grpo", "sft"])
def test_adapters_fit_a_card_of_24_gb(kind):
    config = find("medvlm_r1_lora_24gb", kind)
    made = made_for(config)
    assert made.fits and made.peak < 0.75 * CARD.total
    assert not made_for(find("medvlm_r1_mri", kind)).fits
    assert (config.trainable.freeze, config.trainable.lora.rank, config.dtype) == (("vision",), 16, "bfloat16")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_readmes_memory_is_the_plans(name):
    parts = made_for(find(name, "grpo")).plan.parts
    columns = ("weights", "masters", "moments", "reference", "gradients", "activations", "vision")
    rest = sum(parts[part] for part in ("embeddings", "head", "packed", "cache"))
    expected = [*(parts[part] for part in columns), rest, made_for(find(name, "grpo")).peak]
    row = next(line for line in README.splitlines() if line.startswith(f"| `{name}` |") and "**" in line)
    shown = [float(cell) for cell in re.findall(r"[\d.]+", row.partition("` |")[2])]
    assert shown == pytest.approx([size / 1e9 for size in expected], abs=0.051)
    assert len(shown) == 9 and f"{parts['pixels'] / 1e9:.2f} GB" in README


# ---------------------------------------------------------------- the released checkpoint


def asked(**given):
    arguments = Namespace(**({"preset": None, "model": None, "template": None, "max_tokens": None, "max_pixels": None} | given))
    presets.apply(arguments)
    return arguments


def test_a_preset_is_the_authors_way_of_asking():
    """Greedy is the engine's temperature 0, which eval and ask always use; no pixel limit beside the processor's own."""
    made = asked(preset="medvlm-r1")
    assert (made.model, made.template, made.max_tokens, made.max_pixels) == ("JZPeterPan/MedVLM-R1", "paper-eval", 512, None)
    assert asked(preset="medvlm-r1", model="./copy").model == "./copy"


def test_without_a_preset_nothing_changes():
    made = asked(model="nano", template="think", max_pixels=3136)
    assert (made.model, made.template, made.max_tokens, made.max_pixels) == ("nano", "think", 512, 3136)
    assert asked(model="nano", max_tokens=7).max_tokens == 7


def test_what_a_preset_fixes_is_not_said_twice():
    with pytest.raises(ConfigError, match="--preset medvlm-r1 fixes --max-pixels, and --max-pixels 3136 is given too; drop one"):
        asked(preset="medvlm-r1", max_pixels=3136)
    with pytest.raises(ConfigError, match="no model: give --model .* or --preset"):
        asked()


def test_the_preset_asks_and_evaluates_from_the_command_line(command, refused, monkeypatch, taught, manifest, tmp_path):
    """With a copy of a model: its own template is another one, the preset's is used."""
    words = ["--model", taught, "--data", f"{manifest}?id=q1", "--arms", "image", "--out", tmp_path / "eval"]
    code, _, err = command("eval", "--preset", "medvlm-r1", *words)
    assert code == 0, err
    said = json.loads((tmp_path / "eval" / "summary.json").read_text())["settings"]
    assert (said["template"], said["max_tokens"], said["max_pixels"]) == ("paper-eval", 512, None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(["ask", "--preset", "medvlm-r1", manifest.parent / "wide.png", "Which?"], "JZPeterPan/MedVLM-R1")
    refused(["ask", manifest.parent / "wide.png", "Which?"], "no model")
