"""Views in training: what a step shows, what it earns and what it moves."""

import os
import signal
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import picture, train
from test_training import files_of

from medvlm_r1.config import override
from medvlm_r1.data import views
from medvlm_r1.data.partners import is_contrary
from medvlm_r1.data.views import VIEWS, Draw, Pool, Share, Shown, shares, show
from medvlm_r1.errors import ConfigError, DataError
from medvlm_r1.launch.training import other_views
from medvlm_r1.models import nano
from medvlm_r1.models.encode import Encoder
from medvlm_r1.models.families import prepare
from medvlm_r1.preflight import forecast
from medvlm_r1.preflight.machine import Device
from medvlm_r1.preflight.questions import put, usable
from medvlm_r1.preflight.shape import QWEN2_VL_2B
from medvlm_r1.preflight.values import check
from medvlm_r1.recipes.named import find
from medvlm_r1.rewards.rubric import ByView
from medvlm_r1.rollout.collect import collect
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.training.grpo import trainer as grpo
from medvlm_r1.training.grpo.advantage import advantages
from medvlm_r1.training.grpo.update import Learner, UpdateConfig, update
from medvlm_r1.training.optim import OptimConfig, Optimizer
from medvlm_r1.types import Completion, Example, Prompt, Rollout, RolloutGroup

SIDES = ("left", "right")
QUESTIONS = [Example(f"q{n}", (f"{n}.png",), "Which side?", SIDES, SIDES[n % 2], "mri", "side", f"p{n}") for n in range(6)]
LONELY = Example("lonely", ("l.png",), "Which plane?", ("axial", "coronal"), "axial", "mri", "plane", "p9")
PLAIN, CONTRAST = {"image": {"format": 1.0, "accuracy": 1.0}}, {"image": {"format": 1.0, "accuracy": 1.0}, "mismatch": {"format": 1.0, "accuracy": -1.0}}
GRPO = grpo.GRPOConfig(
    template="think", steps=3, prompts_per_step=2, sampling=Sampling(n=4, max_tokens=8), optim=OptimConfig(lr=1e-3), save_every=2, views=CONTRAST
)


def fresh(tokenizer):
    return prepare(nano.new_model(tokenizer, seed=1), Encoder(tokenizer, nano.build_image_processor(), picture))


def letters(completion, prompt):
    """Random text sometimes earns it, and what it earns differs by view."""
    found = {"l": completion.text.count("a") / 3}
    return {f"{prompt.view}/{name}": -value for name, value in found.items()} if prompt.view else found


def run(tokenizer, run_dir, config=GRPO, scorer=letters, examples=(*QUESTIONS, LONELY)):
    policy = fresh(tokenizer)
    return grpo.train(config, policy, LocalEngine(policy, learning=True), examples, scorer, run_dir), policy


# ---------------------------------------------------------------- what is shown


def test_a_question_is_shown_once_under_each_view_with_its_share_of_the_rollouts():
    own, other = show(QUESTIONS[0], shares(CONTRAST, 8), Draw(Pool(QUESTIONS)))
    assert own == Shown(QUESTIONS[0], 4)
    assert (other.example.id, other.view, other.n, other.weight) == ("q0/mismatch", "mismatch", 4, 1.0)
    assert replace(other.example, id="q0", images=("0.png",)) == QUESTIONS[0]
    assert other.example.images in [q.images for q in QUESTIONS if is_contrary(q, QUESTIONS[0])]


def test_where_a_view_cannot_show_a_question_its_rollouts_go_to_the_first():
    pool = Pool([*QUESTIONS, LONELY])
    assert show(LONELY, shares(CONTRAST, 8), Draw(pool)) == [Shown(LONELY, 8)]
    assert show(LONELY, shares(PLAIN, 8, meter=2), Draw(pool)) == [Shown(LONELY, 8)]
    assert show(LONELY, shares({"anyone": {}}, 8), Draw(pool))[0].n == 8  # of the modality there is another
    with pytest.raises(DataError, match='question "lonely" cannot be shown under "mismatch"'):
        show(LONELY, {"mismatch": Share(8)}, Draw(pool))


