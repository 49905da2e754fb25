"""The memory plan: sizes by hand, and what autograd really keeps."""

from dataclasses import replace

import family_models
import hub_model
import pytest
import torch
import transformers
from conftest import picture
from test_shared_prefix import groups_of
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from medvlm_r1.models import families, nano
from medvlm_r1.models.adapt import LoRA, Trainable, adapt
from medvlm_r1.models.encode import Encoder
from medvlm_r1.models.families import prepare, skeleton
from medvlm_r1.preflight import published
from medvlm_r1.preflight.forecast import Prompts, largest_micro_batches
from medvlm_r1.preflight.machine import host_memory
from medvlm_r1.preflight.memory import PAPER, decoder_bytes, plan, vision_bytes
from medvlm_r1.preflight.shape import QWEN2_VL_2B, ModelShape
from medvlm_r1.training.batches import micro_batches


def test_the_published_model_has_the_known_shape():
    ids = {token: 151_640 + n for n, token in enumerate(hub_model.SPECIAL)}
    with torch.device("meta"):
        model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(**hub_model._config(hub_model.FULL, ids, 0)))
    assert ModelShape.of(model) == QWEN2_VL_2B


def test_a_skeleton_counts_what_the_loaded_model_has(hub_dir, policy):
    assert ModelShape.of(skeleton(nano.BASE_DIR)).parameters == 2_830_080  # shared embeddings once
    loaded = Qwen2VLForConditionalGeneration.from_pretrained(hub_dir)
    assert ModelShape.of(skeleton(hub_dir)) == ModelShape.of(loaded)
    policy.model.model.visual.requires_grad_(False)
    shape = ModelShape.of(policy.model)
    assert not shape.tower.trains
    assert shape.parameters - shape.trainable == sum(p.numel() for p in policy.model.model.visual.parameters())


def test_every_family_has_a_shape(tmp_path):
    """By the tiny configurations: (layers, kv size, the tower's layers, width, heads, MLP), and parameters that do not depend on freezing."""
    shapes, tiles = {}, {}
    for kind in family_models.TINY:
        model = skeleton(family_models.write(kind, tmp_path / kind))
        s = ModelShape.of(model)
        shapes[kind] = (s.layers, s.kv_size, s.tower.layers, s.tower.hidden, s.tower.heads, s.tower.mlp)
        tiles[kind] = (s.tower.tile, s.tower.patch_values, s.tower.merged)
        assert s.tower.weights == sum(p.numel() for tower in families.FAMILIES[kind].towers(model) for p in tower.parameters())
        for tower in families.FAMILIES[kind].towers(model):
            assert ModelShape.of(model).tower.trains  # as long as one of them learns
            tower.requires_grad_(False)
        assert ModelShape.of(model).tower == replace(s.tower, trains=False)
    assert shapes == {
        "qwen2_5_vl": (3, 32, 4, 32, 2, 48),
        "qwen3_vl": (5, 64, 4, 32, 2, 48),
        "smolvlm": (3, 32, 2, 32, 2, 48),
        "idefics3": (3, 32, 2, 32, 2, 48),
        "internvl": (3, 32, 2, 32, 2, 48),
        "llava": (3, 32, 2, 32, 2, 48),
        "gemma3": (3, 64, 2, 32, 2, 48),
        "fast_vlm": (3, 32, 1, 320, 0, 0),  # convolutions count as one block
    }
    assert tiles == {  # patches of a tile, numbers of a patch, patches of a token
        "qwen2_5_vl": (0, 1176, 4),
        "qwen3_vl": (0, 1536, 4),
        "smolvlm": (16, 588, 4),
        "idefics3": (16, 588, 4),
        "internvl": (16, 588, 4),
        "llava": (16, 588, 1),
        "gemma3": (64, 588, 4),
        "fast_vlm": (16, 192, 1),
    }


