"""A record as a FHIR R4 bundle: DiagnosticReport, Observation, Device and Provenance, as a transaction that can be posted as it stands.

Plain values and no library. Each resource but the last is created once however often it is posted (``ifNoneExist``); all are
marked as asserted by a machine (``AIAST``) and preliminary.
"""

from html import escape
from typing import Any

from medvlm_r1 import INTENDED_USE
from medvlm_r1.clinical import said
from medvlm_r1.clinical.record import Record, Shown, name, plain

Resource = dict[str, Any]

TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
DCM = "http://dicom.nema.org/resources/ontology/DCM"
UIDS = "urn:dicom:uid"  # the system of identifiers that are UIDs (PS3.20)
UUIDS = "urn:ietf:rfc:3986"
AIAST = {"system": f"{TERMINOLOGY}/v3-ObservationValue", "code": "AIAST", "display": "Artificial Intelligence asserted"}
# Why a value is absent (data-absent-reason): asked and not known, or a failure.
_ABSENT = {"abstained": ("asked-unknown", "Asked But Unknown"), "rejected": ("unknown", "Unknown"), "contradicted": ("unknown", "Unknown")}
_FAILED = ("error", "Error")


def bundle(record: Record, *, reasoning: bool = False) -> Resource:
    """The bundle, ready for JSON. Equal records give equal bundles."""
    parts = {"Device": _device, "Observation": _observation, "DiagnosticReport": _report, "Provenance": _provenance}
    resources = {kind: make(record) for kind, make in parts.items()}
    paragraphs = said.notes(record, reasoning=reasoning)
    resources["Observation"]["note"] = [{"text": paragraph} for paragraph in paragraphs]
    resources["DiagnosticReport"]["text"] = _narrative(paragraphs)
    return {"resourceType": "Bundle", "type": "transaction", "timestamp": _when(record), "entry": [_entry(record, *pair) for pair in resources.items()]}


def urn(record: Record, kind: str) -> str:
    """What the resources of a bundle call each other. A device is the same whatever it is asked."""
    return f"urn:uuid:{name(repr(record.model)) if kind == 'Device' else record.name(kind)}"


def _entry(record: Record, kind: str, resource: Resource) -> Resource:
    request = {"method": "POST", "url": kind}
    if kind != "Provenance":
        request["ifNoneExist"] = f"identifier={UUIDS}|{urn(record, kind)}"
        resource["identifier"] = [{"system": UUIDS, "value": urn(record, kind)}]
    return {"fullUrl": urn(record, kind), "resource": {"resourceType": kind} | resource, "request": request}


def _device(record: Record) -> Resource:
    model = record.model
    return {
        "status": "active",
        "manufacturer": "medvlm-r1",
        "deviceName": [{"name": plain(model.name) or "unknown", "type": "model-name"}],
        "type": {"text": "Vision-language model"},
        **({"serialNumber": model.fingerprint} if model.fingerprint else {}),
        "version": [
            {"type": {"text": kind}, "value": value} for kind, value in (("software", model.version), ("hash of the model's files", model.fingerprint)) if value
        ],
        "note": [{"text": INTENDED_USE}],
    }


def _observation(record: Record) -> Resource:
    found: Resource = {
        "meta": {"security": [AIAST]},
        "status": "preliminary",
        "category": [_concept(f"{TERMINOLOGY}/observation-category", "imaging", "Imaging")],
        "code": {"text": plain(record.question)},
        **_subject(record),
        "effectiveDateTime": _when(record),
        "device": {"reference": urn(record, "Device")},
        "derivedFrom": [_study(uid) for uid in _studies(record)],
        "method": {"text": "; ".join(map(plain, record.model.parameters)) or "default"},
    }
    why, words = said.reason(record)
    if why:
        found["dataAbsentReason"] = _concept(f"{TERMINOLOGY}/data-absent-reason", *_ABSENT.get(why, _FAILED)) | {"text": words}
    elif record.options:
        found["valueCodeableConcept"] = {"text": plain(record.answer_text)}
    else:
        found["valueString"] = plain(record.answer_text)
    return found | ({"component": components} if (components := _components(record)) else {})