def test_a_stranger_takes_the_place_of_a_partner_that_is_not_there():
    """Of another patient, asked something else; never of another of the same kind, whose picture would show the answer, nor of another modality."""
    same, twin, ct = (
        replace(LONELY, id="same", images=("s.png",), group="p8"),
        replace(QUESTIONS[0], id="twin", images=("t.png",), group="p9"),
        replace(QUESTIONS[0], id="ct", images=("ct.png",), modality="ct"),
    )
    pool = Pool([*QUESTIONS, LONELY, same, twin, ct])
    shown = {views.stranger(LONELY, Draw(pool, step=step)).images for step in range(200)}
    assert shown == {(f"{n}.png",) for n in range(6)}
    assert views.stranger(LONELY, Draw(Pool([LONELY, same, twin, ct]))) is None
    assert all(views.stranger(q, Draw(pool, step=n)) == views.mismatch(q, Draw(pool, step=n)) for q in QUESTIONS for n in range(9))


def test_a_partner_belongs_to_the_step_and_the_seed():
    pool = Pool(QUESTIONS)
    drawn = {(seed, step): views.mismatch(QUESTIONS[0], Draw(pool, seed, step)).images for seed in (0, 1) for step in range(20)}
    assert drawn == {(seed, step): views.mismatch(QUESTIONS[0], Draw(Pool(QUESTIONS[::-1]), seed, step)).images for seed, step in drawn}
    by_seed = [[drawn[seed, step] for step in range(20)] for seed in (0, 1)]
    assert set(by_seed[0]) == {("1.png",), ("3.png",), ("5.png",)} and by_seed[0] != by_seed[1]


def test_a_question_without_a_partner_writes_what_it_writes_under_its_own_picture_alone(policy):
    """As many rollouts, token for token."""
    sampling, both = Sampling(n=4, max_tokens=8, seed=3), Draw(Pool([LONELY]))
    groups = [collect(LocalEngine(policy), show(LONELY, shares(v, 4), both), letters, "think", sampling) for v in (PLAIN, CONTRAST)]
    assert groups[0] == groups[1] and len(groups[0][0].rollouts) == 4


# ---------------------------------------------------------------- a run


def test_a_view_is_one_function_and_one_line(tokenizer, tmp_path, monkeypatch):
    def doubled(example, draw):
        return replace(example, images=example.images * 2)

    monkeypatch.setitem(VIEWS, "doubled", doubled)

    config = replace(GRPO, views=PLAIN | {"doubled": {"format": 1.0, "weight": 0.5}})
    check(config)
    assert run(tokenizer, tmp_path, config, ByView(config.views))[0]
    rows, rollouts = files_of(tmp_path)
    assert {"reward/format", "reward/accuracy", "reward/doubled/format"} <= rows[0].keys()
    assert rollouts.count('/doubled"') == 2 * 2 * 3  # two questions, two rollouts of each, three steps


def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(tokenizer, tmp_path):
    calls = []

    def stopping(completion, prompt):
        calls.append(prompt)
        if len(calls) == 9:  # the first rollout of step 2
            os.kill(os.getpid(), signal.SIGINT)
        return letters(completion, prompt)

    for name, config in (("contrast", GRPO), ("meter", replace(GRPO, views=PLAIN, sampling=Sampling(n=5, max_tokens=8), meter=2))):
        calls.clear()
        whole, cut = tmp_path / name / "whole", tmp_path / name / "cut"
        _, policy = run(tokenizer, whole, config)
        assert not run(tokenizer, cut, config, stopping)[0]
        finished, resumed = run(tokenizer, cut, config)
        assert finished and files_of(whole) == files_of(cut)
        assert all(torch.equal(p, q) for p, q in zip(policy.model.parameters(), resumed.model.parameters(), strict=True))


