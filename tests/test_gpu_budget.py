"""Whole steps on a GPU that is not there: no device mixed, nothing that a capture forbids, and no more waits and copies than written down here."""

import math
import sys
from pathlib import Path

import pretended
import pytest
import torch
import true_size
from conftest import picture
from pretended import BOOK

from medvlm_r1.data.views import Shown
from medvlm_r1.models import nano, passes
from medvlm_r1.models.captured import Captured
from medvlm_r1.models.encode import Encoder
from medvlm_r1.models.families import prepare
from medvlm_r1.models.tree import Rows
from medvlm_r1.reasoning import render
from medvlm_r1.recipes.named import RECIPES
from medvlm_r1.rollout.collect import collect
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.rollout.writing import in_one, in_two_levels, sample
from medvlm_r1.training import sft
from medvlm_r1.training.grpo.advantage import grpo
from medvlm_r1.training.grpo.update import Learner, update
from medvlm_r1.training.optim import OptimConfig, Optimizer
from medvlm_r1.types import Completion, Example, Rollout, RolloutGroup

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks/_systems"))

import costs

# Most waits of a step, beside a look at the rows every 16 tokens. A lower number is better; nobody may raise one without saying why.
# A rollout reads its tokens and their log-probabilities, an update its metrics, an optimiser the gradients' norm.
WAITS = {"rollout": 2, "update": 1, "optimiser": 1, "sft": 1}
COPIES = {"rollout": 9, "update": 8, "optimiser": 0, "sft": 8}  # each pinned, none waited for
TOWER_KERNELS_A_BLOCK = 14


def nano_on_gpu(tokenizer, dtype=torch.bfloat16):
    model = pretended.move(nano.new_model(tokenizer, seed=1).to(dtype))
    return prepare(model, Encoder(tokenizer, nano.build_image_processor(), picture))


def one_step(policy, engine, learner, examples, seed, length=20):
    """A step of GRPO, its optimiser apart."""
    with BOOK.during("rollout"):
        groups = collect(
            engine,
            [Shown(example, 2) for example in examples],
            lambda *_: {"format": 1.0},
            "think",
            Sampling(n=2, max_tokens=length, min_tokens=length, seed=seed),
        )
    with BOOK.during("update"):
        return groups, update(learner, groups, [grpo([0, 1])] * len(groups))


def in_phase(phase, method):
    def call(*args, **kwargs):
        with BOOK.during(phase):
            return method(*args, **kwargs)

    return call


@pytest.fixture(scope="module")
def told(tokenizer):
    """The second of two steps of GRPO with real numbers, all of one captured step, and one of SFT."""
    examples = [each for each in _examples() if len(each.images) == 1]
    recipe, found = RECIPES["nano"], {}
    with pretended.gpu():
        policy = nano_on_gpu(tokenizer)
        learner = Learner(policy, policy.frozen_copy(), Optimizer(policy.model, recipe.grpo().optim, 9), recipe.grpo().update)
        learner.optimizer.step = in_phase("optimiser", learner.optimizer.step)
        captures = []
        engine = LocalEngine(policy, learning=True, capture=lambda step: captures.append(step) or pretended.replayed(step))
        for seed in range(2):
            BOOK.clear()
            found["groups"], found["metrics"] = one_step(policy, engine, learner, examples, seed)
        found |= {name: dict(getattr(BOOK, name)) for name in ("waits", "copies", "forbidden", "kernels")} | {"captures": len(captures)}
        BOOK.clear()
        with BOOK.during("sft"):
            sft.backward(policy, [sft.target(policy, recipe.sft(), example) for example in examples], 4096)
        found["sft"] = {"waits": dict(BOOK.waits), "copies": dict(BOOK.copies)}
    return found


def _examples():
    return [Example(f"q{n}", (f"{n}.png",), "Which plane is this?", ("axial", "coronal"), "axial", "mri") for n in range(2)]


def by_phase(counter):
    sums = {}
    for (phase, *_), n in counter.items():
        sums[phase] = sums.get(phase, 0) + n
    return sums


def looks(waits):
    return sum(n for (phase, what, _), n in waits.items() if phase == "rollout" and what == "read")


