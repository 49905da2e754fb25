"""The path for any model: the same values as the fast one where a family has both, and the contracts of all others."""

import importlib
import shutil
import socket
from dataclasses import replace

import family_models
import other_models
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from medvlm_r1.commands import main as cli
from medvlm_r1.errors import ConfigError, ModelError
from medvlm_r1.models.adapt import LoRA, Trainable, adapt
from medvlm_r1.models.families import load_policy
from medvlm_r1.models.general_encoder import continued
from medvlm_r1.models.nano import BASE_DIR
from medvlm_r1.preflight import forecast as planning
from medvlm_r1.preflight.machine import Device
from medvlm_r1.preflight.rehearsal import rehearse, worst_groups
from medvlm_r1.preflight.shape import ModelShape
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.engines import local
from medvlm_r1.serving.engine_process import EngineProcess
from medvlm_r1.training import checkpoint
from medvlm_r1.training.grpo.trainer import GRPOConfig
from medvlm_r1.training.grpo.update import UpdateConfig
from medvlm_r1.types import Completion, Rollout, RolloutGroup

LENGTHS_PG = [[5, 9, 1], [4], [12, 3], [2, 6]]


@pytest.fixture(scope="module", params=["nano", *family_models.TINY])
def both(request, tmp_path_factory):
    """The same weights, by the family and by the model's own forward."""
    torch.set_num_threads(1)
    if request.param == "smolvlm":
        pytest.importorskip("num2words")  # its processor writes numbers in words
    folder = BASE_DIR
    if request.param != "nano":
        folder = family_models.checkpoint_of(request.param, tmp_path_factory.mktemp(request.param))
    fast, general = (load_policy(str(folder), family_models.picture, shared_prefix=shared) for shared in (True, False))
    assert set(fast.banned_ids) <= set(general.banned_ids)
    general.banned_ids = fast.banned_ids  # the tiny tokenizers hold Qwen's tokens beside their own
    return fast, general


def groups(policy):
    generator = torch.Generator().manual_seed(0)
    for example, lengths_G in zip(family_models.examples(), LENGTHS_PG, strict=True):
        rows = [tuple(torch.randint(20, 250, (length,), generator=generator).tolist()) for length in lengths_G]
        yield RolloutGroup(render(example, "think"), tuple(Rollout(Completion(ids, (), "", True), {}) for ids in rows), min_tokens=2)


def test_both_paths_write_the_same_prompt(both):
    fast, general = both
    for example in family_models.examples():
        prompt = render(example, "think")
        assert general.encoder.prompt_ids(prompt) == fast.encoder.prompt_ids(prompt)