def test_each_picture_goes_through_the_tower_once_a_step(tokenizer, tmp_path):
    """Two questions, each with two pictures, one of which both may share; rollouts and update together."""
    policy = fresh(tokenizer)
    seen, embed = [], policy.images._encode
    policy.images._encode = lambda batch, keys: seen.append(list(keys)) or embed(batch, keys)
    config = replace(GRPO, steps=2, update=UpdateConfig(tokens_per_micro_batch=1), sampling=Sampling(n=5, max_tokens=8), meter=2, views=PLAIN)
    config = replace(config, update=replace(config.update, loss=replace(config.update.loss, kl_beta=0.0)))
    assert grpo.train(config, policy, LocalEngine(policy, learning=True), QUESTIONS, letters, tmp_path)
    asking, shown = config.asking(QUESTIONS), Counter()
    for step in range(2):
        shown += Counter({image for s in asking.shown(step) for image in s.example.images}.__iter__())
    assert sum(map(len, seen)) == sum(shown.values())


def group(example, view, rewards, weight=1.0):
    rollouts = tuple(Rollout(Completion((20 + n, 2), (-1.0, -1.0), "x", True), {"r": r}) for n, r in enumerate(rewards))
    return RolloutGroup(Prompt(example, "Which side?\nA) left\nB) right\nThink first, then answer.", view=view), rollouts, weight=weight)


def test_the_weight_scales_what_is_left_after_the_deviation_was_divided_out():
    groups = [group(QUESTIONS[0], "", (2.0, 1.0)), group(QUESTIONS[0], "mismatch", (1.0, 0.0), 0.5), group(QUESTIONS[0], "mismatch", (1.0, 0.0), 0.0)]
    [own, other, measured] = advantages("grpo", groups, {"r": 1.0})
    assert other == [0.5 * a for a in own] and measured == [0.0, 0.0]
    halved = [group(QUESTIONS[0], "", (2.0, 1.0)), group(QUESTIONS[0], "mismatch", (0.5, 0.0))]
    assert advantages("grpo", halved, {"r": 1.0})[1] == pytest.approx(own, rel=1e-3)  # a smaller reward alone changes nothing


def test_what_is_only_measured_moves_no_weight(tokenizer):
    """With a penalty, which pulls at every group that is learnt from."""
    found = []
    for extra in ([], [group(QUESTIONS[1], "mismatch", (1.0, 0.0), 0.0)]):
        policy = fresh(tokenizer)
        groups = [group(QUESTIONS[0], "", (1.0, 0.0)), *extra]
        learner = Learner(policy, policy.frozen_copy(), Optimizer(policy.model, OptimConfig(lr=1e-3), 1), UpdateConfig())
        metrics = update(learner, groups, advantages("grpo", groups, {"r": 1.0}))
        found.append((metrics, [p.detach().clone() for p in policy.model.parameters()]))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(p, q) for p, q in zip(found[0][1], found[1][1], strict=True))


def test_a_model_remembers_what_it_was_trained_under_by_the_evaluations_name_for_it(policy):
    """So the arm that shows another patient's picture decides nothing about it, whichever of the three views taught it."""
    for view, arm in (("mismatch", "mismatch"), ("stranger", "mismatch"), ("anyone", "mismatch"), ("blank", "blank")):
        assert other_views(replace(GRPO, views=PLAIN | {view: {"format": 1.0}}), policy) == [arm]
    assert other_views(replace(GRPO, views=PLAIN, meter=2), policy) == []


# ---------------------------------------------------------------- before step 1


def test_what_is_put_holds_every_picture_that_a_step_shows():
    config = replace(GRPO, steps=9)
    asking = config.asking(QUESTIONS)
    shown = {(s.example.id.removesuffix("/mismatch"), s.example.images) for step in range(9) for s in asking.shown(step)}
    found = put(config, QUESTIONS)
    assert {(e.id, e.images) for e in found} == shown and len(found) == len(shown) > 6
    assert put(replace(config, views=PLAIN), QUESTIONS) == QUESTIONS


def test_a_question_is_left_out_where_its_partners_picture_cannot_be_used(policy, monkeypatch):
    def too_large(example, room=0, *, ids=policy.encoder.prompt_ids):
        if "5.png" in example.example.images:
            raise DataError("too large")
        return ids(example, room)

    monkeypatch.setattr(policy.encoder, "prompt_ids", too_large)
    kept, lost = usable(replace(GRPO, steps=30), policy, QUESTIONS)
    assert "q5" in {question.id for question in lost} and len({question.id for question in lost}) == len(lost)
    assert {e.id for e in kept} | {question.id for question in lost} == {e.id for e in QUESTIONS}
    assert "5.png" not in {image for e in put(replace(GRPO, steps=30), kept) for image in e.images}


