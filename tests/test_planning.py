"""A plan beside a device: what is refused, what is warned of, and with which remedy."""

import json
import math
from dataclasses import replace

import family_models
import hub_model
import other_models
import pytest
from huggingface_hub import constants
from test_memory import medgemma

from medvlm_r1.config import override
from medvlm_r1.errors import ConfigError
from medvlm_r1.models.families import load_policy
from medvlm_r1.preflight import forecast as planning
from medvlm_r1.preflight.forecast import Prompts, forecast, gib
from medvlm_r1.preflight.machine import Device
from medvlm_r1.preflight.memory import PAPER
from medvlm_r1.preflight.shape import QWEN2_VL_2B
from medvlm_r1.reasoning import render
from medvlm_r1.recipes.named import find
from medvlm_r1.training.grpo.trainer import GRPOConfig
from medvlm_r1.training.sft import SFTConfig

GIB = 2**30
PROMPTS = Prompts(768, 2048, 600)


def gpu(total_gib, free_gib=None):
    free = total_gib if free_gib is None else free_gib
    return Device("a GPU", int(total_gib * GIB), int(free * GIB), is_host=False)


def on(device, config=None, **changes):
    return forecast(replace(config or GRPOConfig(), **changes), QWEN2_VL_2B, PROMPTS, device)


def test_the_paper_recipe_is_the_paper_workload():
    assert on(gpu(80)).work == PAPER


def test_medgemma_is_planned_for_24_48_and_80_gb():
    """Adapters over a frozen tower fit 48 and 80 GB. All of it takes more than any of them has."""
    adapters, prompts = find("medvlm_r1_lora_24gb"), Prompts(512, 4096, 600)
    shape = medgemma(adapters.trainable)
    assert [forecast(adapters, shape, prompts, gpu(size)).fits for size in (24, 48, 80)] == [False, True, True]
    assert forecast(adapters, shape, prompts, gpu(80)).peak / GIB == pytest.approx(27.7, abs=0.1)
    assert "64.1 GiB" in forecast(GRPOConfig(), medgemma(), prompts, gpu(48)).impossible()
    assert forecast(GRPOConfig(), medgemma(), prompts, gpu(80)).peak / GIB == pytest.approx(118.5, abs=0.1)


def test_supervised_training_generates_nothing_and_goes_through_micro_batches():
    """Five prompts of 768 tokens and a letter's 16 fit 4,096."""
    made = on(gpu(80), SFTConfig())
    assert (made.work.prompts, made.work.micro_prompts, made.work.rollouts, made.work.completion_tokens) == (16, 5, 1, 16)
    assert made.plan.cache == made.plan.reference == 0 and "rollout" not in made.plan.sizes(False)
    assert made.plan.activations == 5 * 784 * 2_151_968 + 176_160_768 and made.plan.vision == 5 * 2048 * 1_571_120
    assert 'vision (15.0 GiB): lower tokens_per_micro_batch to 1568, or set trainable.freeze=["vision"]' in made.remedy()
    lowered = on(gpu(80), SFTConfig(tokens_per_micro_batch=1568))
    assert lowered.work.micro_prompts == 2 and lowered.peak < made.peak  # the remedy works
    assert "lower max_pixels, or" in on(gpu(80), SFTConfig(tokens_per_micro_batch=1)).remedy()


def test_the_papers_supervised_training_fits_80_gb():
    """110.5 GB with its 16 prompts in one pass: 30.93 certain, as no reference is there; of gradients 4.42 among several micro-batches, 0.47 in one."""
    made = on(gpu(80), SFTConfig())
    assert made.plan.certain == 14 * 2_208_985_600 and made.peak / 1e9 == pytest.approx(60.2, abs=0.05)
    assert made.fits and made.peak < 80e9
    assert on(gpu(80), SFTConfig(tokens_per_micro_batch=10**6)).peak / 1e9 == pytest.approx(110.5, abs=0.05)


def test_only_the_certain_parts_refuse():
    """16 bytes a parameter are 32.92 GiB with the reference, 28.80 without; the whole plan is 63.5."""
    assert gib(on(gpu(80)).plan.certain) == "32.9 GiB" and gib(on(gpu(80)).peak) == "63.5 GiB"
    assert on(gpu(33)).impossible() == "" and not on(gpu(33)).fits
    assert "32.9 GiB and a GPU has 32.0 GiB in all; set update.loss.kl_beta=0" in on(gpu(32)).impossible()
    assert 'set trainable.lora.rank=16 and trainable.freeze=["vision"], so that adapters alone learn' in on(gpu(28)).impossible()
    assert "choose a smaller model" in on(gpu(4)).impossible()
    assert on(gpu(33, free_gib=1)).impossible() == ""  # what others hold today they may give back


def test_a_refusal_comes_before_the_weights_are_read(tmp_path):
    ids = {token: 151_640 + n for n, token in enumerate(hub_model.SPECIAL)}
    (tmp_path / "config.json").write_text(json.dumps(hub_model._config(hub_model.FULL, ids, 0)))
    (tmp_path / "preprocessor_config.json").write_text('{"min_pixels": 3136, "max_pixels": 12845056}')
    config = GRPOConfig(model=str(tmp_path))
    planning.check_weights(config, gpu(33))
    with pytest.raises(ConfigError, match="take 32.9 GiB and a GPU has 32.0 GiB in all"):
        planning.check_weights(config, gpu(32))


