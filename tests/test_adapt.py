"""What learns and what does not: freeze switches, adapters, the reference without them, checkpoints of both kinds."""

import json
import os
import signal
import sys

import family_models
import hub_model
import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL, train
from peft import PeftModel
from safetensors.torch import load_file
from test_grpo import scored
from test_shared_prefix import groups_of, naive_logprobs
from test_training import GRPO, SFT, files_of, fresh, vowels
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from medvlm_r1.errors import ConfigError, ModelError
from medvlm_r1.models import packed
from medvlm_r1.models.adapt import ADAPTER, LoRA, Trainable, adapt, adapted, merged, part_of, table
from medvlm_r1.models.families import load_policy
from medvlm_r1.models.policy import Policy
from medvlm_r1.preflight import forecast as planning
from medvlm_r1.preflight.memory import PAPER, plan
from medvlm_r1.preflight.shape import QWEN2_VL_2B, ModelShape
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.training import checkpoint, sft
from medvlm_r1.training.grpo import trainer as grpo
from medvlm_r1.training.grpo.update import Learner, UpdateConfig, update
from medvlm_r1.training.optim import OptimConfig, Optimizer
from medvlm_r1.types import Rollout, RolloutGroup

RANK_4 = LoRA(rank=4, alpha=12)  # scaled by 3
LORA = Trainable(freeze=("vision",), lora=RANK_4)
SWITCHES = {
    "vision": (("vision",), {"embeddings", "text"}),
    "vision and embeddings": (("vision", "embeddings"), {"text"}),
    "text": (("text",), {"vision", "embeddings"}),
}


def adapted_policy(policy, lora=RANK_4, freeze=("vision",), seed=0):
    """A policy whose adapters have learnt something."""
    adapt(policy.model, Trainable(freeze, lora), seed)
    generator = torch.Generator().manual_seed(5)
    for name, p in policy.model.named_parameters():
        if "lora_B" in name:
            p.data.normal_(std=0.1, generator=generator)
    return policy


def batch_of(policy, examples):
    return policy.encoder.groups(groups_of(policy, examples, [[5, 9], [4, 4, 12], [6]]))


# ---------------------------------------------------------------- switches


@pytest.mark.parametrize(
    ("trainable", "parts"),
    {
        "a typo": (Trainable(freeze=("vison",)), ("vison", 'did you mean "vision"')),
        "a typo among targets": (Trainable(lora=LoRA(4, targets=("q_prj",))), ("q_prj", 'did you mean "q_proj"')),
        "twice": (Trainable(freeze=("text", "text")), ("text, text", "name each once")),
        "held already": (Trainable(freeze=("vision", "text"), lora=RANK_4), ('freezing "text" changes nothing', "trainable.freeze")),
        "everything": (Trainable(freeze=("vision", "embeddings", "text")), ("leaves nothing to learn", "trainable.lora.rank=16")),
        "no targets": (Trainable(lora=LoRA(4, targets=())), ("nothing would be adapted",)),
        "a negative rank": (Trainable(lora=LoRA(-1)), ("rank from 0 to 16384", "-1")),
    }.values(),
)
def test_what_cannot_be_meant_is_refused(policy, trainable, parts):
    with pytest.raises(ConfigError) as error:
        adapt(policy.model, trainable)
    assert all(part in str(error.value) for part in parts), error.value


def test_a_switch_that_freezes_nothing_is_refused(policy):
    adapt(policy.model, Trainable(freeze=("vision",)))
    with pytest.raises(ConfigError, match='freezing "vision" changes nothing'):
        adapt(policy.model, Trainable(freeze=("vision",)))


def test_without_peft_the_remedy_is_named(policy, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"rank=4 needs peft, .* -m pip install peft$"):
        adapt(policy.model, LORA)
    adapt(policy.model, Trainable(freeze=("vision",)))  # which needs none


def test_the_command_line_switches_and_shows_the_table(command, refused, hub_dir, manifest, tmp_path):
    words = train(hub_dir, manifest, tmp_path / "run", values=(*SMALL[:2], "steps=1", *SMALL[3:]))
    refused([*words, "--set", 'trainable.freeze=["vison"]'], "vison", 'did you mean "vision"')
    code, _, err = command(*words, "--set", 'trainable.freeze=["vision"]', "--set", "trainable.lora.rank=2")
    assert code == 0
    # Two layers: q, o 64 x 64, k, v 64 x 32, gate, up, down 64 x 128; two ranks of in + out.
    count = 2 * 2 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128))
    assert f"learns  adapters  {count:>16,}" in err and "frozen  vision" in err and "frozen  embeddings" in err
    saved = tmp_path / "run" / "checkpoints" / "step-1"
    modes = {(saved / name).stat().st_mode for name in ("config.json", "model.safetensors", "adapter/adapter_config.json", ADAPTER)}
    assert len(modes) == 1  # who may read one may read all