def test_no_step_waits_more_often_than_written(told):
    waits = by_phase(told["waits"])
    waits["rollout"] -= looks(told["waits"])
    assert looks(told["waits"]) == 1  # after 16 of 20 tokens
    assert waits == {name: WAITS[name] for name in waits} and sum(waits.values()) <= 12
    assert by_phase(told["sft"]["waits"]) == {"sft": WAITS["sft"]}


def test_every_copy_is_pinned_and_there_are_few(told):
    for copies in (told["copies"], told["sft"]["copies"]):
        assert {what for _, what, _ in copies} == {"pinned"}
        assert all(n <= COPIES[phase] for phase, n in by_phase(copies).items()), by_phase(copies)


def test_a_decode_step_is_captured_once_and_replays_at_the_same_places(told):
    assert told["captures"] == 1 and not told["forbidden"]


def test_the_numbers_are_those_of_a_cpu(told, tokenizer):
    """On-policy: what sampling said of its tokens is what training says, up to bfloat16; and the loss is finite."""
    assert told["metrics"]["sampler_mismatch"] < 0.02 and math.isfinite(told["metrics"]["loss"]) and told["metrics"]["grad_norm"] > 0


def test_gradients_are_those_of_a_cpu(tokenizer):
    """float32, one update: every gradient on the pretended GPU (flat attention, clipping by AdamW's scale) and on the CPU (padded)."""
    examples, config, norms, weights = _examples(), OptimConfig(lr=1e-3, max_grad_norm=0.01), [], []
    for there in (False, True):
        with pretended.gpu() if there else torch.enable_grad():
            policy = prepare(nano.new_model(tokenizer, seed=1), Encoder(tokenizer, nano.build_image_processor(), picture))
            if there:
                pretended.move(policy.model)
            optimizer = Optimizer(policy.model, config, 9)
            sft.backward(policy, [sft.target(policy, RECIPES["nano"].sft(), example) for example in examples], 4096)
            norms.append(optimizer.step())
            weights.append([getattr(p, "numbers", p).detach().clone() for p in policy.model.parameters()])
    assert norms[1] == pytest.approx(norms[0], rel=1e-5) and norms[0] > 10 * config.max_grad_norm  # so that it is clipped
    for theirs, ours in zip(*weights, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-3)


def test_room_for_prompts_only_grows(policy, examples):
    """300 steps of four questions with pictures of ten sizes: prompts of 110 to 900 tokens."""
    captures = []
    engine = LocalEngine(policy, capture=lambda step: captures.append(step) or step)
    generator = torch.Generator().manual_seed(0)
    kinds = torch.tensor([56, 64, 64, 81, 121, 132, 169, 324, 484, 506])  # tokens of pictures as they occur
    for _ in range(300):
        tokens_P = kinds[torch.randint(0, 10, (4,), generator=generator)] + torch.randint(110, 180, (4,), generator=generator)
        batch = type("Batch", (), {"lengths_P": tokens_P})
        writing = engine._writing(batch, Sampling(seed=len(captures)))
        assert writing.room >= int(tokens_P.max())
        if writing.replay is None:
            writing.replay = engine.capture(lambda: None)
    assert 1 <= len(captures) <= 3


@pytest.mark.parametrize("sharpness", [1.0, 3.0, 6.0])
def test_two_levels_draw_what_one_does_but_for_rounding(sharpness):
    """Where they differ they are neighbours among the tokens that can be drawn: the sums before them differ by rounding alone."""
    generator = torch.Generator().manual_seed(0)
    logprobs_RV = (sharpness * torch.randn(128, 20_011, generator=generator)).log_softmax(-1)
    uniform_R = torch.rand(128, generator=generator)
    one_R, two_R = in_one(logprobs_RV, uniform_R), in_two_levels(logprobs_RV, uniform_R)
    cumulative_RV = logprobs_RV.double().exp().cumsum(-1)
    apart_R = cumulative_RV.gather(1, one_R[:, None]) - cumulative_RV.gather(1, two_R[:, None])
    assert (one_R == two_R).sum() >= 126
    least_R = logprobs_RV.double().exp().gather(1, torch.maximum(one_R, two_R)[:, None])  # what any two different tokens are apart
    assert (apart_R.abs() - (one_R != two_R)[:, None] * least_R).max() < 1e-5
    assert torch.equal(sample(logprobs_RV, uniform_R, greedy=False), one_R)  # a CPU draws as it did


