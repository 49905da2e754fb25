"""One name per modality, whatever a corpus calls it."""

import re
from functools import lru_cache

MODALITIES = {
    "mri": ("mri", "mr", "magnetic resonance", "mr magnetic resonance imaging", "magnetic resonance imaging"),
    "ct": ("ct", "computed tomography", "ct computed tomography", "cat scan"),
    "xray": ("xray", "x ray", "x-ray", "cr", "dx", "radiograph", "chest x ray", "cxr", "plain radiograph"),
    "ultrasound": ("ultrasound", "us", "sonography", "ultrasonography"),
    "oct": ("oct", "optical coherence tomography", "oct optical coherence tomography"),
    "fundus": ("fundus", "fundus photography"),
    "dermoscopy": ("dermoscopy", "dermatoscopy", "skin"),
    "microscopy": ("microscopy", "microscopy images"),
    "pathology": ("pathology", "histopathology", "histology"),
    "endoscopy": ("endoscopy", "gastrointestinal endoscopy"),
    "colposcopy": ("colposcopy",),
    "mammography": ("mammography", "mammogram", "mg"),
    "angiography": ("angiography", "dsa", "xa"),
    "pet": ("pet", "pt", "positron emission tomography"),
    "photo": ("photo", "digital photography", "photography"),
    "infrared": ("infrared", "infrared reflectance imaging"),
}
_NAME = {variant: name for name, variants in MODALITIES.items() for variant in variants}
DISPLAY = {"mri": "MRI", "ct": "CT", "xray": "X-ray", "oct": "OCT", "pet": "PET"}


@lru_cache(maxsize=4096)
def modality_of(written: str) -> str:
    """The one name of a modality; a name that is not in MODALITIES is kept in lower case, and "" is "unknown".

    >>> [modality_of(m) for m in ("MR (Mag-netic Resonance Imaging)", "CT(Computed Tomography)", "X-Ray", "Fundus Photography", "EEG trace", "МРТ", "")]
    ['mri', 'ct', 'xray', 'fundus', 'eeg-trace', 'мрт', 'unknown']
    >>> [modality_of(m) for m in ("CT scan", "MRI scans", "X-Rays", "Computed Tomography (CT)", "PET CT", "PET imaging")]
    ['ct', 'mri', 'xray', 'ct', 'pet-ct', 'pet']
    """
    words = re.findall(r"[^\W_]+", written.lower().replace("mag-netic", "magnetic"))
    return _NAME.get(" ".join(words)) or _said_twice(words) or "-".join(words) or "unknown"


def _said_twice(words: list[str]) -> str | None:
    """The modality of a name with a word too many: "CT scan", "X-Rays", "Computed Tomography (CT)"; not of "PET CT", which are two."""
    *before, last = words or [""]
    known, short = _NAME.get(" ".join(before)), _NAME.get(last)
    if last in ("scan", "scans", "imaging", "image", "images") or (short and short == known):
        return known
    return _NAME.get(" ".join(words).removesuffix("s"))


def is_modality(written: str) -> bool:
    """Whether MODALITIES has this name.

    >>> is_modality("X-Ray"), is_modality("glioma")
    (True, False)
    """
    return modality_of(written) in MODALITIES