@pytest.mark.parametrize(("freeze", "learning"), SWITCHES.values(), ids=SWITCHES)
def test_exactly_what_learns_moves(tokenizer, examples, tmp_path, freeze, learning):
    before, policy = (fresh(tokenizer) for _ in range(2))
    adapt(policy.model, Trainable(freeze=freeze))
    assert {part.name for part in table(policy.model) if part.learning} == learning
    grpo.train(GRPO, policy, LocalEngine(policy, learning=True), examples, vowels, tmp_path)
    for (name, p), q in zip(policy.model.named_parameters(), before.model.parameters(), strict=True):
        assert torch.equal(p, q) != (part_of(name) in learning), name


def test_of_an_adapted_model_the_adapters_alone_move(tokenizer, examples, tmp_path):
    before = fresh(tokenizer)
    policy = fresh(tokenizer)
    adapt(policy.model, LORA)
    held = Optimizer(policy.model, OptimConfig(), 1).named
    assert held and all(part_of(name) == "adapters" for name in held)
    first = {name: p.clone() for name, p in held.items()}
    grpo.train(GRPO, policy, LocalEngine(policy, learning=True), examples, vowels, tmp_path)
    assert all(not torch.equal(p, first[name]) for name, p in policy.model.named_parameters() if name in held)
    base = dict(before.model.named_parameters())
    same = {name.replace(".base_layer", ""): p for name, p in policy.model.named_parameters() if name not in held}
    assert same.keys() == base.keys() and all(torch.equal(p, base[name]) for name, p in same.items())


def test_a_table_counts_every_parameter_once(policy):
    n = sum(p.numel() for p in policy.model.parameters())
    adapt(policy.model, LORA, seed=1)
    rows = {part.name: part for part in table(policy.model)}
    assert sum(part.learning + part.frozen for part in rows.values()) == n + rows["adapters"].learning
    assert {name for name, part in rows.items() if part.frozen} == {"vision", "embeddings", "text"}


# ---------------------------------------------------------------- adapters in the passes


def test_an_untrained_adapter_changes_no_bit(tokenizer, examples):
    base, policy = (fresh(tokenizer) for _ in range(2))
    adapt(policy.model, LORA)
    batch = batch_of(policy, examples)
    assert torch.equal(policy.logprobs(batch), base.logprobs(batch))
    groups, advantages = scored(policy, examples)
    learner = Learner(policy, policy.frozen_copy(), Optimizer(policy.model, OptimConfig(lr=1e-2), 4), UpdateConfig())
    assert update(learner, groups, advantages)["kl"] == 0.0
    assert update(learner, groups, advantages)["kl"] > 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_reference_is_the_base_bit_for_bit_and_no_second_copy(tokenizer, examples, dtype):
    base, policy = (fresh(tokenizer) for _ in range(2))
    base.model.to(dtype), policy.model.to(dtype)
    reference = adapted_policy(policy).frozen_copy()
    batch = batch_of(policy, examples)
    with torch.no_grad():
        assert torch.equal(reference.logprobs(batch), base.logprobs(batch))
        assert (policy.logprobs(batch) - base.logprobs(batch)).abs().max() > 0.1
    own = {p.data_ptr() for p in policy.model.parameters()}
    assert all(p.data_ptr() in own and not p.requires_grad for p in reference.model.parameters())
    assert any(p.requires_grad for p in policy.model.parameters())


def test_a_reference_has_its_own_copy_of_what_learns(policy, examples):
    adapted_policy(policy, freeze=())
    reference, batch = policy.frozen_copy(), batch_of(policy, examples)
    with torch.no_grad():
        before = reference.logprobs(batch)
        for p in policy.model.model.visual.parameters():
            p.add_(0.1)
        reference.images.clear()
        assert torch.equal(reference.logprobs(batch), before)


@pytest.mark.parametrize("targets", [LoRA().targets, ("k_proj", "up_proj"), ("o_proj", "down_proj")], ids=str)
def test_sampled_trained_and_pefts_own_log_probabilities_agree(policy, examples, targets):
    """The rollout's packed matrices, the update's pass, and transformers' forward through peft's layers."""
    adapted_policy(policy, LoRA(rank=4, alpha=12, targets=targets))
    prompts = [render(example, "think") for example in examples]
    completions_PG = LocalEngine(policy).generate(prompts, Sampling(n=3, max_tokens=12, seed=5))
    rollouts = [tuple(Rollout(c, {}) for c in completions_G) for completions_G in completions_PG]
    groups = [RolloutGroup(p, r) for p, r in zip(prompts, rollouts, strict=True)]
    batch = policy.encoder.groups(groups)
    with torch.no_grad():
        trained = policy.logprobs(batch)[batch.mask_RC.bool()]
        sampled = torch.tensor([x for completions_G in completions_PG for c in completions_G for x in c.logprobs])
        assert (trained - sampled).abs().max() <= 1e-5
        policy.model.model.visual.set_attn_implementation("sdpa")
        naive = torch.cat([logprob for group in groups for logprob in naive_logprobs(policy, group)])
        assert (trained - naive).abs().max() <= 1e-5
        assert (trained - policy.frozen_copy().logprobs(batch)[batch.mask_RC.bool()]).abs().max() > 0.05


