"""The facts of one phantom picture, and how to draw plausible ones.

A `Scene` holds everything that a question may ask and the two seeds that fix
the rest. The renderer reads nothing else, so a fact can be changed with
``dataclasses.replace`` and anatomy, slice and noise stay as they were.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medvlm_r1.errors import DataError, nearest

SIDES = ("left", "right", "both")
SIZES = ("small", "medium", "large")
COUNTS = (1, 2, 3)
WEIGHTINGS = ("T1", "T2", "FLAIR", "PD")
BODIES = {"mri": ("head",), "ct": ("head", "chest", "abdomen"), "xray": ("chest",)}
PLANES = {"mri": ("axial", "coronal", "sagittal"), "ct": ("axial",), "xray": ("frontal",)}
FINDINGS = {
    ("mri", "head"): ("none", "tumour", "ring-enhancing tumour", "infarct", "plaques"),
    ("ct", "head"): ("none", "haemorrhage", "infarct"),
    ("ct", "chest"): ("none", "nodule", "effusion"),
    ("ct", "abdomen"): ("none", "cyst", "calcification"),
    ("xray", "chest"): ("none", "consolidation", "effusion", "pneumothorax", "nodule"),
}
_LOBES = ("frontal", "parietal", "temporal", "occipital")
_THIRDS = ("anterior", "middle", "posterior")
REGIONS = {
    ("mri", "head"): _LOBES,
    ("ct", "head"): _LOBES,
    ("ct", "chest"): _THIRDS,
    ("ct", "abdomen"): _THIRDS,
    ("xray", "chest"): ("upper", "middle", "lower"),
}
LESION_FACTS = ("finding", "side", "size", "count", "region")
SINGLE = ("infarct", "effusion", "pneumothorax")  # one a side
ONLY_REGION = {("xray", "effusion"): "lower", ("xray", "pneumothorax"): "upper", ("ct", "effusion"): "posterior"}
# How many of one size have room on one side of one region, in the head and below.
ROOM = {"small": 3, "medium": 3, "large": 2}
ROOM_TRUNK = {"small": 3, "medium": 2, "large": 1}
# Where a slice of the head may lie, MNI mm; sagittal: distance from the midline.
SLICES_MM = {"axial": (-10.0, 50.0), "coronal": (-80.0, 45.0), "sagittal": (14.0, 44.0)}
# Slice positions, MNI mm, that show enough of a lobe to put lesions there.
VISIBLE_MM = {
    "axial": {"frontal": (-8, 50), "parietal": (22, 50), "temporal": (-10, 1), "occipital": (-8, 20)},
    "coronal": {"frontal": (-10, 42), "parietal": (-66, -22), "temporal": (-48, 2), "occipital": (-80, -67)},
    "sagittal": {"frontal": (14, 44), "parietal": (14, 44), "temporal": (32, 44), "occipital": (14, 30)},
}
_TRIES = 300


@dataclass(frozen=True)
class Scene:
    """One picture, described.

    An axial FLAIR with two plaques in the left frontal lobe:

    >>> Scene("mri", 7, 42, "head", "axial", "FLAIR", "plaques", "left", "small", 2, "frontal").count
    2
    """

    modality: str  # "mri" | "ct" | "xray"
    patient: int  # seed of the anatomy: deformation, body proportions
    seed: int  # seed of all else: noise, exact slice, placement of lesions
    body: str  # "head" | "chest" | "abdomen"
    plane: str  # mri: "axial" | "coronal" | "sagittal"; ct: "axial"; xray: "frontal"
    weighting: str  # mri: "T1" | "T2" | "FLAIR" | "PD"; others ""
    finding: str  # one of FINDINGS[modality, body]
    side: str  # the patient's "left" | "right" | "both"; "" if none or sagittal
    size: str  # "small" | "medium" | "large"; "" if none
    count: int  # 0 if none, else 1 to 3
    region: str  # one of REGIONS[modality, body]; "" if none


def stream(scene: Scene, purpose: str) -> np.random.Generator:
    """Independent random numbers for one purpose, from the seed that owns it.

    "anatomy" depends on the patient alone; "slice", "place", "scan" and "noise"
    on the seed alone. None depends on a fact, which makes counterfactuals exact.
    """
    purposes = ("anatomy", "slice", "place", "scan", "noise")
    owner = scene.patient if purpose == "anatomy" else scene.seed
    return np.random.default_rng([purposes.index(purpose), owner])


def slice_mm(plane: str, seed: int) -> float:
    """Position of a slice of the head in MNI mm (x, y or z), signed.

    >>> -10 <= slice_mm("axial", 3) <= 50
    True
    """
    rng = np.random.default_rng([1, seed])
    position_mm = rng.uniform(*SLICES_MM[plane])
    return position_mm * rng.choice((-1, 1)) if plane == "sagittal" else position_mm


def visible_regions(body: str, modality: str, plane: str, seed: int) -> tuple[str, ...]:
    """The regions that the slice of this seed shows well enough for a lesion."""
    if body != "head":
        return REGIONS[modality, body]
    at_mm = slice_mm(plane, seed)
    at_mm = abs(at_mm) if plane == "sagittal" else at_mm
    return tuple(name for name, (low, high) in VISIBLE_MM[plane].items() if low <= at_mm <= high)


def room(body: str, finding: str, size: str) -> int:
    """How many lesions of this size fit one side of one region."""
    if finding in SINGLE:
        return 1
    return (ROOM if body == "head" else ROOM_TRUNK)[size]


def contradiction(scene: Scene) -> str:
    """Why the facts of a scene cannot hold together, as a sentence; "" if they can.

    >>> contradiction(Scene("xray", 1, 1, "chest", "frontal", "", "nodule", "both", "small", 1, "upper"))
    'side "both" needs at least 2 lesions, not 1'
    """
    if scene.finding == "none":
        extra = [value for value in (scene.side, scene.size, scene.region, scene.count) if value]
        return f'finding "none" leaves no lesion to be {extra[0]!r}' if extra else ""
    if scene.finding not in FINDINGS[scene.modality, scene.body]:
        return f'{scene.modality} of the {scene.body} has no finding "{scene.finding}"'
    if scene.count not in COUNTS:
        return f"{scene.finding} comes as 1 to 3 lesions, not {scene.count}"
    if scene.size not in SIZES:
        return f'size "{scene.size}" is unknown; known are {", ".join(SIZES)}'
    if scene.plane == "sagittal" and scene.side:
        return f'a sagittal slice shows no side, so side cannot be "{scene.side}"'
    if scene.plane != "sagittal" and scene.side not in SIDES:
        return f'side "{scene.side}" is unknown; known are {", ".join(SIDES)}'
    if scene.side == "both" and scene.count < 2:
        return f'side "both" needs at least 2 lesions, not {scene.count}'
    if scene.finding in SINGLE and scene.count != 1 + (scene.side == "both"):
        return f'{scene.finding} comes once on a side, so count {scene.count} with side "{scene.side}" is impossible'
    per_side = -(-scene.count // (2 if scene.side == "both" else 1))
    if per_side > room(scene.body, scene.finding, scene.size):
        return f"{per_side} {scene.size} lesions ({scene.finding}) have no room on one side of one region"
    only = ONLY_REGION.get((scene.modality, scene.finding), scene.region)
    if scene.region != only:
        return f'{scene.finding} is always {only}, not "{scene.region}"'
    if scene.region not in visible_regions(scene.body, scene.modality, scene.plane, scene.seed):
        return f'the {scene.plane} slice of seed {scene.seed} does not show the region "{scene.region}"'
    return ""


def altered(scene: Scene, fact: str, value: str | int) -> Scene:
    """The same patient, slice and noise with one of ``LESION_FACTS`` changed; finding "none" takes the lesion away.

    Whether such a picture can be, ``contradiction`` says.

    >>> s = Scene("xray", 7, 42, "chest", "frontal", "", "nodule", "left", "small", 1, "upper")
    >>> altered(s, "side", "right").side, altered(s, "finding", "none").count
    ('right', 0)
    """
    if (fact, value) == ("finding", "none"):
        return replace(scene, finding="none", side="", size="", count=0, region="")
    changed: dict[str, Any] = {fact: value}
    return replace(scene, **changed)


def draw_scene(rng: np.random.Generator, modality: str, **fixed: Any) -> Scene:
    """A plausible scene, uniform over what the fixed facts leave open.

    fixed: any fields of `Scene` but the modality, e.g. ``finding="infarct",
    side="left"``. A fixed side, size, count or region implies a finding.
    Raises DataError when a fact is unknown or the fixed facts contradict.

    >>> draw_scene(np.random.default_rng(0), "mri", finding="plaques", count=3).weighting in WEIGHTINGS
    True
    """
    _check_fixed(modality, fixed)
    reason = ""
    for body in _choices(rng, fixed, "body", BODIES[modality]):
        for finding in _choices(rng, fixed, "finding", FINDINGS[modality, body]):
            if finding not in FINDINGS[modality, body]:
                reason = reason or f'{modality} of the {body} has no finding "{finding}"'
                continue
            for _ in range(_TRIES):
                scene = _guess(rng, modality, {**fixed, "body": body, "finding": finding})
                why = contradiction(scene)
                if not why:
                    return scene
                reason = why if finding == fixed.get("finding", finding) else reason
    raise DataError(f"no {modality} scene has {_spell(fixed)}: {reason}; drop one of these facts")


def _guess(rng: np.random.Generator, modality: str, facts: Mapping[str, Any]) -> Scene:
    """All open facts drawn at random, which may contradict each other."""

    def pick(name: str, values: tuple[Any, ...]) -> Any:
        return facts[name] if name in facts else values[rng.integers(len(values))]

    body, finding = facts["body"], facts["finding"]
    seed = int(facts.get("seed", rng.integers(2**31)))
    patient = int(facts.get("patient", rng.integers(2**31)))
    planes = PLANES[modality]
    if facts.get("side"):
        planes = tuple(plane for plane in planes if plane != "sagittal")
    plane = pick("plane", planes)
    weighting = pick("weighting", WEIGHTINGS if modality == "mri" else ("",))
    if finding == "none":
        lesion = (facts.get("side", ""), facts.get("size", ""), facts.get("count", 0), facts.get("region", ""))
        return Scene(modality, patient, seed, body, plane, weighting, finding, *lesion)
    side = pick("side", ("",) if plane == "sagittal" else SIDES)
    counts = (1 + (side == "both"),) if finding in SINGLE else COUNTS
    regions = visible_regions(body, modality, plane, seed)
    if (modality, finding) in ONLY_REGION:
        regions = (ONLY_REGION[modality, finding],)
    lesion = (side, pick("size", SIZES), pick("count", counts), pick("region", regions or ("",)))
    return Scene(modality, patient, seed, body, plane, weighting, finding, *lesion)


def _choices(rng: np.random.Generator, fixed: Mapping[str, Any], name: str, values: tuple[str, ...]) -> list[str]:
    return [fixed[name]] if name in fixed else [values[i] for i in rng.permutation(len(values))]


def _check_fixed(modality: str, fixed: Mapping[str, Any]) -> None:
    """Raise DataError for a name or value that no scene of this modality can have."""
    if modality not in BODIES:
        raise DataError(f'modality "{modality}" is unknown{nearest(str(modality), BODIES)}')
    bodies = BODIES[modality]
    known: dict[str, tuple[str | int, ...] | None] = {
        "body": bodies,
        "plane": PLANES[modality],
        "weighting": WEIGHTINGS if modality == "mri" else ("",),
        "finding": tuple(f for b in bodies for f in FINDINGS[modality, b]),
        "side": ("", *SIDES),
        "size": ("", *SIZES),
        "count": (0, *COUNTS),
        "patient": None,
        "seed": None,
        "region": ("", *(r for b in bodies for r in REGIONS[modality, b])),
    }
    for name, value in fixed.items():
        if name not in known:
            raise DataError(f'a scene has no fact "{name}"{nearest(name, known)}')
        values = known[name]
        if values is not None and value not in values:
            allowed = ", ".join(repr(v) for v in dict.fromkeys(values))
            raise DataError(f"{modality} cannot have {name}={value!r}; it can have {allowed}")


def _spell(fixed: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in fixed.items()) or "these facts"
