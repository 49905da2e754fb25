"""Sampling: reproducible, independent of the batch, and really from the model's distribution."""

import torch
from conftest import transformers_way

from medvlm_r1.reasoning import render
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.rollout.writing import sample


def test_completions_do_not_depend_on_what_else_is_asked(policy, examples):
    prompts = [render(example, "think") for example in examples]
    sampling = Sampling(n=3, max_tokens=15, seed=3)
    together = LocalEngine(policy).generate(prompts, sampling)
    alone = [LocalEngine(policy, max_rows=3).generate([prompt], sampling)[0] for prompt in reversed(prompts)][::-1]
    assert [[c.token_ids for c in group] for group in together] == [[c.token_ids for c in group] for group in alone]


def test_rollouts_of_a_group_differ_and_seeds_matter(policy, examples):
    prompt = render(examples[0], "think")
    first, second = (LocalEngine(policy).generate([prompt], Sampling(n=4, max_tokens=15, seed=seed))[0] for seed in (1, 2))
    assert len({c.token_ids for c in first + second}) == 8


def test_greedy_is_the_argmax_of_transformers_own_generation(policy, examples):
    prompt = render(examples[0], "think")
    ours = LocalEngine(policy).generate([prompt], Sampling(n=1, temperature=0.0, max_tokens=10))[0][0]
    transformers_way(policy)
    ids = policy.encoder.prompt_ids(prompt)
    image = policy.encoder.pixels("a.png")
    row = torch.tensor([ids])
    out = policy.model.generate(
        input_ids=row, attention_mask=torch.ones_like(row), mm_token_type_ids=(row == policy.encoder.image_id).int(),
        pixel_values=image.patches, image_grid_thw=torch.tensor([image.grid_thw]),
        max_new_tokens=10, do_sample=False, bad_words_ids=[[i] for i in policy.banned_ids],
    )  # fmt: skip
    assert list(ours.token_ids) == out[0, len(ids) :].tolist()


def test_sampling_follows_the_distribution():
    logprobs = torch.tensor([0.5, 0.0, 0.3, 0.2]).log().expand(20_000, -1)
    tokens = sample(logprobs, torch.rand(20_000, generator=torch.Generator().manual_seed(0)), greedy=False)
    shares = torch.bincount(tokens, minlength=4) / 20_000
    assert shares[1] == 0
    assert (shares - torch.tensor([0.5, 0.0, 0.3, 0.2])).abs().max() < 0.015  # four standard errors


def test_image_placeholders_are_never_sampled(policy, examples):
    with torch.no_grad():  # make the placeholder by far the likeliest token
        policy.model.lm_head.weight[policy.encoder.image_id] = 50 * policy.model.lm_head.weight.mean(0).sign()
    for completion in LocalEngine(policy).generate([render(examples[0], "think")], Sampling(n=8, max_tokens=20))[0]:
        assert not set(completion.token_ids) & set(policy.banned_ids)
