"""A record as DICOM SR: Comprehensive 3D SR (PS3.3 A.35.13) with TID 1500 (PS3.16), as IHE's AI Results profile stores results.

The answer is a qualitative evaluation, its name and value coded in a scheme of our own, since no question of a user's is in any
standard's. Complete, preliminary, unverified. The one module that calls highdicom.
"""

from collections.abc import Iterable
from io import BytesIO
from typing import Any

from highdicom import sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import CodedConcept

from medvlm_r1.clinical import said
from medvlm_r1.clinical.record import Record, name, plain
from medvlm_r1.data.dicom.source import dataset
from medvlm_r1.data.foreign import errors_as
from medvlm_r1.data.study import KEYWORDS, Instance, Patient
from medvlm_r1.files import digest

SCHEME = "99MEDVLM"
SERIES_NUMBER = 9700
# What is wrong would show whose images they are.
_UNFIT = "the images' headers do not allow a DICOM SR (their class is no image's, or a date or sex of --with-patient is none); correct them"
_MOST_MEANING = 64  # signs (PS3.5 6.2, LO)
_CONTAINS, _PROPERTIES = sr.RelationshipTypeValues.CONTAINS, sr.RelationshipTypeValues.HAS_PROPERTIES
_COMMENT = CodedConcept("121106", "DCM", "Comment")
_CERTAINTY = CodedConcept("111012", "DCM", "Certainty of Finding")
_PERCENT = CodedConcept("%", "UCUM", "Percent")
_DEVICE = CodedConcept("121007", "DCM", "Device")
_AI = CodedConcept("123110", "DCM", "Artificial Intelligence")
_PROCEDURE = CodedConcept("363679005", "SCT", "Imaging procedure")
_ASSESSED = CodedConcept("ASSESSMENT", SCHEME, "Reader's assessment of the answer")


def structured_report(record: Record, *, reasoning: bool = False) -> bytes:
    """A DICOM file (PS3.10), ready to be stored. Raises ImageError where an image cannot be referred to.

    It is filed under the images' study and, where the record knows one, under their patient; otherwise those elements are empty.
    """
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=sr.ObserverContext(_DEVICE, _observer(record))),
        procedure_reported=_PROCEDURE,
        imaging_measurements=[_group(record, reasoning)],
    )
    document, file = _document(record, content), BytesIO()
    document.save_as(file, enforce_file_format=True)
    return file.getvalue()


def coded(text: str, kind: str, otherwise: str) -> CodedConcept:
    """A code for words of a user's. A meaning is never cut short, which could turn it round: ``otherwise`` stands in for one that is too long.

    >>> coded("left", "A", "…").meaning, coded("no sign " * 20, "A", "Option B, see the comment").meaning
    ('left', 'Option B, see the comment')
    >>> coded("left", "A", "…").value == coded(" left", "A", "…").value != coded("right", "A", "…").value
    True
    """
    words = plain(text)
    fits = 0 < len(words) <= _MOST_MEANING and "\\" not in words and "\n" not in words
    return CodedConcept(f"{kind}-{digest(words)[:12]}", SCHEME, words if fits else otherwise)


def _document(record: Record, content: sr.MeasurementReport) -> sr.Comprehensive3DSR:
    asked, model = record.asked_at, record.model
    scheme = CodingSchemeIdentificationItem(SCHEME, name="medvlm-r1: questions and answers, by their words")
    header: dict[str, Any] = {
        "series_instance_uid": record.uid("series"),
        "series_number": SERIES_NUMBER,
        "series_description": "AI answer, preliminary. Research use only.",
        "sop_instance_uid": record.uid("report"),
        "instance_number": 1,
        "manufacturer": "medvlm-r1",
        "manufacturer_model_name": _named(model.name),
        "software_versions": model.version,
        "device_serial_number": model.fingerprint[:_MOST_MEANING],
        "coding_schemes": [scheme],
        "content_date": asked.date(),
        "content_time": asked.time(),
        "specific_character_set": "ISO_IR 192",
    }
    with errors_as(_UNFIT):
        evidence = [_evidence(instance, record.patient) for instance in dict.fromkeys(shown.instance for shown in record.images)]
        document = sr.Comprehensive3DSR(evidence, content, is_complete=True, is_final=False, is_verified=False, **header)
    document.InstanceCreationDate, document.InstanceCreationTime = document.ContentDate, document.ContentTime
    document.TimezoneOffsetFromUTC = f"{asked:%z}"[:5]
    for item in document.ContributingEquipmentSequence:  # highdicom names itself there
        item.add_new("ContributionDateTime", "DT", f"{asked:%Y%m%d%H%M%S}")
    return document