def test_the_papers_plan_by_hand():
    n = 2_208_985_600
    made = plan(QWEN2_VL_2B, PAPER)
    tower = 665_271_296
    assert (made.weights, made.gradients, made.reference) == (2 * n, 2 * (n - tower), 2 * n)  # the tower's come when the activations are gone
    assert (made.masters, made.moments) == (4 * n, 8 * n)
    assert made.certain == 16 * n
    assert made.activations == (3 * 768 + 12 * 320) * 2_151_968 + 28 * 1536 * (1536 + 512) * 2  # and each layer's joined query, key and value
    assert made.vision == 4 * 2048 * 1_571_120  # of all prompts: the rollout encodes them, the update goes back through them at its end
    assert made.cache == (2 * 4 * 768 + 16 * 512) * 28 * 2 * 256 * 2
    assert made.packed == 28 * 30_670_848 * 2
    assert made.phases(on_host=False)["update"][-4:] == ("gradients", "activations", "vision", "head")
    assert made.sizes(on_host=False)["step"] == 20 * n + made.embeddings + made.packed  # float32 gradients beside the masters
    assert made.sizes(on_host=True)["update"] - made.sizes(on_host=False)["update"] == 600 * 2048 * 1176 * 2


def test_float32_needs_no_masters_and_no_penalty_no_reference():
    made = plan(QWEN2_VL_2B, replace(PAPER, number_bytes=4, reference=False))
    assert (made.masters, made.reference, made.embeddings) == (0, 0, 0)
    assert made.certain == 12 * 2_208_985_600  # weights and two moments


def test_a_frozen_tower_keeps_no_activations_and_steps_nothing():
    made = plan(replace(QWEN2_VL_2B, trainable=1_543_714_304, tower=replace(QWEN2_VL_2B.tower, trains=False)), PAPER)
    assert made.vision == 0 and made.moments == 8 * 1_543_714_304 and made.weights == 2 * 2_208_985_600


@pytest.mark.parametrize("budget", [1, 61, 99, 100, 130, 199, 200, 250, 1000])
def test_no_micro_batch_of_an_update_holds_more_than_the_largest(budget):
    """Three prompts of 20 tokens, four completions of 1 to 20 each: the most tokens over all lengths, as the update cuts them."""
    found = largest_micro_batches(3, 20, 4, 20, budget)
    made = {(len(part), c) for c in range(1, 21) for part in micro_batches([20 + 4 * c] * 3, range(3), budget)}
    assert set(found) <= made
    for is_whole in (False, True):  # a step of which a micro-batch is a part can be met, and one that is a single micro-batch
        most = [max((p * (20 + 4 * c) for p, c in some if (p == 3) is is_whole), default=0) for some in (found, made)]
        assert most[0] == most[1] or (is_whole is False and found == [(3, 20)])


def kept_by_autograd(model, compute):
    """Bytes of the distinct tensors that a forward pass keeps for backward, weights apart."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = compute()
    del result
    return sum(storage.nbytes() for storage in kept.values())


@pytest.fixture
def proportioned(tokenizer):
    """The small model with Qwen2-VL-2B's ratio of MLP to hidden size, 35 : 6."""
    torch.set_num_threads(1)
    config = nano.build_config(tokenizer)
    config.text_config.intermediate_size = 192 * 35 // 6
    torch.manual_seed(0)
    return prepare(Qwen2VLForConditionalGeneration(config), Encoder(tokenizer, nano.build_image_processor(), picture))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths_PG", [[[64] * 6], [[150] * 2, [150] * 2]], ids=["one prompt, G = 6", "two prompts, G = 2"])
def test_the_estimate_is_what_an_update_keeps(proportioned, examples, lengths_PG, dtype):
    proportioned.model.to(dtype)
    batch = proportioned.encoder.groups(groups_of(proportioned, examples[: len(lengths_PG)], lengths_PG))
    measured = kept_by_autograd(proportioned.model, lambda: proportioned.logprobs(batch))
    shape, b = ModelShape.of(proportioned.model), dtype.itemsize
    tokens = int(batch.prompts.lengths_P.sum()) + batch.n_tokens
    logits = 4 * batch.n_tokens * shape.vocabulary  # so few that they are not recomputed
    estimate = tokens * decoder_bytes(shape, b) + sum(map(len, batch.prompts.pixels)) * vision_bytes(shape, b) + logits
    assert estimate == pytest.approx(measured, rel=0.15)


