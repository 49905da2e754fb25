"""The shared-prefix passes against the naive way: transformers' own forward, once per completion."""

from dataclasses import replace

import pytest
import torch
from conftest import mismatch, picture, transformers_way

from medvlm_r1.models.encode import Encoder
from medvlm_r1.models.qwen import mrope
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.types import Completion, Rollout, RolloutGroup


def groups_of(policy, examples, lengths_PG, min_tokens=(0, 0, 0)):
    """Groups of random completions with the given lengths."""
    generator = torch.Generator().manual_seed(0)
    groups = []
    for example, lengths_G, least in zip(examples, lengths_PG, min_tokens, strict=False):
        rows = [tuple(torch.randint(20, 250, (length,), generator=generator).tolist()) for length in lengths_G]
        rollouts = tuple(Rollout(Completion(ids, (0.0,) * len(ids), "", True), {}) for ids in rows)
        groups.append(RolloutGroup(render(example, "think"), rollouts, least))
    return groups


def naive_logprobs(policy, group):
    """Every completion on its own: images encoded again, prompt run again, full logits."""
    model, encoder = policy.model, policy.encoder
    prompt = encoder.prompt_ids(group.prompt)
    pixels = [encoder.pixels(reference) for reference in group.prompt.example.images]
    for rollout in group.rollouts:
        ids = torch.tensor([prompt + list(rollout.completion.token_ids)])
        logits = (
            model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=(ids == encoder.image_id).int(),
                pixel_values=torch.cat([image.patches for image in pixels]),
                image_grid_thw=torch.tensor([image.grid_thw for image in pixels]),
            )
            .logits[0, len(prompt) - 1 : -1]
            .float()
        )
        logits[:, policy.banned_ids] = -torch.inf
        logits[: group.min_tokens, list(policy.stop_ids)] = -torch.inf
        yield logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]


CASES = {
    "one group": ([[5, 9, 3, 7], [], []],),
    "different prompts, padded": ([[5, 9], [4, 4, 12], [6]],),
    "G = 1": ([[8], [3], [2]],),
    "length 1": ([[1, 1], [1], [1, 4]],),
    "none ends before 4 tokens, or 9": ([[5, 9], [4, 4, 12], [6]], (4, 9, 0)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_values_and_gradients_equal_the_naive_way(policy, examples, case):
    groups = [g for g in groups_of(policy, examples, *case) if g.rollouts]
    weights = torch.linspace(-1, 1, sum(len(r.completion.token_ids) for g in groups for r in g.rollouts))
    batch = policy.encoder.groups(groups)
    ours = policy.logprobs(batch)[batch.mask_RC.bool()]
    (ours * weights).sum().backward()
    our_gradients = {name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None}
    policy.model.zero_grad()

    transformers_way(policy)
    naive = torch.cat([logprob for group in groups for logprob in naive_logprobs(policy, group)])
    (naive * weights).sum().backward()

    assert (ours - naive).abs().max() <= 1e-5
    for name, p in policy.model.named_parameters():
        assert (our_gradients[name] - p.grad).norm() <= 1e-4 * p.grad.norm() + 1e-7, name


def test_positions_are_those_of_transformers(policy, examples):
    for example in examples:
        ids = policy.encoder.prompt_ids(render(example, "think"))
        grids = [policy.encoder.pixels(reference).grid_thw for reference in example.images]
        row = torch.tensor([ids])
        expected, _ = policy.model.model.get_rope_index(row, (row == policy.encoder.image_id).int(), torch.tensor(grids), attention_mask=torch.ones_like(row))
        assert torch.equal(mrope(ids, policy.encoder.image_id, grids, policy.encoder.merge), expected[:, 0])


@pytest.mark.parametrize("min_tokens", [0, 8, 12])
def test_a_sampled_token_has_the_log_probability_that_training_computes(policy, examples, min_tokens):
    sampling = Sampling(n=3, max_tokens=12, seed=5, min_tokens=min_tokens)
    assert mismatch(policy, [render(example, "think") for example in examples], sampling)[0] <= 1e-5


def test_an_image_and_a_prompt_are_encoded_once_per_group(policy, examples):
    calls = []
    policy.model.model.visual.register_forward_hook(lambda module, args, kwargs, out: calls.append(len(kwargs["grid_thw"])), with_kwargs=True)
    batch = policy.encoder.groups(groups_of(policy, examples, [[3] * 8, [3] * 8, [3] * 8]))
    policy.logprobs(batch)
    assert calls == [3]  # a.png is in two prompts: three distinct images
    assert batch.prompts.ids_PL.shape[0] == 3


def test_a_frozen_model_encodes_an_image_once_per_run(policy, examples):
    reference = policy.frozen_copy()
    calls = []
    reference.model.model.visual.register_forward_hook(lambda module, args, kwargs, out: calls.append(len(kwargs["grid_thw"])), with_kwargs=True)
    batch = policy.encoder.groups(groups_of(policy, examples, [[3], [3], [3]]))
    first, second = reference.logprobs(batch), reference.logprobs(batch)
    assert calls == [1, 1, 1]  # three distinct images, each on its own
    assert torch.equal(first, second)


def test_images_prepared_ahead_are_the_same_and_prepared_once(policy, examples):
    opened = []

    def load(reference):
        opened.append(reference)
        if reference == "gone.png":
            raise OSError("no such picture")
        return picture(reference)

    encoder = Encoder(policy.encoder.tokenizer, policy.encoder.image_processor, load)
    encoder.read_ahead(examples)
    encoder.read_ahead(examples)
    for example in examples:
        for reference in example.images:
            assert encoder.pixels(reference).key == policy.encoder.pixels(reference).key
    assert sorted(opened) == ["a.png", "b.png", "wide.png"]
    encoder.read_ahead([replace(examples[0], images=("gone.png",))])  # the error comes when the picture is needed
    with pytest.raises(OSError, match="no such picture"):
        encoder.pixels("gone.png")
