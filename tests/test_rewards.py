"""Rewards: what was asked decides what may be answered, and whatever is no finite number is named."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import picture

from medvlm_r1.config import code, fingerprint
from medvlm_r1.data.views import Shown
from medvlm_r1.errors import ConfigError, DataError, RewardError
from medvlm_r1.files import read_rows
from medvlm_r1.models import nano
from medvlm_r1.models.encode import Encoder
from medvlm_r1.models.families import prepare
from medvlm_r1.preflight.questions import check_gold
from medvlm_r1.preflight.values import check
from medvlm_r1.reasoning import TEMPLATES, WITHOUT_THOUGHT, golds, render
from medvlm_r1.recipes.named import find
from medvlm_r1.rewards import rubric
from medvlm_r1.rewards.rubric import REWARDS, Rubric, register
from medvlm_r1.rollout.collect import collect
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.rollout.scripted import ScriptedEngine
from medvlm_r1.training.grpo import trainer as grpo
from medvlm_r1.training.grpo.loss import LossConfig
from medvlm_r1.training.grpo.update import UpdateConfig
from medvlm_r1.training.optim import OptimConfig, Optimizer
from medvlm_r1.types import Completion, Example, Rollout, RolloutGroup

OPTIONS = ("brain", "breast", "knee", "liver", "eye", "heart", "hip", "lung", "neck", "spine")
QUESTION = Example("q1", ("a.png",), "Which organ?", OPTIONS[:4], "breast", "mri")
THINKING, DIRECT = WITHOUT_THOUGHT, ("direct", "paper-direct")


def say(text):
    return Completion((7,), (0.0,), text, finished=True)


@pytest.fixture
def registered():
    """A place for rewards that is empty again afterwards."""
    yield REWARDS
    for name in set(REWARDS) - rubric.BUILT_IN:
        del REWARDS[name]


# ---------------------------------------------------------------- what was asked


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_right_answer_as_asked_earns_every_reward(template):
    """Whichever of two to ten options is right. Where a thought is asked for, the form without one is another form."""
    names = {"format", "accuracy", "strict_accuracy"} | ({"direct_format"} if template in DIRECT else set())
    for count in range(2, 11):
        for answer in OPTIONS[:count]:
            prompt = render(replace(QUESTION, options=OPTIONS[:count], answer=answer), template)
            earned = [Rubric(dict.fromkeys(names, 1.0))(say(text), prompt) for text in golds(prompt)]
            assert dict.fromkeys(names, 1.0) in earned, (template, answer, earned)


# text -> (format, direct_format, accuracy, strict_accuracy) where the letter alone, tags alone, thought and tags are asked for. Gold is B.
ASKED = {
    "B": {"paper-direct": (1, 1, 1, 1), "direct": (0, 0, 0, 0), "think": (0, 0, 0, 0)},
    " B\n": {"paper-direct": (1, 1, 1, 1), "direct": (0, 0, 0, 0), "think": (0, 0, 0, 0)},
    "A": {"paper-direct": (1, 1, 0, 0), "direct": (0, 0, 0, 0), "think": (0, 0, 0, 0)},
    "B)": {"paper-direct": (1, 1, 0.5, 1), "direct": (0, 0, 0, 0), "think": (0, 0, 0, 0)},
    "E": {"paper-direct": (0, 0, 0, 0), "direct": (0, 0, 0, 0), "think": (0, 0, 0, 0)},  # four options
    "B) breast": {"paper-direct": (0, 0, 0, 0), "direct": (0, 0, 0, 0), "think": (0, 0, 0, 0)},
    "": {"paper-direct": (0, 0, 0, 0), "direct": (0, 0, 0, 0), "think": (0, 0, 0, 0)},
    "<answer>B": {"paper-direct": (0, 0, 0, 0), "direct": (0, 0, 0, 0), "think": (0, 0, 0, 0)},
    "<answer>B</answer>": {"paper-direct": (1, 1, 1, 1), "direct": (1, 1, 1, 1), "think": (0, 1, 1, 1)},
    "<think>x</think>B": {"paper-direct": (0, 0, 0, 0), "direct": (0, 0, 0, 0), "think": (0, 0, 0, 0)},
    "<think>x</think><answer>B</answer>": {"paper-direct": (0, 0, 1, 1), "direct": (0, 0, 1, 1), "think": (1, 0, 1, 1)},
    # A special token behind the answer is text: it costs the form, and without tags to end it the letter too.
    "B<|endoftext|>": {"paper-direct": (0, 0, 0, 0), "direct": (0, 0, 0, 0), "think": (0, 0, 0, 0)},
    "<answer>B</answer><|endoftext|>": {"paper-direct": (0, 0, 1, 1), "direct": (0, 0, 1, 1), "think": (0, 0, 1, 1)},
    "<think>x</think><answer>B</answer><|endoftext|>": {"paper-direct": (0, 0, 1, 1), "direct": (0, 0, 1, 1), "think": (0, 0, 1, 1)},
}


@pytest.mark.parametrize("text", ASKED)
def test_what_was_asked_decides_what_is_paid(text):
    for template, wanted in ASKED[text].items():
        prompt = render(QUESTION, template)
        assert tuple(REWARDS[name](say(text), prompt) for name in ("format", "direct_format", "accuracy", "strict_accuracy")) == wanted, template


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_recipe_asks_for_what_it_pays(template, capsys):
    """The command of the recipes' README, the control without a thought, and the default rewards under each template."""
    for rewards in ({"direct_format": 1.0, "strict_accuracy": 1.0}, find("nano-no-think", "grpo").rewards, find("paper", "grpo").rewards):
        prompts = [render(QUESTION, template)]
        if template in THINKING and "direct_format" in rewards:
            with pytest.raises(DataError, match='question "q1": its own answer "breast", as the template asks for it, cannot earn the reward "direct_format"'):
                check_gold(Rubric(rewards), prompts)
        else:
            check_gold(Rubric(rewards), prompts)
    assert capsys.readouterr().err == ""


