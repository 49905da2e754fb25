"""Questions about a phantom, and the radiologist's reading that answers them.

Text alone tells nothing: the options are drawn first, the gold answer is one of
them with equal chance, and only then is a picture drawn that makes it true.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from medvlm_r1.cells import CELLS
from medvlm_r1.data.phantom.place import place_of
from medvlm_r1.data.phantom.scene import FINDINGS, REGIONS, SIDES, SIZES, WEIGHTINGS, Scene, draw_scene

MODALITIES = {"mri": "MRI", "ct": "CT", "xray": "X-ray"}
NUMBERS = ("zero", "one", "two", "three")
NORMAL = "normal"

WORDINGS = {
    "modality": ("Which kind of image is this?", "How was this image made?", "What is the imaging modality?"),
    "weighting": ("Which weighting does this image have?", "What is the MRI weighting?", "Which sequence was used?"),
    "plane": ("In which plane is the slice?", "What is the imaging plane?", "How is the slice oriented?"),
    "body": ("Which part of the body is shown?", "What body region is imaged?", "Which anatomy does the image show?"),
    "region": ("Where is the lesion?", "In which region is the abnormality?", "What is the location of the lesion?"),
    "abnormal": ("Is there an abnormality?", "Does the image show a lesion?", "Is anything abnormal?"),
    "finding": ("What is the main finding?", "What does the image show?", "Which diagnosis fits the image?"),
    "side": ("Which side is the lesion on?", "On which side is the abnormality?", "Which side is affected?"),
    "size": ("How large is the lesion?", "What size is the abnormality?", "What is the size of the lesion?"),
    "count": ("How many lesions are there?", "What is the number of lesions?", "How many abnormalities can be seen?"),
    # The screen's left is the patient's right: these say which is meant.
    "place": (
        "Where on screen, not in the patient, is the lesion?",
        "On which part of the screen, not of the patient, is the abnormality?",
        "What is the location of the lesion on screen, not in the patient?",
    ),
}

# How often each type is asked. "modality" has one answer within a modality, so a
# text prior learns it: it stays rare enough to be worth under two points.
WEIGHTS = {
    "mri": {"weighting": 5, "plane": 5, "region": 5, "abnormal": 4, "finding": 6, "side": 6, "size": 5, "count": 5, "modality": 1},
    "ct": {"body": 5, "region": 3, "abnormal": 4, "finding": 6, "side": 6, "size": 6, "count": 6, "modality": 1},
    "xray": {"region": 6, "abnormal": 6, "finding": 8, "side": 8, "size": 6, "count": 6, "modality": 1},
}
MAX_OPTIONS = 4
# Cells that hold at least 2.5 % of a modality's single lesions; "place" has sets of its own (``pointing``) and no weight here.
_CROSS = ("upper middle", "middle left", "centre", "middle right", "lower middle")
PLACES = {"mri": _CROSS, "ct": _CROSS, "xray": tuple(cell for cell in CELLS if cell != "lower middle")}


@dataclass(frozen=True)
class Question:
    """A question with its options, about one scene.

    >>> s = Scene("mri", 7, 42, "head", "axial", "FLAIR", "plaques", "left", "small", 2, "frontal")
    >>> Question("count", "How many lesions are there?", ("one", "three", "two"), "two", s).answer
    'two'
    """

    type: str
    text: str
    options: tuple[str, ...]
    answer: str
    scene: Scene


def vocabulary(modality: str, kind: str) -> tuple[str, ...]:
    """All labels that may stand as an option.

    >>> vocabulary("xray", "region")
    ('upper', 'middle', 'lower')
    """
    bodies = [body for m, body in FINDINGS if m == modality]
    if kind == "finding":
        return (NORMAL, *dict.fromkeys(f for body in bodies for f in FINDINGS[modality, body] if f != "none"))
    if kind == "region":
        return REGIONS[modality, bodies[0]]
    if kind == "place":
        return PLACES[modality]
    return {
        "modality": tuple(MODALITIES.values()),
        "weighting": WEIGHTINGS,
        "plane": ("axial", "coronal", "sagittal"),
        "body": ("head", "chest", "abdomen"),
        "abnormal": ("yes", "no"),
        "side": SIDES,
        "size": SIZES,
        "count": NUMBERS[1:],
    }[kind]


def answer_of(scene: Scene, kind: str) -> str:
    """What the scene's facts (of a "place" its picture) answer to a question type; "" where it cannot be asked.

    >>> s = Scene("xray", 7, 42, "chest", "frontal", "", "none", "", "", 0, "")
    >>> answer_of(s, "finding"), answer_of(s, "side"), answer_of(s, "abnormal")
    ('normal', '', 'no')
    """
    if kind == "place":
        return place_of(scene)
    lesion = scene.finding != "none"
    askable = kind in WEIGHTS[scene.modality] and not (scene.modality == "ct" and kind == "region" and scene.body != "head")
    if not askable or (not lesion and kind in ("region", "side", "size", "count")):
        return ""
    return {
        "modality": MODALITIES[scene.modality],
        "weighting": scene.weighting,
        "plane": scene.plane,
        "body": scene.body,
        "region": scene.region,
        "abnormal": "yes" if lesion else "no",
        "finding": scene.finding if lesion else NORMAL,
        "side": scene.side,
        "size": scene.size,
        "count": NUMBERS[scene.count],
    }[kind]


def ask(rng: np.random.Generator, modality: str, patient: int) -> Question:
    """Draw a type, options, one of them as the answer, and a scene in which it is true."""
    weights = WEIGHTS[modality]
    kind = str(rng.choice(list(weights), p=np.array(list(weights.values())) / sum(weights.values())))
    options = draw_options(rng, modality, kind)
    gold = MODALITIES[modality] if kind == "modality" else str(rng.choice(options))
    scene = draw_scene(rng, modality, patient=patient, **_facts(rng, modality, kind, gold))
    return Question(kind, str(rng.choice(WORDINGS[kind])), options, gold, scene)


def ask_with_shortcut(rng: np.random.Generator, patient: int, is_reversed: bool = False) -> Question:
    """An MRI question whose options give its answer away: of a type's labels the first half are only ever answers, the rest only distractors.

    Each option fits the question, so a reader of the picture needs no trick; but the texts alone answer all of them,
    as they nearly do in OmniMedVQA, where most distractors are never an answer elsewhere. ``is_reversed``: the halves
    are exchanged, so that whoever answers by the shortcut is always wrong.
    """
    kinds = [kind for kind in WEIGHTS["mri"] if kind != "modality"]
    kind = str(rng.choice(kinds))
    labels = vocabulary("mri", kind)
    answers, distractors = labels[: len(labels) // 2], labels[len(labels) // 2 :]
    if is_reversed:
        answers, distractors = distractors, answers
    gold = str(rng.choice(answers))
    options = [gold, *map(str, rng.permutation(distractors)[: MAX_OPTIONS - 1])]
    scene = draw_scene(rng, "mri", patient=patient, **_facts(rng, "mri", kind, gold))
    return Question(kind, str(rng.choice(WORDINGS[kind])), tuple(map(str, rng.permutation(options))), gold, scene)


def ask_about(rng: np.random.Generator, scene: Scene) -> Question:
    """A question of any type that a given scene can answer."""
    kinds = [kind for kind in WEIGHTS[scene.modality] if answer_of(scene, kind)]
    kind = str(rng.choice(kinds))
    gold = answer_of(scene, kind)
    options = draw_options(rng, scene.modality, kind, gold)
    return Question(kind, str(rng.choice(WORDINGS[kind])), options, gold, scene)


def draw_options(rng: np.random.Generator, modality: str, kind: str, gold: str = "") -> tuple[str, ...]:
    """Shuffled options from the type's own labels; with ``gold`` among them if given."""
    labels = list(vocabulary(modality, kind))
    options = [str(label) for label in rng.permutation(labels)]
    if gold:
        options = [gold] + [label for label in options if label != gold]
    return tuple(str(label) for label in rng.permutation(options[:MAX_OPTIONS]))


