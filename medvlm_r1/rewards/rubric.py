"""What a completion earns, part by part.

A reward is a pure function of (completion, example); adding one is one file and
one line of REWARDS. The parts stay apart until the advantage needs their sum.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from medvlm_r1.errors import ConfigError, nearest
from medvlm_r1.rewards.choice import choice, paper_choice
from medvlm_r1.rewards.format import direct_format, think_format
from medvlm_r1.rewards.open import exact, f1, yes_no
from medvlm_r1.types import Completion, Example

Reward = Callable[[Completion, Example], float]

REWARDS: dict[str, Reward] = {
    "format": think_format,
    "direct_format": direct_format,
    "accuracy": paper_choice,
    "strict_accuracy": choice,
    "exact": exact,
    "f1": f1,
    "yes_no": yes_no,
}


@dataclass(frozen=True)
class Rubric:
    """Named rewards with weights; called, it returns the weighted parts.

    >>> e = Example("q1", ("a.png",), "Which plane?", ("axial", "coronal"), "coronal", "mri")
    >>> c = Completion((7,), (0.0,), "<think>Ears.</think><answer>B)</answer>", finished=True)
    >>> Rubric({"format": 1.0, "accuracy": 1.0})(c, e)
    {'format': 1.0, 'accuracy': 0.5}
    """

    weights: Mapping[str, float] = field(default_factory=lambda: {"format": 1.0, "accuracy": 1.0})

    def __post_init__(self) -> None:
        for name in self.weights:
            if name not in REWARDS:
                raise ConfigError(f'unknown reward "{name}"{nearest(name, REWARDS)}')

    def __call__(self, completion: Completion, example: Example) -> dict[str, float]:
        return {name: weight * REWARDS[name](completion, example) for name, weight in self.weights.items()}
