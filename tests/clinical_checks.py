"""What reports are checked with: rows of TID 1500 and references in a bundle by checks of our own, and other people's programs where they are."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from medvlm_r1.clinical.record import Calibration, Confidence, Feedback, ModelIdentity, Record, Shown
from medvlm_r1.data.study import Instance, Patient

CT, ENHANCED = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
IMAGE = Shown(Instance("1.2.1", "1.2.2", CT, "1.2.3"), sha256="9f" * 32)
CINE = Shown(Instance("1.2.1", "1.2.5", ENHANCED, "1.2.6", number_of_frames=9), frame=2)
OLDER = Shown(Instance("1.9.1", "1.9.2", CT, "1.9.3"))
ANSWERED = Record(
    "Which side is the lesion on?", ("left", "right", "both"), (IMAGE,), "answered", "B", "right",
    ModelIdentity("nano", "0.1.0", "dc622b0d94bec7a4", ("template=think", "temperature=0")), datetime(2026, 11, 25, 9, 0, 3, tzinfo=UTC),
    Confidence(0.82, Calibration("held-out MRI", 40, (0.68, 0.91), 300)), reasoning="A nodule on the SECRET THOUGHT side.",
)  # fmt: skip
LONG = "no sign\\of <anything> & more, " * 9
RECORDS = {
    "answered": ANSWERED,
    "not calibrated": replace(ANSWERED, confidence=Confidence(0.82)),
    "free text": replace(ANSWERED, options=(), answer="", answer_text="A nodule \x1b[31mon the left.\nIt is small.", confidence=None),
    "abstained": replace(ANSWERED, status="abstained", answer="", answer_text="", warnings=("shrunk 3000x2500 to 1024x853",)),
    "contradicted": replace(ANSWERED, status="contradicted", answer="", answer_text="", warnings=("The thought names A) left.",)),
    "unparsed": replace(ANSWERED, status="unparsed", answer="", answer_text=""),
    "accepted": replace(ANSWERED, feedback=Feedback.of("agree")),
    "rejected": replace(ANSWERED, feedback=Feedback.of("disagree", "left", "reader-7")),
    "supplemented": replace(ANSWERED, feedback=Feedback.of("agree", "right, and small")),
    "long, of several": replace(ANSWERED, question=LONG, options=(LONG, "yes"), answer="A", answer_text=LONG, images=(IMAGE, CINE, OLDER)),
    "of a patient": replace(ANSWERED, patient=Patient("4711", "Müller^Änne", "19500101", "F", "A1", "S1", "20261101", "120000", "Doe^J", "NORTH")),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A row of a template (PS3.16): below which item, how it belongs to it, its kind, its concept, and how often it may stand there."""

    parent: str
    relationship: str
    kind: str
    concept: str
    least: int = 1
    most: int = 1


ROOT, MEASUREMENTS, GROUP, CERTAINTY = "126000", "126010", "125007", "111012"
ROWS = (
    Row(ROOT, "HAS CONCEPT MOD", "CODE", "121049"),  # TID 1500 row 2, TID 1204: language
    Row(ROOT, "HAS OBS CONTEXT", "CODE", "121005"),  # row 3, TID 1001, 1002: observer type
    Row(ROOT, "HAS OBS CONTEXT", "UIDREF", "121012"),  # TID 1004
    *(Row(ROOT, "HAS OBS CONTEXT", "TEXT", code) for code in ("121013", "121014", "121015", "121016")),
    Row(ROOT, "HAS CONCEPT MOD", "CODE", "121058"),  # row 4: procedure reported
    Row(ROOT, "CONTAINS", "CONTAINER", MEASUREMENTS),  # row 6
    Row(MEASUREMENTS, "CONTAINS", "CONTAINER", GROUP, most=99),  # row 9, TID 1501
    Row(GROUP, "HAS OBS CONTEXT", "TEXT", "112039"),
    Row(GROUP, "HAS OBS CONTEXT", "UIDREF", "112040"),
    *(Row(GROUP, "HAS CONCEPT MOD", "TEXT", code) for code in ("111001", "111003", "122405")),  # TID 4019
    Row(GROUP, "HAS CONCEPT MOD", "TEXT", "111002", most=99),
    Row(GROUP, "HAS CONCEPT MOD", "CODE", "111000"),
    Row(GROUP, "CONTAINS", "IMAGE", "121112", most=99),
    Row(GROUP, "CONTAINS", "NUM", CERTAINTY, least=0),  # TID 300
    Row(GROUP, "CONTAINS", "CODE", "Q-", least=0),  # qualitative evaluations
    Row(GROUP, "CONTAINS", "TEXT", "Q-", least=0),
    Row(GROUP, "CONTAINS", "CODE", "ASSESSMENT", least=0),
    Row(GROUP, "CONTAINS", "TEXT", "121106", least=1, most=99),  # the template may be extended
    Row(CERTAINTY, "HAS PROPERTIES", "TEXT", "121106"),
)
FLAGS = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.34", "Modality": "SR", "CompletionFlag": "COMPLETE", "PreliminaryFlag": "PRELIMINARY", "VerificationFlag": "UNVERIFIED"}  # fmt: skip


def name_of(item):
    code = item.ConceptNameCodeSequence[0].CodeValue
    return "Q-" if code.startswith("Q-") else code


def items(item):
    """The item and all below it."""
    yield item
    for child in item.get("ContentSequence", []):
        yield from items(child)