def test_decoding_sees_a_young_adapter_in_bfloat16(policy):
    """Neighbours of 0.02 in bfloat16 are 1.2e-4 apart: 1e-5 merged into the matrix would be lost."""
    adapt(policy.model.to(torch.bfloat16), Trainable(lora=LoRA(rank=1, alpha=2)))
    layer = policy.text.layers[0].mlp.down_proj
    for linear, value in ((layer.base_layer, 0.02), (layer.lora_A["default"], 0.01), (layer.lora_B["default"], 0.0005)):
        torch.nn.init.constant_(linear.weight, value)
    matrix, alternating = packed.Matrix([layer]), torch.ones(1, layer.in_features, dtype=torch.bfloat16)
    alternating[:, 1::2] = -0.5
    matrix.load(1)
    plain, half = packed.Matrix([layer.base_layer]), layer.in_features // 2
    plain.load(1)
    change = F.linear(F.linear(alternating, matrix.down_EI), matrix.up_OE)[0, 0].item()
    assert change == pytest.approx(1e-5 * half * 0.5, rel=0.02)  # 2 x 0.0005 x 0.01 for each input
    assert torch.equal(matrix(alternating), plain(alternating) + F.linear(F.linear(alternating, matrix.down_EI), matrix.up_OE))
    assert torch.equal(merged(policy.model).model.language_model.layers[0].mlp.down_proj.weight, layer.base_layer.weight)  # lost


def test_a_frozen_tower_encodes_an_image_once_per_run_for_policy_and_reference(policy, examples):
    calls = []
    policy.model.model.visual.register_forward_hook(lambda *_: calls.append(1))
    adapt(policy.model, LORA)
    groups, advantages = scored(policy, examples)
    learner = Learner(policy, policy.frozen_copy(), Optimizer(policy.model, OptimConfig(lr=1e-3), 4), UpdateConfig())
    for _ in range(2):
        update(learner, groups, advantages)
        LocalEngine(policy, learning=True).generate([g.prompt for g in groups], Sampling(n=2, max_tokens=3))
    assert len(calls) == 3  # a.png, b.png, wide.png


# ---------------------------------------------------------------- checkpoints


class Stopping:
    """A reward that asks the run to stop at its N-th call, as Ctrl-C does."""

    def __init__(self, at):
        self.at, self.calls = at, 0

    def __call__(self, completion, example):
        self.calls += 1
        if self.calls == self.at:
            os.kill(os.getpid(), signal.SIGINT)
        return vowels(completion, example)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(tokenizer, examples, tmp_path, dtype):
    def run(name, seed, stop_at=0):
        policy = fresh(tokenizer)
        policy.model.to(dtype)
        adapt(policy.model, LORA, seed)
        return grpo.train(GRPO, policy, LocalEngine(policy, learning=True), examples, Stopping(stop_at), tmp_path / name), policy

    _, whole = run("whole", 0)
    assert not run("parts", 0, stop_at=7)[0]  # the first rollout of step 2
    assert checkpoint.latest(tmp_path / "parts").name == "step-2"
    done, resumed = run("parts", seed=1)  # the checkpoint's adapters count, not those drawn
    assert done
    for (name, p), q in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(p, q), name
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "parts")


def test_a_checkpoint_is_the_merged_model_and_its_adapters(tokenizer, examples, tmp_path):
    """Loaded by transformers as it stands, and by peft over the base."""
    policy, base = adapted_policy(fresh(tokenizer)), fresh(tokenizer)
    batch = batch_of(policy, examples)
    checkpoint.save_model(policy, tmp_path)
    with torch.no_grad():
        ours = policy.logprobs(batch)
        plain, info = Qwen2VLForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values()) and not adapted(plain)
        base.model.load_state_dict(plain.state_dict())
        assert (base.logprobs(batch) - ours).abs().max() <= 1e-5
        again = PeftModel.from_pretrained(fresh(tokenizer).model, tmp_path / "adapter").base_model.model
        assert len(adapted(again)) == len(adapted(policy.model)) == 7 * len(policy.text.layers)
        assert (Policy(again, policy.encoder).logprobs(batch) - ours).abs().max() <= 1e-5
    said = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (said["r"], said["lora_alpha"], said["peft_type"]) == (4, 12, "LORA")


