"""An image as an archive knows it: by its UIDs, and by the study that it belongs to.

What is read here is a list of elements and nothing else; whose images they are is read only where a report is to be filed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from medvlm_r1.data.images import content_of, kind_of, place
from medvlm_r1.data.kinds import dicom_start, head_of
from medvlm_r1.errors import DataError, ImageError, install

_UID = re.compile(r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*))+")
_KEYWORDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID", "NumberOfFrames", "SeriesNumber", "InstanceNumber", "Rows")
_PATIENT = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")
_STUDY = ("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName", "IssuerOfPatientID")
_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


@dataclass(frozen=True)
class Instance:
    """A DICOM image (PS3.3 C.12.1, C.7.2.1, C.7.3.1); ``number`` is its place in the study: series, then instance.

    >>> Instance("1.2.1", "1.2.2", "1.2.840.10008.5.1.4.1.1.2", "1.2.3").number_of_frames
    1
    """

    study_uid: str
    series_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    number_of_frames: int = 1
    number: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Patient:
    """Whose study it is, as its header has it: what a report is filed under. No text of this ever shows it.

    >>> Patient(patient_id="4711")
    Patient(withheld)
    """

    patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    accession_number: str = ""
    study_id: str = ""
    study_date: str = ""
    study_time: str = ""
    referring_physician_name: str = ""
    issuer_of_patient_id: str = ""

    def __repr__(self) -> str:
        return "Patient(withheld)"


def is_uid(text: str) -> bool:
    """PS3.5 9.1: digits and dots, no part with a leading zero, 64 signs at most.

    >>> [is_uid(text) for text in ("1.2.840.10008", "1.02", "1..2", "study-7", "1." + "2" * 63)]
    [True, False, False, False, False]
    """
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def instance(reference: str) -> Instance:
    """The image behind a reference such as ``ct.dcm#frame=3``. Raises ImageError where it has no UIDs: a PNG has none."""
    path = Path(place(reference)[0])
    if not path.is_file() or content_of(path) != ".dcm":
        raise ImageError(
            f'image "{reference}" has no UIDs by which a report could name it (it is no DICOM file); ask about the DICOM file itself, or leave out --sr and --fhir'
        )
    elements = _read(path, _KEYWORDS)
    study, series, sop_class, sop = uids = [str(elements.value(keyword) or "") for keyword in _KEYWORDS[:4]]
    for keyword, uid in zip(_KEYWORDS, uids, strict=False):
        if not is_uid(uid):
            raise ImageError(f'image "{path}" has {f"the {keyword} {uid[:70]!r}, which is no UID" if uid else f"no {keyword}"}; correct its header')
    number = (elements.integer("SeriesNumber", 0), elements.integer("InstanceNumber", 0))
    return Instance(study, series, sop_class, sop, number_of_frames=max(elements.integer("NumberOfFrames", 1), 1), number=number)


def patient(references: Sequence[str]) -> Patient:
    """Whose images these are. Raises DataError where they are not of one patient, without saying of whom."""
    found = [_patient(Path(place(reference)[0])) for reference in references]
    for reference, other in zip(references, found, strict=True):
        if not _is_same(other, found[0]):
            raise DataError(f'"{references[0]}" and "{reference}" are of two patients; a report is about one: ask twice')
    return found[0]


def _is_same(one: Patient, other: Patient) -> bool:
    """By number, who gave it, and date of birth; who has no number goes by name, which is written in more than one way.

    >>> _is_same(Patient("7", "DOE^JANE"), Patient("7", "Doe^Jane^M")), _is_same(Patient("", "DOE^JANE"), Patient("", "ROE^RICHARD"))
    (True, False)
    >>> _is_same(Patient("1", "", "19700101"), Patient("1", "", "19801231")), _is_same(Patient(), Patient("", "DOE^JANE"))
    (False, True)
    >>> _is_same(Patient("1", issuer_of_patient_id="NORTH"), Patient("1", issuer_of_patient_id="SOUTH")), _is_same(Patient("1", issuer_of_patient_id="NORTH"), Patient("1"))
    (False, True)
    """

    def clash(*told: str) -> bool:
        return all(told) and told[0] != told[1]

    names = (patient.patient_name.casefold().rstrip("^ ") for patient in (one, other))
    told = ((one.issuer_of_patient_id, other.issuer_of_patient_id), (one.patient_birth_date, other.patient_birth_date))
    by_number = one.patient_id == other.patient_id and not any(clash(*pair) for pair in told)
    return by_number and (bool(one.patient_id) or not clash(*names))


def images_in(folder: Path, at_most: int | None = None) -> list[str]:
    """The images of a study's folder: DICOM images in the order of series and instance, or else pictures by name.

    ``at_most``: so many of them, spread evenly from the first to the last. Raises DataError where there is none, or
    images of several studies.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     for name in ("b.png", "a.png", "notes.txt"):
    ...         _ = (Path(folder) / name).write_bytes(b"x")
    ...     [Path(name).name for name in images_in(Path(folder))]
    ['a.png', 'b.png']
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts))
    dicom = [path for path in files if dicom_start(head_of(path)[0]) is not None and path.name != "DICOMDIR"]
    known = [(instance(str(path)), path) for path in dicom if _has_pixels(path)]
    if len(studies := {found.study_uid for found, _ in known}) > 1:
        raise DataError(f'folder "{folder}" holds images of {len(studies)} studies; name the folder of one, or its images')
    known.sort(key=lambda pair: (pair[0].number, pair[0].series_uid, pair[1]))
    images = [str(path) for _, path in known] or [str(path) for path in files if kind_of(path) in _PICTURES]
    if not images:
        raise DataError(f'folder "{folder}" holds no image; name a folder of DICOM files, or pictures')
    return spread(images, at_most or len(images))


def spread(images: Sequence[str], at_most: int) -> list[str]:
    """So many of them, evenly from the first to the last.

    >>> spread("abcdefg", 3), spread("abc", 9), spread("abc", 1)
    (['a', 'd', 'g'], ['a', 'b', 'c'], ['b'])
    """
    count = len(images)
    if at_most >= count:
        return list(images)
    return [images[round(k * (count - 1) / (at_most - 1))] for k in range(at_most)] if at_most > 1 else [images[count // 2]]


def _patient(path: Path) -> Patient:
    elements = _read(path, ("SpecificCharacterSet", *_PATIENT, *_STUDY))
    return Patient(*(str(elements.value(keyword) or "").strip() for keyword in (*_PATIENT, *_STUDY)))


def _has_pixels(path: Path) -> bool:
    return _read(path, ("Rows",)).number("Rows") is not None


def _read(path: Path, keywords: Sequence[str]) -> Any:
    try:
        from medvlm_r1.data.dicom.source import read
    except ModuleNotFoundError as error:
        raise ImageError(f"a DICOM file needs pydicom; {install('pydicom')}") from error
    return read(path, keywords).elements


KEYWORDS = dict(zip((field.name for field in fields(Patient)), (*_PATIENT, *_STUDY), strict=True))  # of DICOM, by our names
