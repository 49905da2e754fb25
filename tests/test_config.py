"""Overrides, and what a wrong one says."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from medvlm_r1.config import fingerprint, override, to_dict
from medvlm_r1.errors import ConfigError


@dataclass(frozen=True)
class Optim:
    lr: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.99)


@dataclass(frozen=True)
class Config:
    steps: int = 300
    seed: int | None = 0
    resume: bool = False
    name: str = "grpo"
    template: str | None = None
    arms: tuple[str, ...] = ("image",)
    weights: dict[str, float] = field(default_factory=dict)
    extra: Any = None
    optim: Optim = Optim()


@pytest.mark.parametrize(
    ("assignment", "key", "value"),
    [
        ("steps=10", "steps", 10),
        ("steps=1e3", "steps", 1000),
        ("steps=-1", "steps", -1),
        ("steps=9007199254740993", "steps", 9007199254740993),  # beyond what a float can hold
        ("seed=none", "seed", None),
        ("seed=7", "seed", 7),
        ("resume=true", "resume", True),
        ("resume=0", "resume", False),
        ("name=a=b", "name", "a=b"),
        ("name=", "name", ""),
        ("name=None", "name", "None"),
        ("template=None", "template", None),
        ("template=think", "template", "think"),
        ('arms=["image","blank"]', "arms", ("image", "blank")),
        ("arms=[]", "arms", ()),
        ('weights={"format": 1}', "weights", {"format": 1.0}),
        ("extra=[1, null]", "extra", [1, None]),
    ],
)
def test_override(assignment, key, value):
    new = override(Config(), [assignment])
    assert new == replace(Config(), **{key: value})
    assert type(getattr(new, key)) is type(value)


def test_override_descends_and_keeps_the_original():
    config = Config()
    new = override(config, ["optim.lr=2e-4", "optim.betas=[0.9, 1]", "steps=5", "steps=6"])
    assert (new.optim, new.steps) == (Optim(2e-4, (0.9, 1.0)), 6)
    assert config == Config()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("steps", '--set "steps" has no "="'),
        ("stepz=1", 'unknown key "stepz": .*did you mean "steps"'),
        ("optim.lrr=1", 'unknown key "optim.lrr": no "lrr" here; did you mean "lr"'),
        ("=1", 'unknown key ""'),
        ("steps.lr=1", '"steps" is a value and has no keys'),
        ("optim=1", '"optim" is a group of keys; set one of optim.lr, optim.betas'),
        ("steps=abc", '"steps" wants int, got "abc"'),
        ("steps=1.5", '"steps" wants int, got "1.5"'),
        ("steps=inf", '"steps" wants int'),
        ("steps=nan", '"steps" wants int'),
        ("steps=", '"steps" wants int, got ""'),
        ("resume=yes", '"resume" wants bool, got "yes"'),
        ("optim.lr=fast", '"optim.lr" wants float'),
        ("optim.lr=nan", '"optim.lr" wants float, got "nan"'),
        ("optim.betas=[0.9]", '"optim.betas" wants tuple.* written as JSON'),
        ("optim.betas=0.9", '"optim.betas" wants tuple'),
        ("arms=image", '"arms" wants tuple.* written as JSON, got "image"'),
        ('arms="image"', '"arms" wants tuple'),
        ("arms=[1]", '"arms" wants tuple'),
        ('arms={"image": 1}', '"arms" wants tuple'),
        ('weights={"format": "a"}', '"weights" wants dict'),
        ("weights=[]", '"weights" wants dict'),
        ("extra=" + "[" * 100_000, '"extra" wants'),
    ],
)
def test_a_wrong_override_is_one_clear_sentence(assignment, message):
    with pytest.raises(ConfigError, match=message) as caught:
        override(Config(), [assignment])
    assert "\n" not in str(caught.value)


def test_to_dict_is_plain():
    assert to_dict(Config())["optim"] == {"lr": 1e-6, "betas": [0.9, 0.99]}


def test_fingerprint_changes_with_every_value_and_only_then():
    changes = ["steps=1", "seed=none", "resume=1", "name=x", "arms=[]", "optim.lr=1", 'weights={"a": 1}', "optim.betas=[0, 1]"]
    prints = [fingerprint(override(Config(), [change])) for change in changes]
    assert len({fingerprint(Config()), *prints}) == len(changes) + 1
    assert fingerprint(override(Config(), ["steps=300"])) == fingerprint(Config())
    one, other = (override(Config(), [f"weights={text}"]) for text in ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}'))
    assert fingerprint(one) == fingerprint(other)
