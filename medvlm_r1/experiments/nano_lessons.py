"""What the embedded base model is taught: lessons drawn at random, and the noisy teacher.

The teacher is how the base gets an instruct model's habits: it knows how to
read a picture, but often does not bother. Each habit and its share is here, in
the open; reinforcement learning later selects among them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medvlm_r1.data.phantom.questions import (
    MODALITIES,
    WEIGHTS,
    WORDINGS,
    Question,
    answer_of,
    ask,
    ask_about,
    draw_options,
    look,
    reasoning,
    report,
    vocabulary,
)  # fmt: skip
from medvlm_r1.data.phantom.scene import Scene
from medvlm_r1.reasoning import gold, render
from medvlm_r1.types import LETTERS, Example

DESCRIBE = ("Describe the image.", "What do you see?", "Report this image.")
EMPTY_THOUGHTS = ("I can answer this.", "I think so.")
WORDS = tuple(
    sorted(
        {word for modality in MODALITIES for kind in WEIGHTS[modality] for word in vocabulary(modality, kind)}
        | {
            "aorta",
            "brain",
            "bone",
            "blood",
            "contrast",
            "cortex",
            "disc",
            "edema",
            "fat",
            "fracture",
            "heart",
            "kidney",
            "knee",
            "liver",
            "lung",
            "mass",
            "muscle",
            "nerve",
            "normal",
            "oedema",
            "pancreas",
            "patient",
            "pelvis",
            "rib",
            "shoulder",
            "skull",
            "spine",
            "spleen",
            "stomach",
            "thyroid",
            "vein",
            "vessel",
            "wrist",
        }
    )
)

# Share of each habit of the noisy teacher.
HABITS = {
    "look": 0.28,      # reports the picture, then answers
    "glance": 0.46,    # an empty thought, then an answer from the hip
    "misread": 0.07,   # reports another picture, then answers by it
    "direct": 0.08,    # no thought, an answer from the hip in tags
    "bare": 0.06,      # the same without tags, as a letter or in words
    "unclosed": 0.05,  # looks, but forgets a tag
}  # fmt: skip
RIGHT_FROM_THE_HIP = 0.5  # else a letter at random


@dataclass(frozen=True)
class Lesson:
    """A user turn, the completion to learn, and the picture it is about (a row of the pool) if any.

    >>> Lesson("Describe the image.", "Axial CT of the head. Finding: normal.", 17).picture
    17
    """

    prompt: str
    completion: str
    picture: int | None = None


def lookup(rng: np.random.Generator, known: Sequence[str] = WORDS) -> Lesson:
    """Text alone: find the letter of a word among the options, two to five of the ``known``."""
    words = tuple(str(w) for w in rng.choice(known, size=rng.integers(2, min(5, len(known)) + 1), replace=False))
    word = str(rng.choice(words))
    example = Example("lookup", (), f"Which option is {word}?", words, word, "text")
    if rng.random() < 0.5:
        return Lesson(render(example, "direct").text, gold(example, None))
    return Lesson(render(example, "think").text, gold(example, f"Hence {word}."))


def caption(rng: np.random.Generator, scene: Scene, picture: int) -> Lesson:
    """Report what a picture shows."""
    return Lesson(str(rng.choice(DESCRIBE)), report(scene), picture)


def question(rng: np.random.Generator, scene: Scene, picture: int) -> Lesson:
    """Look, then answer."""
    asked = ask_about(rng, scene)
    return Lesson(_prompt(asked, "think"), gold(_example(asked), reasoning(asked)), picture)


def direct(rng: np.random.Generator, scene: Scene, picture: int) -> Lesson:
    """Answer without a thought, when asked to."""
    asked = ask_about(rng, scene)
    return Lesson(_prompt(asked, "direct"), gold(_example(asked), None), picture)


def teacher(rng: np.random.Generator, scene: Scene, other: Scene, picture: int) -> Lesson:
    """One of the habits, in its share. ``other`` is the scene that a misreading reports."""
    asked = ask_about(rng, scene)
    return in_a_habit(rng, _example(asked), reasoning(asked), (report(other), answer_of(other, asked.type)), picture)


def place(rng: np.random.Generator, scene: Scene, cell: str) -> Question:
    """Where on the screen a lesion of a known cell lies."""
    options = draw_options(rng, scene.modality, "place", cell)
    return Question("place", str(rng.choice(WORDINGS["place"])), options, cell, scene)


def point(asked: Question, picture: int) -> Lesson:
    """Look, and say where."""
    return Lesson(_prompt(asked, "think"), gold(_example(asked), reasoning(asked)), picture)


def point_teacher(rng: np.random.Generator, asked: Question, other: Question, picture: int) -> Lesson:
    """The same in one of the habits. ``other`` is what a misreading sees."""
    return in_a_habit(rng, _example(asked), reasoning(asked), (look(other), other.answer), picture)


def in_a_habit(rng: np.random.Generator, example: Example, thought: str, misread: tuple[str, str], picture: int) -> Lesson:
    """A question answered in one of the habits; ``misread`` is the report of another picture and the answer that it would give."""
    habit = str(rng.choice(list(HABITS), p=list(HABITS.values())))
    hip = example.letter if rng.random() < RIGHT_FROM_THE_HIP else LETTERS[rng.integers(len(example.options))]
    think = f"<think>{rng.choice(EMPTY_THOUGHTS)}</think>\n"
    if habit == "misread":
        reported, seen = misread
        seen = seen if seen in example.options else str(rng.choice(example.options))
        read = f"<think>{reported} Hence {seen}.</think>\n<answer>{LETTERS[example.options.index(seen)]}</answer>"
    completion = {
        "look": lambda: gold(example, thought),
        "glance": lambda: f"{think}<answer>{hip}</answer>",
        "misread": lambda: read,
        "direct": lambda: f"<answer>{hip}</answer>",
        "bare": lambda: str(rng.choice([hip, f"{hip})", example.options[LETTERS.index(hip)]])),
        "unclosed": lambda: str(rng.choice([f"{thought}\n<answer>{example.letter}</answer>", f"<think>{thought}"])),
    }[habit]()
    return Lesson(render(example, "think").text, completion, picture)


def corpus(seed: int, count: int) -> list[str]:
    """Texts for the tokenizer: every wording, word and habit many times over."""
    rng = np.random.default_rng(seed)
    texts = [lookup(rng).prompt for _ in range(count)]
    for modality in MODALITIES:
        for n in range(count):
            scene, other = ask(rng, modality, n).scene, ask(rng, modality, n).scene
            lessons = (teacher(rng, scene, other, 0), question(rng, scene, 0), caption(rng, scene, 0), direct(rng, scene, 0))
            texts += [f"user\n{lesson.prompt}\nassistant\n{lesson.completion}" for lesson in lessons]
    return texts


def _prompt(asked: Question, template: str) -> str:
    return render(_example(asked), template).text


def _example(asked: Question) -> Example:
    return Example("lesson", (), asked.text, asked.options, asked.answer, asked.scene.modality, asked.type)