def test_merging_leaves_the_adapted_model_as_it_is(policy):
    adapted_policy(policy)
    before = {name: p.clone() for name, p in policy.model.named_parameters()}
    plain = merged(policy.model)
    assert all(torch.equal(p, before[name]) for name, p in policy.model.named_parameters())
    name = "model.language_model.layers.0.mlp.down_proj"
    layer = policy.model.get_submodule(name)
    delta = layer.get_delta_weight("default")  # peft's own
    torch.testing.assert_close(plain.get_submodule(name).weight - layer.base_layer.weight, delta, atol=1e-6, rtol=1e-5)


def test_a_checkpoint_that_lost_its_adapters_is_named(policy, tmp_path):
    adapted_policy(policy)
    checkpoint.save_model(policy, tmp_path)
    with pytest.raises(ModelError, match='has no adapter "base_model.*copy its folder "adapter"'):
        policy.load_weights(load_file(tmp_path / "model.safetensors"), {})


def test_sft_of_adapters_resumes_too(tokenizer, examples, tmp_path):
    policy = fresh(tokenizer)
    adapt(policy.model, LORA)
    assert sft.train(SFT, policy, examples, tmp_path)
    again = fresh(tokenizer)
    adapt(again.model, LORA, seed=3)
    assert checkpoint.restore(checkpoint.latest(tmp_path), again, Optimizer(again.model, SFT.optim, 4)) == 4
    assert all(torch.equal(p, q) for p, q in zip(policy.model.parameters(), again.model.parameters(), strict=True))


# ---------------------------------------------------------------- memory

PLANS = {
    "all": Trainable(),
    "frozen tower": Trainable(freeze=("vision",)),
    "frozen text": Trainable(freeze=("text", "embeddings")),
    "adapters": Trainable(freeze=("vision",), lora=LoRA(rank=16)),
    "some adapters and the tower": Trainable(lora=LoRA(rank=8, targets=("q_proj", "v_proj"))),
}


@pytest.mark.parametrize("trainable", PLANS.values(), ids=PLANS)
def test_a_model_that_is_not_here_is_counted_as_one_that_is(trainable):
    ids = {token: 151_640 + n for n, token in enumerate(hub_model.SPECIAL)}
    with torch.device("meta"):
        model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(**hub_model._config(hub_model.FULL, ids, 0)))
    assert planning.learning(QWEN2_VL_2B, trainable) == ModelShape.of(adapt(model, trainable))


def test_a_plan_with_adapters_by_hand():
    """Rank 16 on all seven matrices of 28 layers, the tower frozen: no copy for the reference, no activations of the tower."""
    count = 16 * 28 * (2 * (1536 + 1536) + 2 * (1536 + 256) + 3 * (1536 + 8960))
    assert count == 18_464_768
    made = plan(planning.learning(QWEN2_VL_2B, PLANS["adapters"]), PAPER)
    assert made.weights == 2 * (2_208_985_600 + count)
    assert (made.masters, made.moments, made.gradients) == (4 * count, 8 * count, 2 * count)
    assert made.reference == made.vision == 0
    assert made.embeddings == 2 * 600 * 512 * 1536


# ---------------------------------------------------------------- a tower of convolutions


@pytest.fixture
def convolved(tmp_path):
    return load_policy(str(family_models.write("fast_vlm", tmp_path / "hub")), family_models.picture)


def convolved_batch(policy):
    return policy.encoder.groups(groups_of(policy, family_models.examples()[:3], [[5, 9], [4], [6]]))


@pytest.mark.parametrize(("trainable", "learning"), [(Trainable(freeze=("vision",)), {"text", "embeddings"}), (LORA, {"adapters"})])
def test_a_frozen_tower_of_convolutions_gets_no_gradient(convolved, trainable, learning):
    adapt(convolved.model, trainable)
    convolved.logprobs(convolved_batch(convolved)).sum().backward()
    assert {part_of(name) for name, p in convolved.model.named_parameters() if p.grad is not None} == learning


def test_a_checkpoint_keeps_what_batch_norms_know_and_never_changes_it(convolved, tmp_path):
    """Means and variances are no parameters; a pass in training must not move them, and files must hold them."""
    norms = {name: b.clone() for name, b in convolved.model.named_buffers() if "running_" in name}
    adapted_policy(convolved)
    convolved.logprobs(convolved_batch(convolved)).sum().backward()
    checkpoint.save_model(convolved, tmp_path / "step-1")
    saved = load_file(tmp_path / "step-1" / "model.safetensors")
    assert norms and all(torch.equal(saved[name], b) for name, b in norms.items())
    with torch.no_grad():
        wanted = convolved.logprobs(convolved_batch(convolved))
        again = load_policy(str(tmp_path / "step-1"), family_models.picture)
        assert (again.logprobs(convolved_batch(again)) - wanted).abs().max() <= 1e-5