def taught_letters(tokenizer, examples):
    """The tiny model after some steps towards bare letters, all of a question's options alike."""
    torch.set_num_threads(1)
    policy = prepare(nano.new_model(tokenizer, seed=1), Encoder(tokenizer, nano.build_image_processor(), picture))
    groups = []
    for example in examples:
        ids = [(tokenizer.convert_tokens_to_ids(letter), policy.stop_ids[0]) for letter in "ABC"[: len(example.options)]]
        rollouts = tuple(Rollout(Completion(pair, (0.0, 0.0), "", True), {}) for pair in ids)
        groups.append(RolloutGroup(render(example, "paper-direct"), rollouts))
    optimizer, batch = Optimizer(policy.model, OptimConfig(lr=3e-3, schedule="constant"), 10), policy.encoder.groups(groups)
    for _ in range(10):
        (-policy.logprobs(batch).sum() / batch.n_tokens).backward()
        optimizer.step()
        policy.version += 1
    policy.version = 0
    return policy


def test_grpo_learns_from_bare_letters(tokenizer, examples, tmp_path):
    """The README's command without a thought, at the smallest size: from one of three letters at random to the right one."""
    policy = taught_letters(tokenizer, [examples[1]])
    config = grpo.GRPOConfig(
        template="paper-direct", views={"image": {"direct_format": 1.0, "strict_accuracy": 1.0}}, steps=8, prompts_per_step=1,
        sampling=Sampling(n=12, max_tokens=2), update=UpdateConfig(loss=LossConfig(kl_beta=0.0)), optim=OptimConfig(lr=3e-3), save_every=100,
    )  # fmt: skip
    assert grpo.train(config, policy, LocalEngine(policy, learning=True), [examples[1]], Rubric(config.rewards), tmp_path)
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert rows[0]["reward/strict_accuracy"] < 0.5 and rows[-1]["reward/strict_accuracy"] > 0.8 and rows[-1]["reward/direct_format"] > 0.8


# ---------------------------------------------------------------- what a reward may return