def test_the_estimate_holds_for_adapters_over_a_frozen_tower(proportioned, examples):
    """A fixed matrix's input need not be kept, its adapter's must: the sum is much the same."""
    adapt(proportioned.model, Trainable(freeze=("vision",), lora=LoRA(rank=4)))
    batch = proportioned.encoder.groups(groups_of(proportioned, examples[:2], [[150] * 2] * 2))
    measured = kept_by_autograd(proportioned.model, lambda: proportioned.logprobs(batch))
    shape, tokens = ModelShape.of(proportioned.model), int(batch.prompts.lengths_P.sum()) + batch.n_tokens
    assert not shape.tower.trains
    assert tokens * decoder_bytes(shape, 4) + 4 * batch.n_tokens * shape.vocabulary == pytest.approx(measured, rel=0.1)


def test_the_prompt_pass_alone_is_estimated_closely(proportioned, examples):
    """Without completions no keys are repeated, so nothing but odds and ends may be missing."""
    batch = proportioned.encoder.groups(groups_of(proportioned, examples[:1], [[1]])).prompts
    measured = kept_by_autograd(proportioned.model, lambda: proportioned.prefill(batch))
    shape = ModelShape.of(proportioned.model)
    assert measured == pytest.approx(batch.ids_PL.shape[1] * decoder_bytes(shape, 4) + sum(map(len, batch.pixels)) * vision_bytes(shape, 4), rel=0.05)


