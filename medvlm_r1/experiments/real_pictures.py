"""What the real base learns from: labelled pictures of patients, and drawn ones of which everything is known.

Legend: N pictures, the labelled ones first; S pixels of a side.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context

import numpy as np
from PIL import Image

from medvlm_r1.data.images import load_image
from medvlm_r1.data.phantom.questions import MODALITIES, NORMAL, ask
from medvlm_r1.data.phantom.render import render as draw
from medvlm_r1.data.phantom.scene import Scene
from medvlm_r1.types import Example

FIRST_PATIENT = 2_000_000  # of no question set, and not of the embedded base
DRAWN = "drawn "


@dataclass(frozen=True)
class Gallery:
    """Grey squares (N, S, S) with what is known of each: a question with its label, or a scene."""

    grey_NSS: np.ndarray
    examples: Sequence[Example]
    scenes: Sequence[Scene]

    @cached_property
    def classes(self) -> list[tuple[str, str]]:
        """(group, label) of each picture; labels of one group are told apart, and drawn pictures are a group of their own."""
        of_scene = ((DRAWN + scene.modality, scene.finding if scene.count else NORMAL) for scene in self.scenes)
        return [*((example.modality, example.answer) for example in self.examples), *of_scene]

    @cached_property
    def by_class(self) -> dict[tuple[str, str], list[int]]:
        """The pictures of each class."""
        found: dict[tuple[str, str], list[int]] = defaultdict(list)
        for row, known in enumerate(self.classes):
            found[known].append(row)
        return dict(found)

    def kind(self, rng: np.random.Generator, drawn: float) -> list[list[int]]:
        """Classes to draw a picture from: those of drawn pictures in this share, else those of labelled ones."""
        labelled, of_drawn = self._kinds
        return of_drawn if of_drawn and (not labelled or rng.random() < drawn) else labelled

    @cached_property
    def _kinds(self) -> tuple[list[list[int]], list[list[int]]]:
        labelled, of_drawn = ([rows for (group, _), rows in self.by_class.items() if group.startswith(DRAWN) is kind] for kind in (False, True))
        return labelled, of_drawn

    def of(self, row: int) -> Example | Scene:
        """What is known of a picture."""
        return self.examples[row] if row < len(self.examples) else self.scenes[row - len(self.examples)]

    def mirrored(self, row: int) -> bool:
        """Whether a picture may be mirrored: nothing that is said of it names a side."""
        return isinstance(known := self.of(row), Example) and not names_a_side(known)


def one_of(rng: np.random.Generator, classes: Sequence[Sequence[int]]) -> int:
    """A picture, each class as often as any other."""
    return int(rng.choice(classes[int(rng.integers(len(classes)))]))


def names_a_side(example: Example) -> bool:
    """Would a mirrored picture need another answer?

    >>> names_a_side(Example("q", (), "Which?", ("left effusion", "none"), "none", "xray")), names_a_side(Example("q", (), "Which?", ("cleft", "no"), "no", "ct"))
    (True, False)
    """
    words = " ".join((example.question, *example.options, example.answer)).lower().split()
    return not {"left", "right"}.isdisjoint(words)


def gallery(examples: Sequence[Example], drawn: int, side: int, seed: int, workers: int = 1) -> Gallery:
    """The labelled pictures, which are squares of ``side`` pixels, and as many drawn ones of each modality as of the others."""
    rng, kinds = np.random.default_rng(seed), list(MODALITIES)
    scenes = [ask(rng, kinds[n % 3], FIRST_PATIENT + n // 3).scene for n in range(drawn)]
    with get_context("fork").Pool(workers) as pool:
        pictures = [*pool.map(_labelled, [(example.images[0], side) for example in examples]), *pool.map(_drawn, [(scene, side) for scene in scenes])]
    return Gallery(np.stack(pictures), examples, scenes)


def _labelled(asked: tuple[str, int]) -> np.ndarray:
    return _square(load_image(asked[0]), asked[1])


def _drawn(asked: tuple[Scene, int]) -> np.ndarray:
    return _square(draw(asked[0]), asked[1])


def _square(image: Image.Image, side: int) -> np.ndarray:
    grey = image.convert("L")
    return np.asarray(grey if grey.size == (side, side) else grey.resize((side, side), Image.Resampling.BICUBIC))