@pytest.mark.parametrize("value", [True, 1, 1.0, np.float32(1), np.bool_(True), np.array([1.0]), torch.tensor(1)], ids=repr)
def test_numbers_of_every_kind_are_numbers(registered, value):
    register("mine", lambda completion, prompt: value)
    found = Rubric({"mine": 0.5})(say("B"), render(QUESTION, "think"))
    assert found == {"mine": 0.5} and type(found["mine"]) is float


ODD = {
    "nan": (lambda c, p: math.nan, "returned nan on question"), "inf": (lambda c, p: -math.inf, "returned -inf on question"),
    "none": (lambda c, p: None, "returned None on question"), "text": (lambda c, p: "1.0", "returned '1.0' on question"),
    "list": (lambda c, p: [1.0], r"returned \[1.0\] on question"), "tensor": (lambda c, p: torch.tensor(math.nan), r"returned tensor\(nan\) on question"),
    "raises": (lambda c, p: 1 / 0, 'failed on question "q1": ZeroDivisionError: division by zero'),
    "exits": (lambda c, p: exit(3), 'failed on question "q1": SystemExit'),
    "one argument": (lambda c: 1.0, r"failed on question .*: TypeError: .* it is called with \(completion, prompt\)"),
    "huge": (lambda c, p: 10**400, "failed on question .*: OverflowError"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_whatever_is_no_number_is_named_with_reward_and_question(registered, name):
    """In a rollout, and before step 1, where the right answers are tried."""
    reward, said = ODD[name]
    register(name, reward)
    scorer, engine = Rubric({"accuracy": 1.0, name: 1.0}), ScriptedEngine(lambda prompt, k: say("B"))
    with pytest.raises(RewardError, match=f'^reward "{name}" {said}') as found:
        collect(engine, [Shown(QUESTION, 2)], scorer, "think", Sampling(n=2))
    assert '"q1"' in str(found.value)
    with pytest.raises(RewardError, match=f'^reward "{name}" {said}'):
        check_gold(Rubric({name: 0.0}), [render(QUESTION, "think")])


def test_a_weight_is_a_finite_number():
    for weight in (math.nan, math.inf):
        with pytest.raises(ConfigError, match=f'the reward "accuracy" weighs {weight}'):
            check(replace(find("nano", "grpo"), views={"image": {"accuracy": weight}}))


# ---------------------------------------------------------------- a user's own


def test_a_registered_reward_is_part_of_the_fingerprint(registered):
    def one(completion, prompt):
        return 1.0

    def other(completion, prompt):
        return 2.0

    config, found = replace(find("nano", "grpo"), views={"image": {"mine": 1.0}}), []
    for reward in (one, other):
        register("mine", reward)
        check(config)
        found.append(fingerprint(config))
        assert len(code(config)["mine"]) == 64
    assert found[0] != found[1]
    register("mine", max)  # whose text Python cannot show
    assert code(config) == {"mine": "unknown"}


@pytest.mark.parametrize("name", ["accuracy", "format", "a:b", ""])
def test_a_name_that_is_taken_cannot_be_registered(registered, name):
    before = dict(REWARDS)
    with pytest.raises(ConfigError, match=f'a reward cannot be called "{name}"'):
        register(name, lambda c, p: 1.0)
    assert before == REWARDS


def test_of_a_users_own_reward_it_is_said_what_the_right_answers_earn_and_not_refused(registered, capsys):
    """A penalty on length pays no right answer, and a reward for knees one question of three."""
    register("knee", lambda c, p: float(p.example.answer == "knee"))
    register("longer", lambda c, p: float(len(c.text) > 100))
    prompts = [render(replace(QUESTION, id=f"q{n}", answer=answer), "think") for n, answer in enumerate(("brain", "knee", "liver"))]
    check_gold(Rubric({"accuracy": 1.0, "knee": 1.0, "longer": -0.1}), prompts)
    assert capsys.readouterr().err.splitlines() == [
        'warning: the right answer earns nothing of "knee" in 2 of 3 questions, the first: "q0"',
        'warning: the right answer earns nothing of "longer" in 3 of 3 questions, the first: "q0"',
    ]
