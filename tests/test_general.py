"""The path for any model: the same values as the fast one where a family has both, and the contracts of all others."""

import json

import family_models
import other_models
import pytest
import torch

from medvlm_r1.models.families import load_policy
from medvlm_r1.models.general_encoder import continued
from medvlm_r1.models.nano import BASE_DIR
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.engines import local
from medvlm_r1.training import checkpoint
from medvlm_r1.types import Completion, Rollout, RolloutGroup

NAMED = {
    "internvl": {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>", "video_token": "<|video_pad|>",
    },
}  # fmt: skip
LENGTHS_PG = [[5, 9, 1], [4], [12, 3], [2, 6]]


@pytest.fixture(scope="module", params=["nano", *family_models.TINY])
def both(request, tmp_path_factory):
    """The same weights, by the family and by the model's own forward."""
    torch.set_num_threads(1)
    if request.param == "smolvlm":
        pytest.importorskip("num2words")  # its processor writes numbers in words
    folder = BASE_DIR
    if request.param != "nano":
        folder = tmp_path_factory.mktemp(request.param)
        checkpoint.save_model(load_policy(str(family_models.write(request.param, folder / "hub")), family_models.picture), folder / "step-1")
        folder = folder / "step-1"
        name_tokens(folder, NAMED.get(request.param, {}))
    fast, general = (load_policy(str(folder), family_models.picture, shared_prefix=shared) for shared in (True, False))
    assert set(fast.banned_ids) <= set(general.banned_ids)
    general.banned_ids = fast.banned_ids  # the tiny tokenizers hold Qwen's tokens beside their own
    return fast, general


def name_tokens(folder, names):
    """What a hub's tokenizer calls its special tokens."""
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_specific_special_tokens": names}))


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
    fast, general = both
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


@pytest.fixture(scope="module", params=other_models.OTHERS)
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