def test_both_paths_give_the_same_log_probabilities(both):
    with torch.no_grad():
        a, b = (policy.logprobs(policy.encoder.groups(list(groups(policy))), 0.7) for policy in both)
    finite = a.isfinite()
    assert torch.equal(finite, b.isfinite())
    torch.testing.assert_close(a[finite], b[finite], atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("sampling", [Sampling(1, 0.0, 12), Sampling(3, 1.0, 12, seed=5, min_tokens=4)])
def test_both_paths_write_the_same_completions(both, sampling):
    prompts = [render(example, "think") for example in family_models.examples()[:3]]
    fast, general = (local(policy).generate(prompts, sampling) for policy in both)
    assert [[c.token_ids for c in group] for group in fast] == [[c.token_ids for c in group] for group in general]


# ---------------------------------------------------------------- kinds without a family


@pytest.fixture(scope="module", params=[kind for kind in other_models.OTHERS if kind != "mistral3"])
def other(request, tmp_path_factory):
    torch.set_num_threads(1)
    return load_policy(str(other_models.write(request.param, tmp_path_factory.mktemp(request.param) / "hub")), family_models.picture)


def test_any_kind_gives_transformers_own_log_probabilities(other):
    for group in groups(other):
        batch = other.encoder.groups([group])
        found = other.logprobs(batch)
        inputs = other.encoder.inputs(group.prompt)  # a row alone
        for row, rollout in enumerate(group.rollouts):
            more = continued(inputs, torch.tensor([rollout.completion.token_ids]), torch.ones(1, len(rollout.completion.token_ids), dtype=torch.long))
            logits = other.model(**more).logits[0, -len(rollout.completion.token_ids) - 1 : -1].float()
            logits[:, other.banned_ids] = -torch.inf
            logits[: group.min_tokens, list(other.stop_ids)] = -torch.inf
            expected = logits.log_softmax(-1).gather(1, torch.tensor(rollout.completion.token_ids)[:, None])[:, 0]
            torch.testing.assert_close(found[row, : len(expected)], expected, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("sampling", [Sampling(1, 0.0, 8), Sampling(3, 1.0, 8, seed=5, min_tokens=4)])
def test_any_kind_writes_what_its_log_probabilities_say(other, sampling):
    prompts = [render(example, "think") for example in family_models.examples()[:3]]
    written = local(other).generate(prompts, sampling)
    again = local(other).generate(prompts[1:2], sampling)
    assert [c.token_ids for c in again[0]] == [c.token_ids for c in written[1]]
    made = [RolloutGroup(prompt, tuple(Rollout(c, {}) for c in group), sampling.min_tokens) for prompt, group in zip(prompts, written, strict=True)]
    with torch.no_grad():
        scored = other.logprobs(other.encoder.groups(made))
    for row, completion in zip(scored, (c for group in written for c in group), strict=True):
        torch.testing.assert_close(row[: len(completion.logprobs)], torch.tensor(completion.logprobs), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("kind", ["aya_vision", "qwen3_5"])
def test_the_whole_recipe_with_resume_and_evaluation(kind, tmp_path, manifest):
    torch.set_num_threads(1)
    hub = other_models.write(kind, tmp_path / "hub")
    sizes = ["--set", "prompts_per_step=2", "--set", "save_every=1", "--set", "dtype=float32", "--set", "optim.lr=1e-3"]
    words = ["train", "paper", "--model", str(hub), "--data", str(manifest), *sizes, "--set", "sampling.max_tokens=6", "--set", "sampling.n=2"]
    assert cli.main([*words, "--run-dir", str(tmp_path / "whole"), "--set", "steps=2"]) == 0
    stopped = tmp_path / "stopped"
    shutil.copytree(tmp_path / "whole", stopped)
    shutil.rmtree(stopped / "checkpoints" / "step-2")
    assert cli.main([*words, "--run-dir", str(stopped), "--set", "steps=2", "--resume"]) == 0
    ends = [load_file(run / "checkpoints" / "step-2" / "model.safetensors") for run in (tmp_path / "whole", stopped)]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    model = tmp_path / "whole" / "checkpoints" / "step-2"
    assert AutoModelForImageTextToText.from_pretrained(model, output_loading_info=True)[1]["missing_keys"] == set()
    assert cli.main(["eval", "--model", str(model), "--data", str(manifest), "--arms", "image", "--max-tokens", "4", "--out", str(tmp_path / "eval")]) == 0
    assert cli.main(["sft", "paper", "--model", str(hub), "--data", str(manifest), *sizes, "--run-dir", str(tmp_path / "sft"), "--set", "steps=1"]) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (hub, tmp_path / "sft" / "checkpoints" / "step-1"))
    assert any(not torch.equal(value, after[name]) for name, value in before.items())  # letters always teach; what earned nothing, nothing


def test_control_tokens_of_a_question_are_text(other):
    """A placeholder or an end of turn in what a person wrote is written in plain pieces."""
    example = replace(family_models.examples()[0], question="<|im_end|> <image> [IMG] <start_of_image>?")
    plain = replace(example, question="?")
    ids, without = (other.encoder.prompt_ids(render(each, "think")) for each in (example, plain))
    control = set(other.encoder.tokenizer.get_added_vocab().values())
    assert [id for id in ids if id in control] == [id for id in without if id in control]


def test_what_needs_torchvision_is_refused_with_the_remedy(tmp_path):
    if importlib.util.find_spec("torchvision"):
        pytest.skip("torchvision is installed")
    with pytest.raises(ModelError, match="pip install torchvision"):
        load_policy(str(other_models.write("mistral3", tmp_path / "hub")), family_models.picture)


def test_a_checkpoint_remembers_its_image_budget(tmp_path):
    """As with a family: what was trained on small pictures is asked about small pictures."""
    hub = other_models.write("paligemma", tmp_path / "hub")
    assert load_policy(str(hub), family_models.picture).encoder.max_pixels == 0
    checkpoint.save_model(load_policy(str(hub), family_models.picture, max_pixels=3000), tmp_path / "step-1")
    encoder = load_policy(str(tmp_path / "step-1"), family_models.picture).encoder
    assert encoder.max_pixels == 3000 and encoder.picture("tall-a").size == (44, 67)  # of 168 x 252: 3,000 / 42,336 of the area


def test_what_is_rehearsed_is_what_an_update_puts_together(tmp_path):
    """Each completion with its prompt anew: as many groups as fit the budget, one at least; and no tower whose gradients come later."""
    policy = load_policy(str(other_models.write("llava_next", tmp_path / "hub")), family_models.picture)
    asked = [replace(example, id=f"q{n}") for n, example in enumerate(family_models.examples()[:1] * 4)]
    longest = max(len(policy.encoder.prompt_ids(render(example, "think"))) for example in asked)
    for groups in (1, 2):
        budget = groups * 4 * (longest + 64)
        config = GRPOConfig(
            template="think", sampling=Sampling(n=4, max_tokens=64), update=UpdateConfig(tokens_per_micro_batch=budget), dtype="float32", max_pixels=None
        )
        plan = planning.forecast(
            config, ModelShape.of(policy.model, False), planning.Prompts.of(policy, config, asked), Device("a GPU", 2**30, 2**22, is_host=True)
        )
        made = worst_groups(plan, policy, asked)
        assert len(made) == groups and sum(map(policy.tokens_of, made)) == budget
    rehearse(plan, policy, asked)
    assert all(p.grad is None for p in policy.model.parameters())


def test_adapters_where_the_decoder_has_other_matrices(tmp_path, capsys):
    """glm4v has gate and up in one."""
    model = load_policy(str(other_models.write("glm4v", tmp_path / "hub")), family_models.picture).model
    with pytest.raises(ConfigError, match='"trainable.lora.targets" names gate_proj, up_proj, and no layer of the decoder has one of them'):
        adapt(model, Trainable(lora=LoRA(rank=2, targets=("gate_proj", "up_proj"))))
    capsys.readouterr()
    adapt(model, Trainable(lora=LoRA(rank=2)))
    assert "no layer of the decoder has gate_proj, up_proj: adapters learn beside down_proj, k_proj, o_proj, q_proj, v_proj alone" in " ".join(
        capsys.readouterr().err.split()
    )


def test_adapters_that_not_every_layer_can_have_are_told(tmp_path, capsys):
    """As in decoders of which most layers have no attention."""
    model = load_policy(str(other_models.write("glm4v", tmp_path / "hub")), family_models.picture).model
    layers = len(model.model.language_model.layers)
    del model.model.language_model.layers[0].self_attn.q_proj
    adapt(model, Trainable(lora=LoRA(rank=2, targets=("q_proj", "k_proj"))))
    told = f"not all of the decoder's {layers} layers get adapters: q_proj {layers - 1}; the others have no such matrix"
    assert told in " ".join(capsys.readouterr().err.split())


def test_two_held_pictures_of_the_same_bytes_are_two(tmp_path):
    encoder = load_policy(str(other_models.write("llava_next", tmp_path / "hub")), family_models.picture).encoder
    wide, tall = (encoder.hold(Image.new("L", size, 90)) for size in ((280, 56), (56, 280)))
    assert wide != tall and encoder.picture(tall).size == (56, 280)


def test_a_server_of_its_own_refuses_it_with_the_remedy(other):
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(ModelError, match="--upstream"):
        EngineProcess(other, ours)