WIDE = {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 3, "image_size": 112, "patch_size": 14}
TEXT = {"hidden_size": 192, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256}
TOWERS = {  # each of 64 patches: 112 px, and 64 px of convolutions that halve them three times
    "smolvlm": lambda: transformers.SmolVLMConfig(text_config=TEXT | {"model_type": "llama"}, vision_config=WIDE, scale_factor=4),
    "internvl": lambda: transformers.InternVLConfig(
        text_config=TEXT | {"model_type": "qwen2"}, vision_config=WIDE | {"image_size": [112, 112], "patch_size": [14, 14]}, image_seq_length=16
    ),
    "llava": lambda: transformers.LlavaConfig(
        text_config=TEXT | {"model_type": "llama"}, vision_config=WIDE | {"model_type": "clip_vision_model", "projection_dim": 32}, image_seq_length=64,
        vision_feature_layer=-1,
    ),
    "gemma3": lambda: transformers.Gemma3Config(text_config=TEXT | {"head_dim": 32}, vision_config=WIDE, mm_tokens_per_image=4),
    "fast_vlm": lambda: transformers.FastVlmConfig(
        text_config=TEXT | {"model_type": "llama"}, image_seq_length=64,
        vision_config=transformers.EfficientNetConfig(
            in_channels=[32, 16, 24], out_channels=[16, 24, 40], kernel_sizes=[3, 5, 3], strides=[1, 2, 2], expand_ratios=[1, 6, 6],
            num_block_repeats=[1, 2, 2], width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280, hidden_size=1280, image_size=64,
        ).to_dict(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", TOWERS)
def test_a_tower_of_one_size_keeps_what_is_estimated(kind):
    """What autograd keeps of two tiles of 64 patches, by transformers' own modules, and the pictures as they came."""
    torch.set_num_threads(1)
    model = transformers.AutoModelForImageTextToText.from_config(TOWERS[kind]()).float().eval()
    tiles = torch.randn(2, 3, *[64 if kind == "fast_vlm" else 112] * 2)
    own = (
        families.FAMILIES[kind].embed if kind in families.FAMILIES else lambda model, tiles, _: model.model.get_image_features(pixel_values=tiles).pooler_output
    )
    measured = kept_by_autograd(model, lambda: own(model, tiles, torch.ones(2, 3, dtype=torch.long)))
    shape = ModelShape.of(model)
    assert tiles.numel() // shape.tower.patch_values == 2 * shape.tower.tile == 128
    assert measured == pytest.approx(128 * vision_bytes(shape, 4), rel=0.05)
    decoder = {id(p) for part in (model.get_decoder(), model.get_output_embeddings()) for p in part.parameters()}
    assert shape.tower.weights == sum(p.numel() for p in model.parameters() if id(p) not in decoder)


def medgemma(trainable=Trainable()):
    """The shape of google/medgemma-4b-it as its configuration says."""
    return ModelShape.of(adapt(published.skeleton("google/medgemma-4b-it"), trainable))


def test_medgemma_is_counted():
    """Its weights are those that are published; a picture is 4,096 patches and 256 tokens, whatever the budget."""
    shape = medgemma()
    assert shape.parameters == 4_300_079_472
    assert (shape.query, shape.kv_size, shape.norms_behind, shape.head_norms) == (2048, 1024, True, True)
    assert Prompts.assumed(shape.tower, 401_408) == Prompts.assumed(shape.tower, 896 * 896) == Prompts(256 + 256, 4096, 600)
    made = plan(shape, replace(PAPER, prompt_tokens=512, patches=4096))
    assert made.pixels == 600 * 3 * 896 * 896 * 2 and made.embeddings == 600 * 256 * 2560 * 2
    layer = 2 * (4 * 2560 + 3 * 2048 + 3 * 1024 + 3 * 10240) + 4 * 8 + 8 + 2 * 2 * 2560 + 8 + 8 * (2048 + 1024)
    assert decoder_bytes(shape, 2, on_gpu=True) == 34 * layer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_estimate_is_what_a_pass_of_gemma_keeps(tmp_path, dtype):
    """Four norms, norms of heads, a wider key than its heads' share; a tower without rotation whose patches are averaged. Pixels and mask are odds and ends."""
    torch.set_num_threads(1)
    encoder = families.load_policy(str(family_models.write("gemma3", tmp_path)), family_models.picture).encoder
    config = Gemma3Config.from_pretrained(tmp_path)
    config.text_config.update({"hidden_size": 256, "intermediate_size": 1024, "num_key_value_heads": 1})
    config.vision_config.update({"hidden_size": 64, "intermediate_size": 240})
    policy = prepare(Gemma3ForConditionalGeneration(config).to(dtype), encoder)
    batch, b = encoder.groups(groups_of(policy, family_models.examples()[:1], [[1]])).prompts, dtype.itemsize
    shape, measured = ModelShape.of(policy.model), {}
    for learns in (True, False):
        for tower in encoder.family.towers(policy.model):
            tower.requires_grad_(learns)
        measured[learns] = kept_by_autograd(policy.model, lambda: policy.prompt_hidden(batch))
    joined = 3 * b * 256 * (shape.query + 2 * shape.kv_size)  # each layer's query, key and value
    assert measured[False] == pytest.approx(batch.ids_PL.shape[1] * decoder_bytes(shape, b) + joined, rel=0.1)
    assert measured[True] - measured[False] == pytest.approx(shape.tower.tile * vision_bytes(shape, b), rel=0.1)


# ---------------------------------------------------------------- the device

MEMINFO = "MemTotal:  1000 kB\nMemFree:  100 kB\nMemAvailable:  600 kB\nSwapTotal:  50 kB\nHugePages_Total:  0\n"


def group(folder, limit, current=300_000, inactive=100_000):
    for name, text in {"memory.max": limit, "memory.current": current, "memory.stat": f"anon 5\ninactive_file {inactive}"}.items():
        (folder / name).write_text(f"{text}\n")
    return folder


def test_host_memory_counts_swap_in_all_and_a_containers_limit(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(MEMINFO)
    assert host_memory(meminfo, None) == (1050 * 1024, 600 * 1024)
    assert host_memory(meminfo, group(tmp_path, "max")) == (1050 * 1024, 600 * 1024)
    assert host_memory(meminfo, group(tmp_path, 500_000)) == (500_000 + 50 * 1024, 300_000)  # used: 300,000 less what gives way
    total, free = host_memory(tmp_path / "none", None)  # not Linux
    assert total == free > 2**28
