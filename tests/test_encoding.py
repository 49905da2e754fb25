"""When an image is encoded, and that a backward pass through what the rollout encoded is exact."""

from dataclasses import replace

import pytest
import torch
from test_grpo import scored

from medvlm_r1.evaluation.asking.run import EvalConfig, answers
from medvlm_r1.models.encode import Encoder
from medvlm_r1.models.images import Images
from medvlm_r1.models.kept import Kept
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.training.grpo.loss import LossConfig, sequence_mean
from medvlm_r1.training.grpo.update import Learner, UpdateConfig, update
from medvlm_r1.training.optim import OptimConfig, Optimizer

WHOLE, SINGLE = 10_000, 1  # tokens a micro-batch: all three groups together, each on its own


@pytest.fixture
def encoded(policy):
    """How many images each pass of the policy's tower has had."""
    passes = []
    policy.model.model.visual.register_forward_hook(lambda module, args, kwargs, out: passes.append(len(kwargs["grid_thw"])), with_kwargs=True)
    return passes


def learner_of(policy, budget, lr=1e-3):
    return Learner(policy, None, Optimizer(policy.model, OptimConfig(lr=lr), 10), UpdateConfig(LossConfig(kl_beta=0.0), tokens_per_micro_batch=budget))


def roll_out(policy, examples):
    """What an engine leaves behind that an update follows."""
    LocalEngine(policy, learning=True).generate([render(example, "think") for example in examples], Sampling(n=2, max_tokens=3))


def gradients_of_update(policy, groups, advantages, budget):
    learner, found = learner_of(policy, budget), {}
    learner.optimizer.step = lambda is_last: found.update({name: p.grad for name, p in policy.model.named_parameters()}) or 0.0
    update(learner, groups, advantages)
    policy.model.zero_grad()
    policy.version -= 1  # nothing has moved
    return found


def naive_gradients(policy, parts, advantages):
    """Of minus the mean over 9 rows of advantage times mean log-probability: backward through everything, group after group or all at once."""
    for groups, advantages_R in zip(parts, advantages, strict=True):
        batch = policy.encoder.groups(groups)
        (-(sequence_mean(policy.logprobs(batch), batch.mask_RC) * torch.tensor(advantages_R)).sum() / 9).backward()
    found = {name: p.grad for name, p in policy.model.named_parameters()}
    policy.model.zero_grad()
    return found


@pytest.mark.parametrize("budget", [WHOLE, SINGLE])
def test_the_update_encodes_nothing_again(policy, examples, encoded, budget):
    groups, advantages = scored(policy, examples)
    encoded.clear()
    for _ in range(2):
        roll_out(policy, examples)
        update(learner_of(policy, budget), groups, advantages)
    assert encoded == [3, 3]  # a.png, wide.png and b.png together, once a step


@pytest.mark.parametrize("budget", [WHOLE, SINGLE])
def test_gradients_are_those_of_one_backward_pass_through_everything(policy, examples, budget):
    """a.png is shown in two of the three micro-batches; the second group teaches nothing, so wide.png is not reached."""
    groups, advantages = scored(policy, examples)
    advantages[1] = [0.0] * 3
    naive = naive_gradients(policy, [[group] for group in groups], advantages)
    roll_out(policy, examples)
    found = gradients_of_update(policy, groups, advantages, budget)
    for name, expected in naive.items():
        assert expected.norm() > 0, name
        assert (found[name] - expected).norm() <= 1e-5 * expected.norm(), name


def test_where_one_micro_batch_holds_the_step_no_bit_depends_on_the_rollout(policy, examples):
    groups, advantages = scored(policy, examples)
    roll_out(policy, examples)
    remembered, anew = (gradients_of_update(policy, groups, advantages, WHOLE) for _ in range(2))  # the first uses up what was remembered
    assert all(torch.equal(remembered[name], anew[name]) for name in anew)


def test_a_backward_pass_that_nobody_cut_off_is_complete(policy, examples):
    groups, advantages = scored(policy, examples)
    naive = naive_gradients(policy, [[group] for group in groups], advantages)
    roll_out(policy, examples)
    again = naive_gradients(policy, [[group] for group in groups], advantages)
    assert all(torch.equal(again[name], naive[name]) for name in naive)


def test_an_evaluation_encodes_each_picture_once(policy, examples, encoded):
    engine = LocalEngine(policy)
    for arm in ("image", "no-think"):
        answers(engine, examples, EvalConfig("think", samples=4, max_tokens=3, arm=arm))
    assert encoded == [3]


def test_new_weights_see_anew(policy, examples, encoded):
    engine, prompts = LocalEngine(policy), [render(examples[0], "think")]
    batch = policy.encoder.prompts(prompts)
    with torch.no_grad():
        before = policy.image_embeds(batch)
        policy.model.model.visual.patch_embed.proj.weight.mul_(2)
        policy.version += 1
        assert (policy.image_embeds(batch) - before).abs().max() > 1e-3
    engine.generate(prompts, Sampling(n=1, max_tokens=2))
    assert encoded == [1, 1]
    policy.load_weights({name: p.clone() for name, p in policy.model.state_dict().items()})
    engine.generate(prompts, Sampling(n=1, max_tokens=2))
    assert encoded == [1, 1, 1]


def test_what_is_kept_has_a_limit(policy, examples, encoded):
    """Room for one image of 9 tokens and 192 numbers each."""
    batches = [policy.encoder.prompts([render(example, "think")]) for example in examples[:2]]
    size = 9 * policy.model.config.text_config.hidden_size * 4
    policy.images = Images(policy.model, policy.encoder.family, limit=size)
    with torch.no_grad():
        policy.image_embeds(policy.encoder.prompts([render(example, "think") for example in examples]))
        kept = policy.images._kept
        assert kept.held == size and [item.untyped_storage().nbytes() for item, _ in kept._items.values()] == [size]  # not a part of the three
        for batch in (*batches, batches[1]):
            policy.image_embeds(batch)
    assert encoded == [3, 1, 1]


def test_a_key_that_is_put_twice_counts_once():
    kept = Kept(10)
    for size in (4, 4, 6):
        kept.put("a", "x", size)
    assert kept.held == 6
    kept.put("b", "y", 4)
    assert (kept.get("a"), kept.held) == ("x", 10)


def test_prompts_are_kept_up_to_a_number_of_tokens(policy, examples):
    encoder = Encoder(policy.encoder.tokenizer, policy.encoder.image_processor, policy.encoder.load_image)
    lengths = [len(encoder.prompt_ids(render(example, "think"))) for example in examples]
    assert encoder._ids.held == sum(lengths)
    encoder._ids.limit = lengths[0] + lengths[1]
    assert encoder.prompt_ids(render(replace(examples[0], question="Which one?"), "think"))
    assert encoder._ids.held <= encoder._ids.limit