def test_a_partners_picture_may_not_be_tested(refused, taught, manifest, tmp_path):
    """All questions are held apart from the test set, also those that are never put themselves."""
    values = ("steps=1", "prompts_per_step=1", "dtype=float32", "max_pixels=3136", "template=direct", f"test={manifest}", "sampling.n=4",
              'views={"image": {"direct_format": 1}, "anyone": {"direct_format": 1}}')  # fmt: skip
    refused(train(taught, manifest, tmp_path / "run", values=values), "share something with the test set")


def test_the_memory_plan_counts_views():
    gpu = Device("a GPU", 80 * 2**30, 80 * 2**30, is_host=False)
    prompts = forecast.Prompts.assumed(QWEN2_VL_2B.tower, 401408)
    plain = forecast.forecast(replace(find("paper", "grpo"), sampling=Sampling(n=8)), QWEN2_VL_2B, prompts, gpu)
    both = forecast.forecast(replace(find("paper", "grpo"), sampling=Sampling(n=8), views=CONTRAST), QWEN2_VL_2B, prompts, gpu)
    assert (plain.work.prompts, plain.work.rollouts, both.work.prompts, both.work.rollouts) == (4, 8, 8, 4)
    assert both.plan.vision == 2 * plain.plan.vision
    # micro-batches of two groups of 8 (768 + 8 x 288 tokens each) against three of 4 (768 + 4 x 320), both 6,144
    assert [(found.work.micro_prompts, found.work.micro_completion) for found in (plain, both)] == [(2, 288), (3, 320)]
    tight = replace(find("medvlm_r1_lora_24gb", "grpo"), sampling=Sampling(n=8), views=CONTRAST)
    assert forecast.forecast(tight, forecast.learning(QWEN2_VL_2B, tight.trainable), prompts, gpu).work.micro_tokens == 4864  # of a question without a partner


# ---------------------------------------------------------------- values


set_all = partial(override, find("nano", "grpo"))


def test_what_was_set_before_there_were_views_still_is():
    assert set_all(['rewards={"accuracy": 1}']).views == {"image": {"accuracy": 1.0}}
    both = set_all(['views={"image": {"format": 1, "weight": 2}, "mismatch": {"format": 1}}', 'rewards={"accuracy": 1}', "view=noise"])
    assert both.views == {"noise": {"accuracy": 1.0, "weight": 2.0}, "mismatch": {"format": 1.0}}
    assert both.rewards == {"accuracy": 1.0} and both.weights == {"accuracy": 1.0, "mismatch/format": 1.0}


@pytest.mark.parametrize(("values", "said"), [
    (['views={"imago": {"format": 1}}'], 'unknown view "imago"; did you mean "image"'),
    (["views={}"], '"views" is empty'),
    (['views={"image": {"weight": 1}}'], '"rewards" of the view "image" is empty'),
    (['views={"image": {"format": 1}, "mismatch": {"accuracy": -1}}'], 'everything costs and nothing earns.*add "format": 1'),
    (['views={"image": {"format": 1, "weight": 0}}'], "use the meter to measure without learning"),
    (['views={"image": {"format": 1}, "mismatch": {"format": 1}}', "meter=2"], "set meter=0"),
    (['views={"blank": {"format": 1}}', "meter=2"], 'the first is "blank"; name "image" first'),
    (['views={"stranger": {"format": 1}, "image": {"format": 1}}', "stop.kept=0.5"], 'the first is "stranger"; name "image" first'),
    (["sampling.seed=-1"], '"sampling.seed" wants 0 or more, got -1'),
    (['views={"image": {"format": 1}, "stranger": {"format": 1}}', "meter=2"], 'the view "stranger" shows already'),
    (["meter=7"], "makes 1 of image and 7 of mismatch.*raise sampling.n"),
    (["stop.kept=0.5"], "set meter=2"),
    (["meter=-1"], '"meter" wants 0 or more'),
])  # fmt: skip
def test_what_cannot_be_is_told_with_its_remedy(values, said):
    with pytest.raises(ConfigError, match=said):
        check(set_all(values))