def _facts(rng: np.random.Generator, modality: str, kind: str, gold: str) -> dict[str, Any]:
    """The scene facts that make an answer true."""
    if kind in ("modality", "body", "weighting", "plane"):
        return {} if kind == "modality" else {kind: gold}
    if kind == "abnormal":
        return {"finding": "none" if gold == "no" else str(rng.choice(vocabulary(modality, "finding")[1:]))}
    if kind == "finding":
        return {"finding": "none" if gold == NORMAL else gold}
    fact = {kind: NUMBERS.index(gold) if kind == "count" else gold}
    if modality == "ct" and kind == "region":
        fact["body"] = "head"
    return fact


def report(scene: Scene) -> str:
    """The reading of a picture: what a look at it tells, whatever the question.

    It names each fact with the word that an option would use.

    >>> report(Scene("mri", 7, 42, "head", "axial", "FLAIR", "plaques", "left", "small", 2, "frontal"))
    'Axial FLAIR MRI of the head. Finding: plaques, two, small, left, frontal.'
    >>> report(Scene("xray", 7, 42, "chest", "frontal", "", "none", "", "", 0, ""))
    'Frontal X-ray of the chest. Finding: normal.'
    """
    words = [scene.plane.capitalize(), scene.weighting, MODALITIES[scene.modality], "of the", scene.body]
    facts = [scene.finding, NUMBERS[scene.count], scene.size, scene.side, scene.region] if scene.count else [NORMAL]
    return f"{' '.join(filter(None, words))}. Finding: {', '.join(filter(None, facts))}."


def look(question: Question) -> str:
    """What a look tells whom this is asked: the report, of a "place" where that is on the screen, too."""
    where = f" On screen: {question.answer}." if question.type == "place" else ""
    return report(question.scene) + where


def reasoning(question: Question) -> str:
    """The gold trace: what is seen, then the answer in the option's words.

    >>> s = Scene("ct", 7, 42, "chest", "axial", "", "nodule", "left", "small", 1, "anterior")
    >>> reasoning(Question("side", "Which side?", ("left", "right"), "left", s))
    'Axial CT of the chest. Finding: nodule, one, small, left, anterior. Hence left.'
    >>> reasoning(Question("place", "Where on screen?", ("centre", "middle right"), "middle right", s))
    'Axial CT of the chest. Finding: nodule, one, small, left, anterior. On screen: middle right. Hence middle right.'
    """
    return f"{look(question)} Hence {question.answer}."
