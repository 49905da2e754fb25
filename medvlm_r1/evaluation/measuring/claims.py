"""What a reasoning claims about a phantom, and whether the picture it was shown bears it out.

The words are those of the phantom's questions and reports, with a few other spellings. Labels exclude one
another as options do: "tumour" of a ring-enhancing tumour is refuted, and so is "left" of lesions on both sides.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medvlm_r1.cells import CELLS, asks_for_cell
from medvlm_r1.data.phantom.place import place_of
from medvlm_r1.data.phantom.questions import MODALITIES, NORMAL, NUMBERS
from medvlm_r1.data.phantom.scene import BODIES, FINDINGS, PLANES, REGIONS, SIDES, SIZES, WEIGHTINGS, Scene
from medvlm_r1.data.phantom.sets import scene_of
from medvlm_r1.evaluation.measuring.share import share
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.reasoning import parse
from medvlm_r1.rewards.naming import is_denied, key, mentions


@dataclass(frozen=True)
class Claim:
    """One fact with the value that a text gives it, or denies it.

    >>> Claim("side", "left")
    Claim(fact='side', value='left', denied=False)
    """

    fact: str
    value: str
    denied: bool = False


@dataclass(frozen=True)
class Checked:
    """A claim, and whether the scene has that value (or, for a denial, another one).

    >>> Checked(Claim("side", "left"), confirmed=True).confirmed
    True
    """

    claim: Claim
    confirmed: bool


LABELS = {
    "modality": tuple(MODALITIES.values()),
    "weighting": WEIGHTINGS,
    "plane": tuple(dict.fromkeys(plane for planes in PLANES.values() for plane in planes)),
    "body": tuple(dict.fromkeys(body for bodies in BODIES.values() for body in bodies)),
    "finding": (NORMAL, *dict.fromkeys(f for findings in FINDINGS.values() for f in findings if f != "none")),
    "abnormal": ("yes", "no"),
    "side": SIDES,
    "size": SIZES,
    "count": NUMBERS,
    # Last, so that "frontal" alone is the lobe.
    "region": tuple(dict.fromkeys(region for regions in REGIONS.values() for region in regions)),
}
SPELLINGS = {
    "x ray": "X-ray", "xray": "X-ray", "radiograph": "X-ray", "bilateral": "both", "plaque": "plaques",
    "tumor": "tumour", "ring-enhancing tumor": "ring-enhancing tumour", "ring enhancing tumour": "ring-enhancing tumour",
    "hemorrhage": "haemorrhage", "pleural effusion": "effusion", "infarction": "infarct",
}  # fmt: skip
_PLURALS = {f"{form}s": form for form in (*LABELS["finding"], *SPELLINGS) if SPELLINGS.get(form, form) in LABELS["finding"][1:]}
# Every thought about a question restates "the lesion"; only its denial says something.
_LESION = ("lesion", "lesions", "abnormality", "abnormalities", "abnormal")

_VALUES = {key(value): (fact, value) for fact, values in LABELS.items() for value in values}
_VALUES |= {form: _VALUES[key(value)] for form, value in SPELLINGS.items()}
_VALUES |= {form: _VALUES[single] for form, single in _PLURALS.items()}
_VALUES |= dict.fromkeys(_LESION, ("abnormal", "yes"))

# Only where the question asks for a cell of the screen: "upper left lung" is the patient's.
_ON_SCREEN = _VALUES | {cell: ("place", cell) for cell in CELLS}

_END = r"\s*(?:[.,;:!?)\n]|$)"
_COUNTED = rf"{_END}|\s+(?!of\b)(?:[\w-]+\s+){{0,2}}(?:{'|'.join(sorted({*_PLURALS, *_LESION, *map(key, LABELS['finding'][1:])}))})\b"
_SHOWN = r"image|picture|scan|slice|study|x-?ray|radiograph|mri|ct|head|brain|chest|abdomen"
# Words with a second meaning claim something only before these …
_BEFORE = {
    "both": rf"{_END}|\s+(?:sides|lungs|hemispheres|halves|kidneys)\b",
    NORMAL: rf"{_END}|\s+(?:{_SHOWN})\b",
    **dict.fromkeys(NUMBERS, _COUNTED),
}
# … not before these …
_NOT_BEFORE = {
    "left": r"\s+(?:over|out|alone)\b",
    "right": r"\s+(?:answer|option|choice|one|now|away)\b",
    "middle": r"\s+of\b",
    "head": r"\s+of\b",
    "upper": r"\s+abdomen\b",
    "small": r"\s+(?:bowel|intestine|vessels?)\b",
    "large": r"\s+(?:bowel|intestine|vessels?)\b",
}
# … and not after these.
_NOT_AFTER = {"one": re.compile(r"\b(?:this|that|the|which|each|every|no|other|another|right)\s+$", re.IGNORECASE)}
_PROJECTION = re.compile(r"\s+(?:chest\s+)?(?:x-?\s?ray|radiograph|view|projection|film)\b", re.IGNORECASE)
_LISTED = re.compile(r"\s*(?:,\s*(?:or|nor|and)?|or|nor)\s*(?:an?\s+)?", re.IGNORECASE)


def claims_of(text: str, on_screen: bool = False) -> list[Claim]:
    """The different claims of a text, in order of first appearance; ``on_screen``: cells are the screen's, and no sides or regions.

    >>> [(c.fact, c.value) for c in claims_of("Frontal X-ray of the chest. Finding: normal. Hence no.")]
    [('plane', 'frontal'), ('modality', 'X-ray'), ('body', 'chest'), ('finding', 'normal'), ('abnormal', 'no')]
    >>> claims_of("It is not the left.")
    [Claim(fact='side', value='left', denied=True)]
    >>> [(c.fact, c.value) for c in claims_of("Nodule, left. On screen: upper right.", on_screen=True)]
    [('finding', 'nodule'), ('side', 'left'), ('place', 'upper right')]
    """
    values = _ON_SCREEN if on_screen else _VALUES
    found: dict[Claim, None] = {}
    listed_from = -1  # where a list of denied findings may go on: "no effusion, nodule or cyst"
    for form, start, end in mentions(text, values):
        if not _is_meant(form, text, start, end):
            continue
        fact, value = ("plane", "frontal") if form == "frontal" and _PROJECTION.match(text, end) else values[form]
        denied = is_denied(text, start) and form not in ("yes", "no")
        denied |= fact == "finding" and listed_from >= 0 and _LISTED.fullmatch(text, listed_from, start) is not None
        listed_from = end if denied and fact == "finding" else -1
        if denied or form not in _LESION:
            found[Claim(fact, value, denied)] = None
    return list(found)


def _is_meant(form: str, text: str, start: int, end: int) -> bool:
    if form in _BEFORE and not re.compile(_BEFORE[form], re.IGNORECASE).match(text, end):
        return False
    if form in _NOT_BEFORE and re.compile(_NOT_BEFORE[form], re.IGNORECASE).match(text, end):
        return False
    return form not in _NOT_AFTER or not _NOT_AFTER[form].search(text[max(0, start - 20) : start])


def check(text: str, scene: Scene, on_screen: bool = False) -> list[Checked]:
    """The claims of a text, held against the facts of a scene.

    >>> s = Scene("ct", 7, 42, "chest", "axial", "", "nodule", "left", "small", 1, "anterior")
    >>> [(c.claim.value, c.confirmed) for c in check("Axial CT, two nodules on the left, no effusion.", s)]
    [('axial', True), ('CT', True), ('two', False), ('nodule', True), ('left', True), ('effusion', True)]
    """
    return _against(scene, claims_of(text, on_screen))


def _against(scene: Scene, few: Sequence[Claim]) -> list[Checked]:
    truth = _truth(scene)
    if any(claim.fact == "place" for claim in few):  # two pictures are drawn for it
        truth["place"] = place_of(scene)
    return [Checked(claim, (truth[claim.fact] == claim.value) != claim.denied) for claim in few]


def _truth(scene: Scene) -> dict[str, str]:
    """Every fact in the words of an option; "" for a side, size or region that there is not."""
    lesion = scene.finding != "none"
    return {
        "modality": MODALITIES[scene.modality], "weighting": scene.weighting, "plane": scene.plane, "body": scene.body,
        "finding": scene.finding if lesion else NORMAL, "abnormal": "yes" if lesion else "no",
        "side": scene.side, "size": scene.size, "count": NUMBERS[scene.count], "region": scene.region,
    }  # fmt: skip


def shown(sample: Sample) -> Scene | None:
    """The scene that a sample's one picture was drawn from; None for any other picture."""
    is_phantom = len(sample.images) == 1 and sample.images[0].startswith("phantom:")
    return scene_of(sample.images[0]) if is_phantom else None


