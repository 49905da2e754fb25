"""Sampling: reproducible, independent of the batch, and really from the model's distribution."""

import gc
import math
import weakref
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest
import torch
from conftest import like_to_end, transformers_way

from medvlm_r1.data.views import Shown
from medvlm_r1.models.packed import Matrix
from medvlm_r1.reasoning import render
from medvlm_r1.rewards.rubric import Rubric
from medvlm_r1.rollout.collect import collect
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.local import LocalEngine, uniforms
from medvlm_r1.rollout.writing import cuda_graph, sample
from medvlm_r1.training.batches import batch
from medvlm_r1.training.sharding import Gathering


def test_completions_do_not_depend_on_what_else_is_asked(policy, examples):
    prompts = [render(example, "think") for example in examples]
    sampling = Sampling(n=3, max_tokens=15, seed=3)
    together = LocalEngine(policy).generate(prompts, sampling)
    alone = [LocalEngine(policy, max_rows=3).generate([prompt], sampling)[0] for prompt in reversed(prompts)][::-1]
    assert [[c.token_ids for c in group] for group in together] == [[c.token_ids for c in group] for group in alone]


def test_a_question_that_comes_twice_in_a_step_gets_two_groups(policy, examples):
    """A step of four from two questions. What comes first has the numbers it would have alone, what comes again the next ones."""
    drawn = batch(examples[:2], 4, 0, 0)
    assert sorted(example.id for example in drawn) == ["q1", "q1", "q2", "q2"]
    sampling = Sampling(n=2, max_tokens=12, seed=3)
    groups = collect(LocalEngine(policy), [Shown(example, 2) for example in drawn], Rubric({"format": 1.0}), "think", sampling)
    written = [tuple(rollout.completion.token_ids for rollout in group.rollouts) for group in groups]
    assert len(set(written)) == 4
    for example in examples[:2]:
        twice = [row for drawn_one, row in zip(drawn, written, strict=True) if drawn_one.id == example.id]
        alone = LocalEngine(policy).generate([render(example, "think")], replace(sampling, n=4))[0]
        assert [ids for row in twice for ids in row] == [completion.token_ids for completion in alone]


def test_an_id_with_half_a_surrogate_pair_has_its_numbers_too():
    one, other = (uniforms(0, id, 0, 4).tolist() for id in ("q\ud83d", "q\ud83e"))
    assert one != other


def test_rollouts_of_a_group_differ_and_seeds_matter(policy, examples):
    prompt = render(examples[0], "think")
    first, second = (LocalEngine(policy).generate([prompt], Sampling(n=4, max_tokens=15, seed=seed))[0] for seed in (1, 2))
    assert len({c.token_ids for c in first + second}) == 8


@pytest.mark.parametrize("opening", ["", "<think>Ears.</think>\n<answer>"])
def test_greedy_is_the_argmax_of_transformers_own_generation(policy, examples, opening):
    prompt = replace(render(examples[0], "think"), opening=opening)
    plain = policy.encoder.prompt_ids(render(examples[0], "think"))
    assert policy.encoder.prompt_ids(prompt) == plain + policy.encoder.tokenizer(opening, add_special_tokens=False)["input_ids"]
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


# ---------------------------------------------------------------- a captured step


def places(writing):
    """Where all tensors lie that a captured step reads or writes."""
    own = [getattr(writing, name) for name in ("uniform_NC", "ids_NC", "logprobs_NC", "rows_R", "ended_R", "position_R", "written_1", "last_R")]
    cache = [x for x in vars(writing.cache).values() if isinstance(x, torch.Tensor)] + writing.cache.layers
    assert len(cache) > 6
    matrices = [value for layer in writing.layers for value in vars(layer).values() if isinstance(value, Matrix)]
    weights = [x for matrix in matrices for x in (matrix.weight_OI, matrix.bias_O) if x is not None]
    return [x.data_ptr() for x in (*own, writing.table[0].cos_T1D, writing.table[0].sin_T1D, *cache, *weights)]


def test_beside_a_gpu_a_policy_on_the_cpu_is_not_captured(policy, examples):
    """``cuda_graph`` is the default; of work that no GPU does it would keep nothing."""
    prompts, sampling = [render(example, "think") for example in examples], Sampling(n=2, max_tokens=6, seed=3)
    assert LocalEngine(policy).capture is cuda_graph
    assert LocalEngine(policy, capture=cuda_graph).generate(prompts, sampling) == LocalEngine(policy, capture=None).generate(prompts, sampling)