def test_a_published_model_is_refused_before_it_is_fetched(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="Qwen2-VL-2B-Instruct"):
        planning.check_weights(GRPOConfig(), gpu(32))
    planning.check_weights(GRPOConfig(model="somebody/unknown"), gpu(1))  # the plan is made again once it is here
    with pytest.raises(ConfigError, match="in all"):
        on(gpu(32)).refuse()


def test_tight_is_above_nine_tenths_of_what_is_free():
    need = on(gpu(1)).peak / GIB
    assert on(gpu(200, free_gib=need / 0.9 + 0.1)).fits
    assert not on(gpu(200, free_gib=need / 0.9 - 0.1)).fits


def test_the_remedy_names_the_largest_part_that_can_be_lowered():
    """The decoder of a whole micro-batch is the largest part, and with large pictures the tower."""
    large = forecast(GRPOConfig(), QWEN2_VL_2B, Prompts(768, 4096, 600), gpu(80))
    assert large.remedy().startswith("the largest part that can be lowered is vision (24.0 GiB): lower max_pixels")
    assert on(gpu(80)).remedy() == "the largest part that can be lowered is activations (12.5 GiB): lower update.tokens_per_micro_batch to 3072"
    lowered = replace(GRPOConfig().update, tokens_per_micro_batch=2816)
    assert on(gpu(80), update=lowered).work.micro_prompts == 1  # the remedy works
    alone = on(gpu(80), prompts_per_step=1)
    assert "lower sampling.max_tokens or sampling.n" in alone.remedy()
    seen = forecast(GRPOConfig(), QWEN2_VL_2B, Prompts(768, 20_480, 600), gpu(80))
    assert "vision" in seen.remedy() and 'lower max_pixels or prompts_per_step, or set trainable.freeze=["vision"]' in seen.remedy()


def test_where_nothing_can_be_lowered_the_model_is_too_large():
    """No reference, hardly a token: the optimiser's step is the peak."""
    config = override(GRPOConfig(), ["update.loss.kl_beta=0", "prompts_per_step=1", "sampling.n=2", "sampling.max_tokens=1"])
    small = forecast(config, QWEN2_VL_2B, Prompts(8, 16, 1), gpu(80))
    assert small.plan.peak(False)[0] == "step" and small.remedy() == planning.ADAPTERS
    adapters = override(config, ["trainable.lora.rank=16"])
    assert forecast(adapters, QWEN2_VL_2B, Prompts(8, 16, 1), gpu(80)).remedy() == planning.SMALLER


def test_the_prompts_of_real_questions(policy, examples):
    """84 x 84 px are 36 patches, 56 x 112 px 32; q3 has two images, and "a.png" is shared."""
    short = ["sampling.n=2", "sampling.max_tokens=20"]
    one, all_three = (override(GRPOConfig(template="think"), [f"prompts_per_step={n}", *short]) for n in (1, 3))
    lengths = [len(policy.encoder.prompt_ids(render(example, "think"))) for example in examples]
    assert Prompts.of(policy, one, examples) == Prompts(max(lengths), 72, 3)
    assert Prompts.of(policy, all_three, examples) == Prompts(math.ceil(sum(lengths) / 3), 47, 3)  # (36 + 32 + 72) / 3


@pytest.mark.parametrize(("kind", "models", "tiles"), [("internvl", family_models, 7 + 5 + 7), ("llava", family_models, 3), ("vipllava", other_models, 3)])
def test_a_tile_counts_as_its_patches(kind, models, tiles, tmp_path):
    """The largest prompt has a tall picture twice and a square one; a tile of 56 px has 16 patches of 14, by the family as by the model's own processor."""
    policy = load_policy(str(models.write(kind, tmp_path / "hub")), family_models.picture)
    alone = override(GRPOConfig(template="think"), ["prompts_per_step=1", "sampling.n=2", "sampling.max_tokens=4"])
    found = Prompts.of(policy, alone, family_models.examples())
    assert found.patches == 16 * tiles
    made = planning.forecast(alone, planning.ModelShape.of(policy.model, policy.shares_prompts), found, gpu(80)).plan
    assert made.pixels == (2 * 16 * 588 if policy.shares_prompts else 16 * 588) * tiles * found.images


def test_a_model_that_is_not_here_is_planned_by_its_published_sizes(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    made, assumed = planning.before_loading(GRPOConfig())
    assert replace(made.work, on_gpu=True) == PAPER and "not here: its published sizes; assumes 600 images of at most 512 tokens" in assumed


def test_the_plan_before_loading_knows_what_learns(hub_dir, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    words = ['trainable.freeze=["vision"]', "trainable.lora.rank=16"]
    for config in (GRPOConfig(), GRPOConfig(model=str(hub_dir))):
        full, small = (planning.before_loading(override(config, some))[0].plan for some in ([], words))
        assert small.reference == small.vision == 0 < full.reference
        assert 0 < small.moments < full.moments / 4


def test_an_image_budget_comes_from_the_models_own_processor(hub_dir):
    made, assumed = planning.before_loading(find("nano", "grpo"))
    assert made.work.patches == 36 and "config.json" in assumed  # 84 x 84 px
    assert planning.before_loading(GRPOConfig(model=str(hub_dir), max_pixels=None))[0].work.prompt_tokens == 4096
