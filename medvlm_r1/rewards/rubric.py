"""What a completion earns, part by part.

A reward is a pure function of (completion, prompt): what was asked decides what may be answered. Adding one is
one file and one line of REWARDS; a user's own is a function in a file (``own``), or ``register``. The parts stay
apart until the advantage needs their sum.
"""

import inspect
import math
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from typing import Any

from medvlm_r1.errors import ConfigError, RewardError, nearest
from medvlm_r1.files import digest
from medvlm_r1.rewards import own
from medvlm_r1.rewards.choice import choice, paper_choice
from medvlm_r1.rewards.consistent import consistent
from medvlm_r1.rewards.format import asked_format, direct_format
from medvlm_r1.rewards.length import overlong
from medvlm_r1.rewards.open import exact, f1, yes_no
from medvlm_r1.rewards.place import place
from medvlm_r1.types import Completion, Prompt

Reward = Callable[[Completion, Prompt], float]

REWARDS: dict[str, Reward] = {
    "format": asked_format,
    "direct_format": direct_format,
    "accuracy": paper_choice,
    "strict_accuracy": choice,
    "consistent": consistent,
    "exact": exact,
    "f1": f1,
    "yes_no": yes_no,
    "place": place,
    "overlong": overlong,
}
PENALTIES = frozenset({"overlong"})  # never above 0, whatever the answer
WEIGHT = "weight"  # of a view: what its advantages weigh; no reward
BUILT_IN = frozenset(REWARDS)  # of these alone it is known what a right answer earns


def register(name: str, reward: Reward) -> None:
    """Give a function a name that ``rewards`` of a configuration may use, in this process. Raises ConfigError for a name that is taken."""
    if name in BUILT_IN or own.is_own(name) or name in ("", WEIGHT):
        raise ConfigError(f'a reward cannot be called "{name}"; choose a name that is none of {", ".join(sorted(BUILT_IN | {WEIGHT}))} and has no colon')
    REWARDS[name] = reward


def find(name: str) -> Reward:
    """The reward of that name: one of REWARDS, or FILE:FUNCTION. Raises ConfigError or RewardError."""
    if own.is_own(name):
        return own.load(name)
    if name not in REWARDS:
        raise ConfigError(f'unknown reward "{name}", and no FILE:FUNCTION of your own{nearest(name, REWARDS)}')
    return REWARDS[name]


def sources(names: Iterable[str]) -> dict[str, str]:
    """Of every reward that is not built in, the SHA-256 of its file, or of its own text where Python can show it."""
    return {name: own.sha256(name) if own.is_own(name) else _text_sha256(find(name)) for name in names if name not in BUILT_IN}


def _text_sha256(reward: Reward) -> str:
    try:
        return digest(inspect.getsource(reward))
    except (OSError, TypeError):
        return "unknown"


@dataclass(frozen=True)
class Rubric:
    """Named rewards with weights; called, it returns the weighted parts.

    Raises ConfigError or RewardError for a name without a function, and RewardError where a function
    fails, or returns anything but a finite number (True and False are 1 and 0).

    >>> from medvlm_r1.types import Example
    >>> e = Example("q1", ("a.png",), "Which plane?", ("axial", "coronal"), "coronal", "mri")
    >>> c = Completion((7,), (0.0,), "<think>Ears.</think><answer>B)</answer>", finished=True)
    >>> Rubric({"format": 1.0, "accuracy": 1.0})(c, Prompt(e, "…"))
    {'format': 1.0, 'accuracy': 0.5}
    """

    weights: Mapping[str, float] = field(default_factory=lambda: {"format": 1.0, "accuracy": 1.0})

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if not math.isfinite(weight):
                raise ConfigError(f'the reward "{name}" weighs {weight}; give it a finite number')
        _ = self.rewards  # a name without a function is told now, not at the first completion

    @cached_property
    def rewards(self) -> dict[str, Reward]:
        """The functions by name."""
        return {name: find(name) for name in self.weights}

    def __call__(self, completion: Completion, prompt: Prompt) -> dict[str, float]:
        return {name: weight * self.earned(name, completion, prompt) for name, weight in self.weights.items()}

    def earned(self, name: str, completion: Completion, prompt: Prompt) -> float:
        """What one reward gives, without its weight."""
        try:
            value = self.rewards[name](completion, prompt)
            number = _number(value)
        except (Exception, SystemExit) as error:
            why = own.told(error, name.rpartition(":")[0])
            raise RewardError(f'reward "{name}" failed on question "{prompt.example.id}": {why}; it is called with (completion, prompt)') from error
        if not math.isfinite(number):
            raise RewardError(f'reward "{name}" returned {reprlib.repr(value)} on question "{prompt.example.id}"; let it return a finite number')
        return number


@dataclass(frozen=True)
class ByView:
    """A rubric for each view of a run; the parts of all but the first view bear its name. What is shown otherwise (the meter's) earns nothing.

    >>> from medvlm_r1.types import Example
    >>> e = Example("q1", ("a.png",), "Which plane?", ("axial", "coronal"), "coronal", "mri")
    >>> c = Completion((7,), (0.0,), "<think>Ears.</think><answer>B</answer>", finished=True)
    >>> by_view = ByView({"image": {"accuracy": 1.0}, "mismatch": {"format": 1.0, "accuracy": -1.0, "weight": 0.5}})
    >>> by_view(c, Prompt(e, "…")), by_view(c, Prompt(e, "…", view="mismatch"))
    ({'accuracy': 1.0}, {'mismatch/format': 1.0, 'mismatch/accuracy': -1.0})
    """

    views: Mapping[str, Mapping[str, float]]

    @cached_property
    def rubrics(self) -> dict[str, Rubric]:
        """By the view's name as a prompt bears it: "" for the first."""
        rubrics = [Rubric({name: weight for name, weight in view.items() if name != WEIGHT}) for view in self.views.values()]
        return dict(zip(("", *list(self.views)[1:]), rubrics, strict=True))

    def __call__(self, completion: Completion, prompt: Prompt) -> dict[str, float]:
        rubric = self.rubrics.get(prompt.view)
        return {_part(prompt.view, name): value for name, value in rubric(completion, prompt).items()} if rubric else {}


def weights_of(views: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """What each part of a run's rewards weighs, by the part's name.

    >>> weights_of({"image": {"accuracy": 1.0}, "mismatch": {"accuracy": -1.0, "weight": 0.5}})
    {'accuracy': 1.0, 'mismatch/accuracy': -1.0}
    """
    named = zip(("", *list(views)[1:]), views.values(), strict=True)
    return {_part(name, reward): weight for name, view in named for reward, weight in view.items() if reward != WEIGHT}


def _part(view: str, name: str) -> str:
    return f"{view}/{name}" if view else name


def _number(value: Any) -> float:
    """Python's own number, of numpy's and torch's single ones too; NaN where there is none.

    >>> [_number(value) for value in (True, 3, "3", None)]
    [1.0, 3.0, nan, nan]
    """
    plain = value.item() if hasattr(value, "item") else value
    return float(plain) if isinstance(plain, Real) else math.nan