def _components(record: Record) -> list[Resource]:
    """Certainty with what it rests on, and a reader's assessment."""
    found: list[Resource] = []
    if (percent := said.percent(record)) is not None and record.confidence and record.confidence.calibration:
        certainty = {"value": percent, "unit": "%", "system": "http://unitsofmeasure.org", "code": "%"}
        found.append({"code": _concept(DCM, "111012", "Certainty of Finding"), "valueQuantity": certainty})
        found.append({"code": {"text": "What the certainty rests on"}, "valueString": said.calibrated(record.confidence.calibration)})
    if record.feedback:
        found.append({"code": {"text": "Reader's assessment of the answer"}, "valueCodeableConcept": {"text": record.feedback.assessment}})
    return found


def _report(record: Record) -> Resource:
    return {
        "meta": {"security": [AIAST]},
        "status": "preliminary",
        "category": [_concept(f"{TERMINOLOGY}/v2-0074", "RAD", "Radiology")],
        "code": _concept("http://loinc.org", "18748-4", "Diagnostic imaging study"),
        **_subject(record),
        "effectiveDateTime": _when(record),
        "issued": _when(record),
        "result": [{"reference": urn(record, "Observation")}],
        "imagingStudy": [_study(uid) for uid in _studies(record)],
        "conclusion": f"{said.outcome(record)}\n{INTENDED_USE}",
    }


def _provenance(record: Record) -> Resource:
    """Who said it, of which images; a reader who looked at it is an agent beside the machine."""
    agents = [{"type": _concept(f"{TERMINOLOGY}/provenance-participant-type", "author", "Author"), "who": {"reference": urn(record, "Device")}}]
    if record.feedback:
        reader = {"display": plain(record.feedback.reader) or "a reader"}
        agents.append({"type": _concept(f"{TERMINOLOGY}/provenance-participant-type", "informant", "Informant"), "who": reader})
    return {
        "meta": {"security": [AIAST]},
        "target": [{"reference": urn(record, "Observation")}, {"reference": urn(record, "DiagnosticReport")}],
        "recorded": _when(record),
        "agent": agents,
        "entity": [{"role": "source", "what": _source(shown)} for shown in record.images],
    }


def _subject(record: Record) -> Resource:
    """Nobody, where the record does not know whose images they are."""
    number, issuer = record.patient.patient_id, record.patient.issuer_of_patient_id
    identifier = {"value": number} | ({"assigner": {"display": issuer}} if issuer else {})
    return {"subject": {"type": "Patient", "identifier": identifier}} if number else {}


def _studies(record: Record) -> list[str]:
    return list(dict.fromkeys(shown.instance.study_uid for shown in record.images))


def _study(uid: str) -> Resource:
    return {"type": "ImagingStudy", "identifier": {"system": UIDS, "value": f"urn:oid:{uid}"}}


def _source(shown: Shown) -> Resource:
    frame = "" if shown.frame is None else f", frame {shown.frame + 1}"
    pixels = f", SHA-256 of the picture {shown.sha256}" if shown.sha256 else ""
    return {"identifier": {"system": UIDS, "value": f"urn:oid:{shown.instance.sop_instance_uid}"}, "display": f"DICOM image{frame}{pixels}"}


def _concept(system: str, code: str, display: str) -> Resource:
    return {"coding": [{"system": system, "code": code, "display": display}]}


def _narrative(paragraphs: list[str]) -> Resource:
    body = "".join(f"<p>{escape(paragraph).replace(chr(10), '<br/>')}</p>" for paragraph in paragraphs)
    return {"status": "generated", "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{body}</div>'}


def _when(record: Record) -> str:
    return record.asked_at.isoformat(timespec="seconds")