def report_faults(report):
    """Where a data set breaks the rows above, or says more than it may."""
    faults = [f"{keyword} is {report.get(keyword)}" for keyword, value in FLAGS.items() if report.get(keyword) != value]
    if name_of(report) != ROOT or report.ContentTemplateSequence[0].TemplateIdentifier != "1500":
        faults.append("the root is not that of TID 1500")
    for item in items(report):
        rows = {(row.relationship, row.kind, row.concept): row for row in ROWS if row.parent == name_of(item)}
        found = [(child.RelationshipType, child.ValueType, name_of(child)) for child in item.get("ContentSequence", [])]
        faults += [f"{name_of(item)} holds {' '.join(key)}, which is in no row" for key in found if key not in rows]
        faults += [
            f"{name_of(item)} holds {' '.join(key)} {found.count(key)} times" for key, row in rows.items() if not row.least <= found.count(key) <= row.most
        ]
        if name_of(item) == GROUP and sum(name == "Q-" for _, _, name in found) != 1:
            faults.append("a question has not one answer")
    return faults + _reference_faults(report) + _value_faults(report)


def _reference_faults(report):
    known = {
        sop.ReferencedSOPInstanceUID
        for kind in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in report.get(kind, [])
        for series in study.ReferencedSeriesSequence
        for sop in series.ReferencedSOPSequence
    }
    named = {item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in items(report) if item.ValueType == "IMAGE"}
    return [f"image {uid} is no evidence" for uid in named - known] + [f"evidence {uid} is no image" for uid in known - named]


def _value_faults(report):
    faults, texts = [], [item.TextValue for item in items(report) if item.ValueType == "TEXT"]
    for item in items(report):
        if item.ValueType == "NUM":
            value = item.MeasuredValueSequence[0]
            units = value.get("MeasurementUnitsCodeSequence")
            if not units or units[0].CodeValue != "%" or not 0 <= value.NumericValue <= 100:
                faults.append(f"a certainty of {value.NumericValue}, unit {units[0].CodeValue if units else None}")
        codes = [*item.get("ConceptNameCodeSequence", []), *item.get("ConceptCodeSequence", [])]
        faults += [f"code {code.CodeValue} means {code.CodeMeaning}" for code in codes if len(code.CodeValue) > 16 or not 0 < len(code.CodeMeaning) <= 64]
    if "99MEDVLM" not in {scheme.CodingSchemeDesignator for scheme in report.get("CodingSchemeIdentificationSequence", [])}:
        faults.append("our codes' scheme is not declared")
    if not any("Research use only. Not for diagnosis." in text for text in texts):
        faults.append("it does not say what it is for")
    return faults


def bundle_faults(found):
    """References that lead nowhere, and what must stand in every answer."""
    resources = {entry["fullUrl"]: entry["resource"] for entry in found["entry"]}
    kinds = {resource["resourceType"]: resource for resource in resources.values()}
    faults = (
        [] if {"Device", "Observation", "DiagnosticReport", "Provenance"} == kinds.keys() and len(kinds) == len(found["entry"]) else ["resources are missing"]
    )
    faults += [f"reference {text} leads nowhere" for text in re.findall(r'"reference": "([^"]*)"', json.dumps(found)) if text not in resources]
    for kind in ("Observation", "DiagnosticReport"):
        resource = kinds.get(kind, {})
        if resource.get("status") != "preliminary":
            faults.append(f"{kind} is {resource.get('status')}")
        if "AIAST" not in [label["code"] for label in resource.get("meta", {}).get("security", [])]:
            faults.append(f"{kind} does not say that a machine asserts it")
        if not re.search(r"Research use only\. Not for diagnosis\.", json.dumps(resource)):
            faults.append(f"{kind} does not say what it is for")
    observation = kinds.get("Observation", {})
    if sum(key.startswith("value") or key == "dataAbsentReason" for key in observation) != 1:
        faults.append("an observation has a value, or a reason why not")
    return faults


def dciodvfy(path):
    """The errors of David Clunie's checker of attributes."""
    said = subprocess.run([shutil.which("dciodvfy"), str(path)], capture_output=True, text=True, check=False).stderr
    assert "Comprehensive3DSR" in said, said
    return [line for line in said.splitlines() if line.startswith("Error")]


def dsrdump(path):
    """The errors of DCMTK's reader of structured reports."""
    done = subprocess.run([shutil.which("dsrdump"), str(path)], capture_output=True, text=True, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("E:", "F:"))] + [f"exit {done.returncode}"] * (done.returncode != 0)


_VALIDATE = """
const {Fhir} = require('fhir');
const said = new Fhir().validate(JSON.parse(require('fs').readFileSync(process.argv[1])), {errorOnUnexpected: true});
console.log(JSON.stringify(said.messages.filter(one => ['error', 'fatal'].includes(one.severity)).map(one => one.message)));
"""


def node_has_fhir():
    """Is npm's ``fhir`` where node looks (NODE_PATH)?"""
    return bool(shutil.which("node")) and subprocess.run(["node", "-e", "require('fhir')"], capture_output=True, check=False).returncode == 0


def node_fhir(path):
    """The errors of npm's ``fhir`` against R4's own profiles."""
    return json.loads(subprocess.run(["node", "-e", _VALIDATE, str(path)], capture_output=True, text=True, check=True).stdout)
