"""What a DICOM header says of a picture's place: sides, sizes, units. An element that cannot be understood says nothing, and the picture is still shown."""

import re
from typing import Any

import numpy as np

from medvlm_r1.data.dicom.elements import Elements
from medvlm_r1.data.sides import Sides, named, sides_of
from medvlm_r1.data.stack import square_enough
from medvlm_r1.errors import ImageError

MACROS = ("PixelMeasuresSequence", "PlaneOrientationSequence")
# Beyond what a model's picture is made of; no name, no date, no patient.
GEOMETRY = (
    *("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelSpacingCalibrationType", "PixelAspectRatio"),
    *("ImageOrientationPatient", "PatientOrientation", "AnatomicalOrientationType"),
    *("RescaleType", "ImageType", "WindowCenterWidthExplanation", "BurnedInAnnotation", "LossyImageCompression"),
)
# PS3.3 C.7.3.1.1.1, of pictures. What else stands there is not passed on: a careless writer may put anything into it.
_MODALITIES = frozenset((
    *("AR", "BI", "BMD", "CFM", "CR", "CT", "DG", "DMS", "DX", "ES", "GM", "IO", "IVOCT", "IVUS", "KER", "LEN", "LS", "MG", "MR", "NM", "OAM", "OCT", "OP"),
    *("OPM", "OPT", "OPTBSV", "OPTENF", "OPV", "OSS", "OT", "PT", "PX", "RF", "RG", "RTDOSE", "RTIMAGE", "SC", "SEG", "SM", "SRF", "TG", "US", "XA", "XC"),
))  # fmt: skip
_PROJECTIONS = ("CR", "DX", "MG", "IO", "PX", "XA", "RF", "RG")  # enlarged by an unknown factor (10.7.1.1)
_OFTEN_WITH_TEXT = ("US", "SC", "OT", "XA", "XC", "ES", "IVUS")
_WINDOW_WORDS = frozenset((
    *("ABDOMEN", "ALGO1", "ALGO2", "ANGIO", "BONE", "BRAIN", "CEREBRUM", "CHEST", "CONTRAST", "DEFAULT", "FAT", "HARD", "HARDER", "HEAD", "HIGH", "LIVER"),
    *("LOW", "LUNG", "LUNGS", "MEDIASTINUM", "NECK", "NORMAL", "ORIGINAL", "PELVIS", "SINUS", "SKULL", "SOFT", "SOFTER", "SOFTTISSUE", "SPINE", "STANDARD"),
    *("STROKE", "SUBDURAL", "TISSUE", "USER", "VASCULAR", "WIDE", "WINDOW", "WINDOW1", "WINDOW2", "WINDOW3", "1", "2", "3", "4"),
))  # fmt: skip


def modality(elements: Elements) -> str:
    """One of DICOM's defined terms, else ""."""
    said = _said(elements, "Modality")
    return said if said in _MODALITIES else ""


def unit(elements: Elements) -> str:
    """ "HU" where the rescaled values of a CT are Hounsfield units (C.8.2.1.1.2: where no other type is said, but for localizers), else ""."""
    if modality(elements) != "CT" or _numbers(elements, "RescaleIntercept", 1) is None:
        return ""
    said = _said(elements, "RescaleType") or ("" if "LOCALIZER" in str(_value(elements, "ImageType")).upper() else "HU")
    return "HU" if said == "HU" else ""


def sides(elements: Elements) -> tuple[Sides | None, str]:
    """Which side of the patient is at which edge, and "" or the code of why that is not known.

    Image Orientation (C.7.6.2.1.1) in numbers, or Patient Orientation (C.7.6.1.1.1) in letters; none where the two contradict each other.
    """
    if _said(elements, "AnatomicalOrientationType") == "QUADRUPED":  # has letters of its own
        return None, "quadruped"
    cosines = _numbers(elements, "ImageOrientationPatient", 6)
    by_numbers = sides_of(cosines[:3], cosines[3:]) if cosines else None
    by_letters = _lettered(elements)
    if by_numbers and by_letters and any(by_numbers[edge][0] != by_letters[edge][0] for edge in ("right", "bottom")):
        return None, "contradictory-sides"
    found = by_numbers or by_letters
    return found, "" if found else "no-sides"


def spacing(elements: Elements) -> tuple[tuple[float, float] | None, str]:
    """Height and width of a pixel, and their scale: "mm", "detector" (mm there, enlarged by an unknown factor), or "" where only the ratio holds."""
    at_patient, at_detector = (_pair(elements, keyword) for keyword in ("PixelSpacing", "ImagerPixelSpacing"))
    is_projection = modality(elements) in _PROJECTIONS
    if at_patient:
        is_corrected = bool(_said(elements, "PixelSpacingCalibrationType")) or (at_detector is not None and at_patient != at_detector)
        return at_patient, "detector" if is_projection and not is_corrected else "mm"
    flat = at_detector or _pair(elements, "NominalScannedPixelSpacing")
    return (flat, "detector") if flat else (_pair(elements, "PixelAspectRatio"), "")


def window_name(elements: Elements, number: int) -> str:
    """What the file calls its window ``number`` (from 0), where it is made of words that are known: the element is free text."""
    value = _value(elements, "WindowCenterWidthExplanation")
    names = [value] if isinstance(value, str) else list(value or [])
    name = " ".join(str(names[number]).split()) if number < len(names) else ""
    return name if name and set(re.split(r"[ _-]", name.upper())) <= _WINDOW_WORDS else ""


def notes(elements: Elements) -> list[str]:
    """Codes of what the header warns of, or should."""
    burned, kind = _said(elements, "BurnedInAnnotation"), modality(elements)
    text = "burned-in" if burned == "YES" else "may-be-burned-in" if burned != "NO" and kind in _OFTEN_WITH_TEXT else ""
    return [code for code in (text, "lossy" if _said(elements, "LossyImageCompression") == "01" else "") if code]


def _lettered(elements: Elements) -> Sides | None:
    value = _value(elements, "PatientOrientation")
    words = [str(word).strip().upper() for word in value] if value is not None and not isinstance(value, str) else []
    if len(words) != 2 or not all(re.fullmatch(r"(?!.*(L.*R|R.*L|A.*P|P.*A|H.*F|F.*H|(.).*\2))[LRAPHF]{1,3}", word) for word in words):
        return None
    axis = {sign: n // 2 for n, sign in enumerate("LRAPHF")}
    return named(*words) if axis[words[0][0]] != axis[words[1][0]] else None


def _pair(elements: Elements, keyword: str) -> tuple[float, float] | None:
    found = _numbers(elements, keyword, 2)
    return square_enough((found[0], found[1])) if found else None


def _numbers(elements: Elements, keyword: str, count: int) -> list[float] | None:
    try:
        found = elements.numbers(keyword)
    except ImageError:
        return None
    known = [number for number in found if number is not None and np.isfinite(number)]
    return known if len(known) == len(found) == count else None


def _said(elements: Elements, keyword: str) -> str:
    try:
        return elements.text(keyword)
    except ImageError:
        return ""


def _value(elements: Elements, keyword: str) -> Any:
    try:
        return elements.value(keyword)
    except ImageError:
        return None
