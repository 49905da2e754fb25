"""Held-out questions, asked while a run goes on: how many are answered right, step by step.

A greedy answer each, as an evaluation asks, in an engine of its own. It shares the weights with the run and nothing else, no random
number and no encoded image: a run that is tested learns what it would learn untested, to the last bit.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medvlm_r1.models.policy import Policy
from medvlm_r1.models.runs import TEST
from medvlm_r1.reasoning import read
from medvlm_r1.rewards.open import right
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.training import sharding
from medvlm_r1.training.distributed import current
from medvlm_r1.types import Completion, Prompt

Test = Callable[[int, Policy], dict[str, float]]
"""The steps done and the policy after them, to numbers for metrics.jsonl; mostly none."""


@dataclass(frozen=True)
class HeldOut:
    """What a run is tested on while it goes on, behind each ``every``-th step and the last; no ``data``: it is not.

    >>> HeldOut("phantom:mri?split=test", every=10).every
    10
    """

    data: str = ""
    every: int = 25


def untested(step: int, policy: Policy) -> dict[str, float]:
    """The test of a run that is not tested.

    >>> untested(25, policy=None)
    {}
    """
    return {}


@dataclass(frozen=True)
class Exam:
    """Asks these prompts behind each ``every``-th step and the ``last``; of many ranks each its share.

    >>> Exam((), every=10, last=25, max_tokens=48).is_due(20), Exam((), 10, 25, 48).is_due(25), Exam((), 10, 25, 48).is_due(24)
    (True, True, False)
    """

    prompts: Sequence[Prompt]
    every: int
    last: int
    max_tokens: int

    def is_due(self, step: int) -> bool:
        """Is this a step behind which they are asked?"""
        return step % self.every == 0 or step == self.last

    def __call__(self, step: int, policy: Policy) -> dict[str, float]:
        """The shares that were answered right, and at all; of several modalities each one's; and the seconds that it took."""
        if not self.is_due(step):
            return {}
        began, world = time.monotonic(), current()
        mine = world.mine(self.prompts)
        written = sharding.engine(policy.aside(), learning=False).generate(mine, Sampling(1, 0.0, self.max_tokens))
        marks = world.together([mark(completion, prompt) for (completion,), prompt in zip(written, mine, strict=True)], list, lambda row: (row[0], row[1]))
        return shares(self.prompts, marks) | {"seconds/test": time.monotonic() - began}


def mark(completion: Completion, prompt: Prompt) -> tuple[float, float]:
    """Is the answer right, and is there one at all? As evaluation reads it."""
    return right(completion, prompt), float(read(completion.text, prompt, completion.finished).answer is not None)


def shares(prompts: Sequence[Prompt], marks: Sequence[Sequence[float]]) -> dict[str, float]:
    """Marks as shares of all questions; of several modalities, each one's accuracy too.

    >>> from medvlm_r1.reasoning import render; from medvlm_r1.types import Example
    >>> asked = [render(Example(id, (), "Which?", ("a", "b"), "a", modality), "think") for id, modality in (("1", "ct"), ("2", "ct"), ("3", "mri"))]
    >>> shares(asked, [(1.0, 1.0), (0.0, 1.0), (0.0, 0.0)])["test/answered"], shares(asked[:1], [(1.0, 1.0)])
    (0.6666666666666666, {'test/accuracy': 1.0, 'test/answered': 1.0, 'test/questions': 1})
    >>> shares(asked, [(1.0, 1.0), (0.0, 1.0), (1.0, 1.0)])["test/accuracy/ct"]
    0.5
    """
    right: dict[str, list[float]] = {}
    for prompt, (is_right, _) in zip(prompts, marks, strict=True):
        right.setdefault(prompt.example.modality, []).append(is_right)
    each = {f"{TEST}/{name}": sum(values) / len(values) for name, values in sorted(right.items())} if len(right) > 1 else {}
    accuracy, answered = (sum(column) / len(marks) for column in zip(*marks, strict=True))
    return {TEST: accuracy, "test/answered": answered, "test/questions": len(marks)} | each
