"""What the real base is taught in one mixed stage: thoughts in English that end at a letter, of labelled and of drawn pictures, and its own English.

A label is all that is known of a patient's picture, so a thought about one is a template around it; of a drawn picture everything is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from medvlm_r1.data.modality import DISPLAY
from medvlm_r1.data.phantom.questions import ask_about, reasoning, report
from medvlm_r1.data.phantom.scene import Scene
from medvlm_r1.experiments.nano_lessons import WORDS
from medvlm_r1.experiments.real_pictures import DRAWN, Gallery, one_of
from medvlm_r1.reasoning import gold, render
from medvlm_r1.types import LETTERS, Example

KINDS = ("lookup", "think", "direct", "report", "english")
SCENES = {
    "mri": ("This is an MRI of the brain.", "A brain MRI.", "I am looking at a slice of a brain MRI."),
    "ct": ("This is a CT slice of the chest.", "A chest CT.", "I am looking at a CT scan of the lungs."),
    "xray": ("This is a chest X-ray.", "An X-ray of the chest.", "I am looking at an X-ray of the chest."),
}
LOOKS = ("It looks like {}.", "The appearance fits {}.", "I think this is {}.")
SAID = {  # how a sentence says a label that is no noun by itself; any other stands as it is
    "glioma": "a glioma", "meningioma": "a meningioma", "pituitary": "a pituitary tumor", "normal": "a normal chest",
}  # fmt: skip
KNOWN = {  # what is true of a finding whatever the picture; half of the thoughts say it
    "glioma": ("Gliomas grow inside the brain tissue.", "Gliomas arise from the supporting cells of the brain."),
    "meningioma": ("Meningiomas grow from the membranes around the brain.", "Meningiomas press on the brain from outside."),
    "pituitary": ("The pituitary gland lies at the base of the brain.", "Such tumors grow behind the eyes, at the base of the brain."),
    "no tumor": ("A tumor would show as a mass.", "Nothing pushes the brain aside."),
    "COVID-19": ("COVID-19 often leaves hazy patches in both lungs.", "It tends to show near the edge of the lungs."),
    "no COVID-19": ("COVID-19 would often leave hazy patches in both lungs.", "Another disease is still possible."),
    "normal": ("The lungs are dark where they are full of air.", "Pneumonia would make parts of the lungs white."),
    "bacterial pneumonia": ("Bacteria often fill one part of a lung.", "One area of the lung is often dense and white."),
    "viral pneumonia": ("Viruses often spread through both lungs.", "There are often streaks in both lungs."),
}
ENDS = ("That is option {}.", "So the answer is {}.", "Hence {}.")
ASKED = ("Which diagnosis fits this picture?", "What is the most likely finding?", "Which of these does the picture show?")
DESCRIBE = ("Describe this picture.", "What do you see?", "Write a short report.")
GENERAL = (
    "What is a glioma?", "What is a meningioma?", "What does the pituitary gland do?", "What is pneumonia?", "How does a CT scan work?",
    "How does an X-ray make a picture?", "What is magnetic resonance imaging?", "Why do lungs look dark on an X-ray?", "Name three organs in the chest.",
    "What is the capital of France?", "Write a short poem about rain.", "Explain photosynthesis in two sentences.", "Why is the sky blue?",
    "What should I cook tonight?", "Tell me a fact about whales.", "How do I write a polite letter?",
)  # fmt: skip


@dataclass(frozen=True)
class Lesson:
    """A user's turn, the completion to learn, the picture that it is about (a row of the gallery) if any; an answer that was cut has no end.

    >>> Lesson("Why is the sky blue?", "Because", ends=False).row
    """

    prompt: str
    completion: str
    row: int | None = None
    mirrored: bool = False
    ends: bool = True


@dataclass(frozen=True)
class Teacher:
    """Draws lessons. ``own``: (question, answer, whether it ended) of the untrained model; ``weighs``: the share of thoughts that go through the options.

    ``drawn``: the share of drawn pictures among all.
    """

    gallery: Gallery
    own: Sequence[tuple[str, str, bool]]
    weighs: float
    drawn: float

    def lesson(self, rng: np.random.Generator, kind: str) -> Lesson:
        """One of ``KINDS``."""
        if kind == "english":
            asked, answer, ended = self.own[int(rng.integers(len(self.own)))]
            return Lesson(asked, answer, ends=ended)
        if kind == "lookup":
            return self._lookup(rng)
        row = one_of(rng, self.gallery.kind(rng, self.drawn))
        known = self.gallery.of(row)
        mirrored = self.gallery.mirrored(row) and bool(rng.random() < 0.5)
        if kind == "report":
            said = report(known) if isinstance(known, Scene) else reading(rng, known)
            return Lesson(str(rng.choice(DESCRIBE)), said, row, mirrored)
        example, seen = _asked_of_scene(rng, known) if isinstance(known, Scene) else _asked_of_label(rng, known)
        think = None if kind == "direct" else f"{seen} {self._end(rng, example)}"
        return Lesson(render(example, "direct" if think is None else "think").text, gold(example, think), row, mirrored)

    def _lookup(self, rng: np.random.Generator) -> Lesson:
        """Text alone: the letter of a word among the options."""
        labels = {label for (group, label), _ in self.gallery.by_class.items() if not group.startswith(DRAWN)}
        known = sorted({*WORDS, *labels})
        options = tuple(str(word) for word in rng.choice(known, size=int(rng.integers(2, 5)), replace=False))
        word = str(rng.choice(options))
        example = Example("lookup", (), f"Which option is {word}?", options, word, "text")
        return Lesson(render(example, "think").text, gold(example, f"It is {word}. {self._end(rng, example)}"))

    def _end(self, rng: np.random.Generator, example: Example) -> str:
        return weighed(example) if rng.random() < self.weighs else str(rng.choice(ENDS)).format(example.letter)


def weighed(example: Example) -> str:
    """Option by option until one fits: each letter is read where it stands, none is looked up.

    >>> weighed(Example("q", (), "Which?", ("meningioma", "glioma", "no tumor"), "glioma", "mri"))
    'A) meningioma does not fit. B) glioma fits.'
    """
    right = example.options.index(example.answer)
    before = [f"{letter}) {option} does not fit." for letter, option in zip(LETTERS, example.options[:right], strict=False)]
    return " ".join([*before, f"{example.letter}) {example.answer} fits."])


def reading(rng: np.random.Generator, example: Example) -> str:
    """A patient's picture in words: what kind it is, what it looks like, and half of the time what is known of that.

    >>> reading(np.random.default_rng(1), Example("q", (), "Which?", ("glioma", "no tumor"), "glioma", "mri"))
    'A brain MRI. The appearance fits a glioma.'
    """
    label = example.answer
    scenes = SCENES.get(example.modality, (f"This is {DISPLAY.get(example.modality, 'a picture')}.",))
    said = [str(rng.choice(scenes)), str(rng.choice(LOOKS)).format(SAID.get(label, label))]
    if label in KNOWN and rng.random() < 0.5:
        said.append(str(rng.choice(KNOWN[label])))
    return " ".join(said)


def _asked_of_label(rng: np.random.Generator, known: Example) -> tuple[Example, str]:
    question = known.question if rng.random() < 0.7 else str(rng.choice(ASKED))
    options = tuple(str(option) for option in rng.permutation(known.options))
    return replace(known, question=question, options=options), reading(rng, known)


def _asked_of_scene(rng: np.random.Generator, scene: Scene) -> tuple[Example, str]:
    asked = ask_about(rng, scene)
    return Example("lesson", (), asked.text, asked.options, asked.answer, scene.modality, asked.type), reasoning(asked)