def is_about_screen(sample: Sample) -> bool:
    """Whether a sample's left and right are the screen's."""
    return asks_for_cell(sample.question, sample.options)


def claims(samples: Sequence[Sample]) -> dict[str, Any] | None:
    """The share of claims in the greedy thoughts that the picture shown confirms; None where no sample shows a phantom.

    A claim counts once a thought, however often it is repeated. ``elsewhere`` is the share that the
    picture of another question of the same modality confirms: what a thought gets right without a look.
    """
    scenes = [(sample, scene) for sample in samples if (scene := shown(sample))]
    if not scenes:
        return None
    said = [claims_of(parse(sample.text, len(sample.options)).think, is_about_screen(sample)) for sample, _ in scenes]
    pairs = [(sample, c) for (sample, scene), few in zip(scenes, said, strict=True) for c in _against(scene, few)]
    elsewhere = [c.confirmed for scene, few in zip(_other_scenes(scenes), said, strict=True) if scene for c in _against(scene, few)]
    confirmed = share([c.confirmed for _, c in pairs], [sample for sample, _ in pairs])
    by_fact = {fact: [c.confirmed for _, c in pairs if c.claim.fact == fact] for fact in (*LABELS, "place")}
    return {
        "n_samples": len(scenes),
        "without_claims": sum(not few for few in said),
        "n_claims": len(pairs),
        "confirmed": confirmed["share"],
        "ci95": confirmed["ci95"],
        "elsewhere": sum(elsewhere) / len(elsewhere) if elsewhere else None,
        "by_fact": {fact: {"n": len(hits), "confirmed": sum(hits) / len(hits)} for fact, hits in by_fact.items() if hits},
    }


def _other_scenes(scenes: Sequence[tuple[Sample, Scene]]) -> list[Scene | None]:
    """For each sample the scene half the modality away, past the other questions of its patient; None where it stands alone."""
    places: dict[str, list[int]] = {}
    for place, (sample, _) in enumerate(scenes):
        places.setdefault(sample.modality, []).append(place)
    others: list[Scene | None] = [None] * len(scenes)
    for row in places.values():
        for n, place in enumerate(row):
            others[place] = scenes[row[(n + len(row) // 2) % len(row)]][1] if len(row) > 1 else None
    return others
