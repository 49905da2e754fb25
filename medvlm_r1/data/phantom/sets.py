"""The phantom's question sets: `phantom:mri?split=train` and their pictures, drawn when asked for.

No patient appears in two splits. A reference such as ``phantom:mri/train/17``
is enough to draw the picture again, bit for bit; ``phantom:mri/train/17?side=right``
draws the same patient, slice and noise with one fact of the lesion changed.
"""

from functools import lru_cache, partial

import numpy as np
from PIL import Image

from medvlm_r1.data.phantom.pointing import ask_place, first_draw, kept_draws
from medvlm_r1.data.phantom.questions import Question, ask, ask_with_shortcut, reasoning
from medvlm_r1.data.phantom.render import render
from medvlm_r1.data.phantom.scene import LESION_FACTS, Scene, altered, contradiction
from medvlm_r1.errors import DataError, ImageError, nearest
from medvlm_r1.types import Example

SIZES = {"train": 600, "test": 300}
QUESTIONS_PER_PATIENT = 2
_FIRST_PATIENT = {"train": 0, "test": 100_000}  # pre-training patients start at a million
_OFFSET = {
    "mri": 0,
    "ct": 10_000,
    "xray": 20_000,
    "text-shortcut": 30_000,
    "text-reversed": 40_000,
    "pointing-mri": 50_000,
    "pointing-ct": 60_000,
    "pointing-xray": 70_000,
}
_POINTING = "pointing-"
_IS_REVERSED = {"text-shortcut": False, "text-reversed": True}


@lru_cache(maxsize=4096)
def question(name: str, split: str, index: int) -> Question:
    """The question at one place of one set; a pure function of its arguments."""
    if name.startswith(_POINTING):
        return _pointing(name, split, index)(kept_draws()[name, split][index])
    rng = np.random.default_rng([_FIRST_PATIENT[split] + _OFFSET[name], index])
    patient = _patient(name, split, index)
    return ask_with_shortcut(rng, patient, _IS_REVERSED[name]) if name in _IS_REVERSED else ask(rng, name, patient)


def _patient(name: str, split: str, index: int) -> int:
    return _FIRST_PATIENT[split] + _OFFSET[name] + index // QUESTIONS_PER_PATIENT


def _pointing(name: str, split: str, index: int) -> partial[Question]:
    """A question of a pointing set, but for the draw that shows its answer."""
    return partial(ask_place, (_FIRST_PATIENT[split] + _OFFSET[name], index), name.removeprefix(_POINTING), _patient(name, split, index))


def find_draw(name: str, split: str, index: int) -> int:
    """What ``pointing.txt`` keeps for one question of a pointing set, found anew: a third of a second."""
    return first_draw(_pointing(name, split, index))


def load(name: str, split: str | None = None) -> list[Example]:
    """All questions of a set, both splits unless one is named: a modality's, one whose texts tell, or one that asks where."""
    if name not in _OFFSET:
        raise DataError(f'no phantom set "{name}"{nearest(name, _OFFSET)}')
    if split is not None and split not in SIZES:
        raise DataError(f'phantom:{name} has no split "{split}"{nearest(split, SIZES)}')
    return [_example(name, part, n) for part in SIZES if split in (None, part) for n in range(SIZES[part])]


def _example(name: str, split: str, index: int) -> Example:
    drawn = question(name, split, index)
    return Example(
        id=f"phantom-{name}-{split}-{index:05d}",
        images=(f"phantom:{name}/{split}/{index}",),
        question=drawn.text,
        options=drawn.options,
        answer=drawn.answer,
        modality=drawn.scene.modality,
        question_type=drawn.type,
        group=f"phantom-patient-{drawn.scene.patient}",
        source=f"phantom-{split}",
        reasoning=reasoning(drawn),
        split=split,
    )


def scene_of(reference: str) -> Scene:
    """The facts of the picture behind a reference, the changed one included.

    Raises ImageError where there is no such picture.

    >>> scene_of("phantom:xray/test/0").side, scene_of("phantom:xray/test/0?side=right").side
    ('left', 'right')
    """
    place, asks_for_change, change = reference.removeprefix("phantom:").partition("?")
    name, split, index = ([*place.split("/"), "", ""])[:3]
    if name not in _OFFSET or split not in SIZES or not index.isdecimal() or int(index) >= SIZES[split]:
        raise ImageError(f'no phantom picture "{reference}"; write phantom:mri/train/0, with {", ".join(_OFFSET)}, and train or test')
    scene = question(name, split, int(index)).scene
    return _changed(scene, change, reference) if asks_for_change else scene


def _changed(scene: Scene, change: str, reference: str) -> Scene:
    fact, _, value = change.partition("=")
    if fact not in LESION_FACTS:
        raise ImageError(f'phantom picture "{reference}" changes the unknown fact "{fact}"{nearest(fact, LESION_FACTS)}')
    there = altered(scene, fact, int(value) if fact == "count" and value.isdecimal() else value)
    why = contradiction(there)
    if why:
        raise ImageError(f'phantom picture "{reference}" cannot be: {why}; change another fact, or take another picture')
    return there


@lru_cache(maxsize=2048)
def open_reference(reference: str) -> Image.Image:
    """Draw the picture behind ``phantom:mri/train/17`` or ``phantom:mri/train/17?side=right``."""
    return render(scene_of(reference))