def _evidence(instance: Instance, patient: Patient) -> Any:
    """As much of an image's header as highdicom copies from or refers to."""
    return dataset(
        {keyword: getattr(patient, name) for name, keyword in KEYWORDS.items()}
        | {"SOPClassUID": instance.sop_class_uid, "SOPInstanceUID": instance.sop_instance_uid}
        | {"StudyInstanceUID": instance.study_uid, "SeriesInstanceUID": instance.series_uid}
    )


def _observer(record: Record) -> sr.DeviceObserverIdentifyingAttributes:
    """TID 1004: the weights have one UID, whatever they are asked."""
    return sr.DeviceObserverIdentifyingAttributes(
        uid=f"2.25.{name(record.model.fingerprint or record.model.name).int}",
        name="medvlm-r1",
        manufacturer_name="medvlm-r1",
        model_name=_named(record.model.name),
        serial_number=record.model.fingerprint or None,
    )


def _group(record: Record, reasoning: bool) -> sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501: one question, its answer and all that stands beside it. Comments are ours: the template may be extended."""
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(record.uid("question"), "Question 1"),
        algorithm_id=sr.AlgorithmIdentification("medvlm-r1", record.model.version, list(map(plain, record.model.parameters)) or None, _AI, "medvlm-r1"),
        source_images=list(_sources(record)),
    )
    items = group[0].ContentSequence
    items.extend([_answer(record)])
    if (percent := said.percent(record)) is not None and record.confidence and record.confidence.calibration:
        certainty = sr.NumContentItem(_CERTAINTY, percent, _PERCENT, relationship_type=_CONTAINS)
        certainty.ContentSequence = sr.ContentSequence([_text(said.calibrated(record.confidence.calibration), _PROPERTIES)])
        items.append(certainty)
    if record.feedback:
        items.append(sr.CodeContentItem(_ASSESSED, CodedConcept(record.feedback.assessment.upper(), SCHEME, f"Answer {record.feedback.assessment}"), _CONTAINS))
    items.extend(_text(note, _CONTAINS) for note in said.notes(record, reasoning=reasoning))
    return group


def _sources(record: Record) -> Iterable[sr.SourceImageForMeasurementGroup]:
    """Each image once, with the frames that were shown; DICOM counts them from 1."""
    frames: dict[tuple[str, str], list[int]] = {}
    for shown in record.images:
        known = frames.setdefault((shown.instance.sop_class_uid, shown.instance.sop_instance_uid), [])
        if shown.instance.number_of_frames > 1:
            known.append((shown.frame or 0) + 1)
    return (sr.SourceImageForMeasurementGroup(*uids, sorted(set(numbers)) or None) for uids, numbers in frames.items())


def _answer(record: Record) -> sr.CodeContentItem | sr.TextContentItem:
    """The question is the name, the answer the value: coded, or text where no options were offered; or why there is none."""
    question = coded(record.question, "Q", "Question, see the comment")
    why, words = said.reason(record)
    if why:
        return sr.CodeContentItem(question, CodedConcept(why.upper(), SCHEME, words), _CONTAINS)
    if not record.options:
        return sr.TextContentItem(question, plain(record.answer_text), _CONTAINS)
    return sr.CodeContentItem(question, coded(record.answer_text, "A", f"Option {record.answer}, see the comment"), _CONTAINS)


def _text(words: str, relationship: sr.RelationshipTypeValues) -> sr.TextContentItem:
    return sr.TextContentItem(_COMMENT, words, relationship)


def _named(model: str) -> str:
    """An LO; a backslash would part it."""
    return plain(model).replace("\\", "/")[:_MOST_MEANING] or "unknown"