def test_weights_that_are_gathered_anew_are_captured_anew(policy, examples):
    """FSDP2 frees what it gathered; the next time it lies elsewhere."""

    class Parts:
        is_gathered = False

        @contextmanager
        def gathered(self):
            self.is_gathered = True
            yield
            self.is_gathered = False

    captured, parts = [], Parts()
    engine = Gathering(LocalEngine(policy, capture=lambda step: captured.append(parts.is_gathered) or step), parts)
    for _ in range(2):
        engine.generate([render(examples[0], "think")], Sampling(n=2, max_tokens=6, min_tokens=6))
    assert captured == [True, True]


def test_what_did_not_fit_is_free_again(policy, examples):
    """The halves of a batch are tried with all of the memory."""
    tried = []

    def full(step):
        tried.append(weakref.ref(step.__self__))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    engine = LocalEngine(policy, capture=full)
    with suppress(torch.OutOfMemoryError):
        engine.generate([render(examples[0], "think")], Sampling(n=2, max_tokens=6, min_tokens=6))
    gc.collect()
    assert len(tried) == 1 and tried[0]() is None


def test_a_captured_step_serves_later_batches_and_weights(policy, examples):
    """A graph knows addresses only: nothing may move, whatever the next prompts and weights are."""
    captured = []

    def capture(step):
        writing = step.__self__
        here = places(writing)
        captured.append(writing)

        def replay():
            assert places(writing) == here
            step()

        return replay

    engine, sampling = LocalEngine(policy, capture=capture), Sampling(n=3, max_tokens=15, min_tokens=4, seed=3)
    for prompts in ([render(example, "think") for example in examples[:2]], [render(example, "think") for example in (examples[1], examples[0])]):
        replayed, plain = engine.generate(prompts, sampling), LocalEngine(policy, capture=None).generate(prompts, sampling)
        assert [[c.token_ids for c in group] for group in replayed] == [[c.token_ids for c in group] for group in plain]
        logprobs = [torch.tensor([x for group in groups for c in group for x in c.logprobs]) for groups in (replayed, plain)]
        assert (logprobs[0] - logprobs[1]).abs().max() <= 1e-5
        with torch.no_grad():
            for p in policy.model.parameters():
                p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    assert len(captured) == 1
    engine.generate([render(examples[2], "think")], sampling)
    assert len(captured) == 2  # one prompt is another grid


def test_a_completion_holds_its_end_once_wherever_the_others_end(policy, examples):
    like_to_end(policy, 1)
    prompts, sampling = [render(example, "think") for example in examples], Sampling(n=6, max_tokens=15, seed=3)
    groups = LocalEngine(policy).generate(prompts, sampling)
    assert len({len(c.token_ids) for group in groups for c in group}) > 4
    for c in (c for group in groups for c in group):
        assert not set(c.token_ids[:-1]) & set(policy.stop_ids) and len(c.token_ids) == len(c.logprobs)
        assert c.finished == (c.token_ids[-1] in policy.stop_ids) and (c.finished or len(c.token_ids) == 15)
    alone = [LocalEngine(policy).generate([prompt], sampling)[0] for prompt in prompts]
    assert [[c.token_ids for c in group] for group in alone] == [[c.token_ids for c in group] for group in groups]


def test_cold_is_nearly_greedy_and_lukewarm_is_not(policy, examples):
    def write(temperature, n=4):
        return {c.token_ids for c in LocalEngine(policy).generate([render(examples[0], "think")], Sampling(n, temperature, 15))[0]}

    assert write(1e-3) == write(0, n=1)
    assert len(write(0.4)) == 4


def test_no_completion_ends_before_min_tokens(policy, examples):
    like_to_end(policy, 50)  # by far the likeliest token
    prompts = [render(examples[0], "think")]
    lengths = [{len(c.token_ids) for c in LocalEngine(policy).generate(prompts, Sampling(n=6, max_tokens=9, min_tokens=m))[0]} for m in (0, 5, 9)]
    assert min(lengths[0]) < 5 and min(lengths[1]) == 5 + 1 and lengths[2] == {9}  # five, and the end
    [[greedy]] = LocalEngine(policy).generate([render(examples[1], "think")], Sampling(1, 0.0, 9, min_tokens=5))
    assert min(greedy.logprobs[:5]) >= -math.log(policy.model.config.text_config.vocab_size)  # the likeliest of those that may come