# ---------------------------------------------------------------- Qwen2-VL-2B's width, by shapes alone

FEW = {"layers": 2, "depth": 2}  # of 28 and 32: everything a layer or block needs is there twice


@pytest.mark.parametrize("completion", [320, 16], ids=["the most tokens", "short"])
def test_memory_and_arithmetic_are_what_the_pages_say(tokenizer, completion):
    """The paper's setting, three and four prompts in the largest micro-batch: bytes within 5 % of the plan, products as many as are needed."""
    counted = true_size.update_peak(tokenizer, completion=completion, **FEW)
    assert counted.planned == pytest.approx(counted.peak, rel=0.05)
    size, step = costs.Dimensions(layers=FEW["layers"], vision_layers=FEW["depth"]), costs.Step(true_size.P, true_size.G, 768, completion, 512)
    needed, positions = costs.step_flops(size, step), true_size.P * true_size.G * completion
    again = 2 * size.head_weights * positions * (completion == 320)  # in parts, which the backward pass computes again
    # Behind its attention the last layer goes over each prompt's last token alone, in four passes; and no gradient reaches the pictures.
    spared = 4 * 2 * (size.hidden**2 + 3 * size.hidden * size.mlp) * true_size.P * 767 + 2 * size.patch_weights * true_size.P * 2048
    assert counted.flops["remember"] == pytest.approx(true_size.P * costs.image_flops(size, 512), rel=0.03)
    assert counted.flops["update"] == pytest.approx(needed["reference"] + needed["update"] + again - spared, rel=1e-6)


def test_a_captured_steps_cache_is_what_the_plan_counts():
    """Keys and values of prompts once and of every completion; a token's queries come on top."""
    rows, cache = Rows(torch.tensor([5, 8])), Captured(queries=12)
    half = torch.randn(13, 2, 128)
    cache.fill([(half, half)] * 3, rows, group=4, max_tokens=16)
    assert sum(x.nbytes for x in cache.layers) == 3 * 4 * 128 * (2 * 2 * (2 * 8 + 2 * 4 * 16) + 2 * 4 * 12)


def test_a_block_of_the_tower_has_few_kernels(tokenizer):
    """Four products, attention, two norms, two sums, turns, GELU, and what lays heads out for attention and back."""
    few, more = (true_size.tower_kernels(tokenizer, depth) for depth in (1, 2))
    assert more - few <= TOWER_KERNELS_A_BLOCK


def test_policy_and_reference_share_a_mask(policy, examples):
    """And all else that a pass needs: it is made once for a batch."""
    rollout = Rollout(Completion((1, 2, 3), (0.0,) * 3, "", finished=True), {})
    batch = policy.encoder.groups([RolloutGroup(render(example, "think"), (rollout, rollout)) for example in examples[:2]])
    mine, theirs = (passes.over_completions(batch, policy.encoder.image_id, policy.device) for _ in range(2))
    assert mine is theirs and mine.tree._blocks is theirs.tree._blocks


# ---------------------------------------------------------------- the pretence itself


def test_a_product_of_two_devices_raises():
    with pretended.gpu(), pytest.raises(RuntimeError, match="same device"):
        torch.zeros(2, 2, device="cuda") @ torch.zeros(2, 2)


def test_what_a_gpu_waits_for_is_counted():
    with pretended.gpu() as book:
        x = torch.arange(6.0, device="cuda").view(2, 3)
        x[:, torch.tensor([1], device="cuda")] = -torch.inf  # a scalar through an index
        x[x > 2], x.sum().item(), x.tolist(), torch.ones(2).to("cuda"), x.cpu()
        assert book.total(book.waits) == 7 and book.total(book.copies) == 4


def test_a_step_that_moves_a_tensor_is_no_graph():
    with pretended.gpu():
        places = [torch.zeros(3, device="cuda") for _ in range(2)]
        replay = pretended.replayed(lambda: places[len(moved)].add_(1))
        moved = []
        replay(), replay()
        moved.append(1)
        with pytest.raises(AssertionError, match="other places"):
            replay()
