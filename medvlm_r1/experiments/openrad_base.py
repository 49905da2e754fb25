"""The embedded base goes on learning from labelled pictures: it reads them a little, and keeps its habits.

N pictures of the pool; it holds VARIANTS of each, the n-th one's at n, N + n, 2N + n, …
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medvlm_r1.data.images import load_image
from medvlm_r1.data.modality import DISPLAY
from medvlm_r1.experiments import nano_lessons as lessons
from medvlm_r1.experiments.nano_base import Classroom, NanoConfig, Stage, save, train
from medvlm_r1.experiments.nano_pool import Pool
from medvlm_r1.launch.loading import load_model
from medvlm_r1.models.policy import Policy
from medvlm_r1.reasoning import gold, render
from medvlm_r1.types import Example

SHIFTS_PX = ((0, 0), (5, 3), (-5, 3), (3, -5), (-3, -5))
VARIANTS = 2 * len(SHIFTS_PX)


@dataclass(frozen=True)
class BaseConfig:
    """How long the base learns: first from right answers, then from the noisy teacher.

    >>> [sum(stage.shares.values()) for stage in BaseConfig().stages]
    [1.0, 1.0]
    """

    stages: tuple[Stage, ...] = (
        Stage(300, 64, {"lookup": 0.15, "caption": 0.35, "question": 0.35, "direct": 0.15}, 2e-3),
        Stage(80, 64, {"teacher": 0.85, "direct": 0.1, "lookup": 0.05}, 1e-3),
    )
    seed: int = 0


class Ward(Classroom):
    """Draws lessons about labelled pictures, each label as often as any other, the options in a new order each time."""

    def __init__(self, policy: Policy, examples: Sequence[Example]) -> None:
        super().__init__(policy, Pool(variants(_pixels(examples)), []))
        self.examples = examples
        rows: dict[tuple[str, str], list[int]] = defaultdict(list)
        for row, example in enumerate(examples):
            rows[example.modality, example.answer].append(row)
        self.rows = list(rows.values())
        self.of_modality = {m: [n for (other, _), part in rows.items() if other == m for n in part] for m, _ in rows}
        self.labels = tuple(label for _, label in rows)

    def lesson(self, rng: np.random.Generator, kind: str) -> lessons.Lesson:
        """One lesson of a kind, about one of the pictures in one of its variants."""
        if kind == "lookup":
            return lessons.lookup(rng, self.labels)
        row = int(rng.choice(self.rows[rng.integers(len(self.rows))]))
        picture = row + len(self.examples) * int(rng.integers(VARIANTS))
        options = tuple(str(option) for option in rng.permutation(self.examples[row].options))
        example = replace(self.examples[row], options=options)
        if kind == "teacher":
            other = self.examples[int(rng.choice(self.of_modality[example.modality]))]
            return lessons.in_a_habit(rng, example, thought(example), (report(other), other.answer), picture)
        if kind == "caption":
            return lessons.Lesson(str(rng.choice(lessons.DESCRIBE)), report(example), picture)
        think = thought(example) if kind == "question" else None
        return lessons.Lesson(render(example, "direct" if think is None else "think").text, gold(example, think), picture)


def report(example: Example) -> str:
    """The reading of a picture of which only the label is known.

    >>> report(Example("q1", (), "Which?", ("glioma", "no tumor"), "glioma", "mri"))
    'MRI. Finding: glioma.'
    """
    return f"{DISPLAY[example.modality]}. Finding: {example.answer}."


def thought(example: Example) -> str:
    """The gold trace: the report, then the answer in the option's words."""
    return f"{report(example)} Hence {example.answer}."


def variants(pixels_NHW: np.ndarray) -> np.ndarray:
    """Each picture as it is and mirrored, in its place and moved a little; what leaves on one side enters on the other."""
    sides = (pixels_NHW, pixels_NHW[:, :, ::-1])
    return np.concatenate([np.roll(side, shift, axis=(1, 2)) for side in sides for shift in SHIFTS_PX])


def run(out: Path, examples: Sequence[Example], config: BaseConfig, log: Callable[[dict[str, Any]], None]) -> None:
    """Train the embedded base on these questions and save it to ``out``."""
    policy = load_model("nano")
    room = Ward(policy, examples)
    stages = NanoConfig(config.seed, len(examples), config.stages)
    for number in range(len(config.stages)):
        train(stages, number, room, log)
    partial = out.with_name(out.name + "-partial")
    save(policy, partial)
    partial.rename(out)


def _pixels(examples: Sequence[Example]) -> np.ndarray:
    return np.stack([np.asarray(load_image(example.images[0]).convert("L")) for example in examples])
