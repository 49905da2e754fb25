"""An answer as DICOM SR: what stands in it, what must not, and that other people's programs read it without an error."""

import re
import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from clinical_checks import ANSWERED, CINE, GROUP, IMAGE, RECORDS, dciodvfy, dsrdump, items, name_of, report_faults
from test_clinical_bundle import FAULTS as OTHER_FAULTS

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

from medvlm_r1.clinical.report import structured_report  # noqa: E402
from medvlm_r1.data.study import Patient  # noqa: E402
from medvlm_r1.errors import ImageError  # noqa: E402

PROGRAMS = {"dciodvfy": dciodvfy, "dsrdump": dsrdump}


def read(record, **how):
    return pydicom.dcmread(BytesIO(structured_report(record, **how)))


def texts(report):
    return [item.TextValue for item in items(report) if item.ValueType == "TEXT" and name_of(item) == "121106"]


def answer(report):
    [item] = [item for item in items(report) if name_of(item) == "Q-"]
    return item.TextValue if item.ValueType == "TEXT" else item.ConceptCodeSequence[0].CodeMeaning


def certainty(report):
    return [float(item.MeasuredValueSequence[0].NumericValue) for item in items(report) if item.ValueType == "NUM"]


@pytest.mark.parametrize("name", RECORDS)
def test_a_report_keeps_the_rows_of_the_template(name):
    assert report_faults(read(RECORDS[name])) == []


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("name", RECORDS)
def test_other_programs_find_no_error(tmp_path, name, program):
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    (tmp_path / "sr.dcm").write_bytes(structured_report(RECORDS[name]))
    assert PROGRAMS[program](tmp_path / "sr.dcm") == []


SAID = {
    "answered": ("right", [82.0]),
    "not calibrated": ("right", []),
    "free text": ("A nodule [31mon the left.\nIt is small.", []),
    "abstained": ("No answer: the model abstained", []),
    "contradicted": ("No answer: it contradicts its own thought or an earlier reading", []),
    "unparsed": ("No answer: none could be read in what the model wrote", []),
    "accepted": ("right", [82.0]),
    "rejected": ("No answer: the reader rejected what the model answered", []),
    "supplemented": ("right", [82.0]),
    "long, of several": ("Option A, see the comment", [82.0]),
    "of a patient": ("right", [82.0]),
}


@pytest.mark.parametrize("name", RECORDS)
def test_an_answer_and_its_certainty_stand_or_the_reason_why_not(name):
    report = read(RECORDS[name])
    assert (answer(report), certainty(report)) == SAID[name]


def test_what_stands_beside_the_answer():
    said = texts(read(ANSWERED))
    assert said[0] == "The share right of 40 answers as sure as this (95 % interval 68.0 to 91.0 %), among 300 to held-out MRI."
    assert said[1].startswith("Research use only. Not for diagnosis. Written by a machine, reviewed by nobody.")
    assert said[2] == "Asked: Which side is the lesion on?\nOffered: A) left; B) right; C) both"
    assert "Warning: The thought names A) left." in texts(read(RECORDS["contradicted"]))
    assert "No certainty is given: none was calibrated for this model." in texts(read(RECORDS["not calibrated"]))
    rejected = texts(read(RECORDS["rejected"]))
    assert "The model had answered, and the reader rejected: right" in rejected and "The reader's own answer: left" in rejected
    assert any(RECORDS["long, of several"].answer_text.strip() in text for text in texts(read(RECORDS["long, of several"])))


def test_the_reasoning_stays_out_unless_it_is_asked_for():
    assert b"SECRET THOUGHT" not in structured_report(ANSWERED)
    assert b"verified by nobody: A nodule on the SECRET THOUGHT side." in structured_report(ANSWERED, reasoning=True)


def test_it_is_filed_with_its_images_and_under_nobody_who_was_not_named():
    report = read(ANSWERED)
    assert (report.StudyInstanceUID, report.PatientID, report.PatientName, report.AccessionNumber) == ("1.2.1", "", "", "")
    assert report.SeriesInstanceUID != "1.2.2" and report.file_meta.MediaStorageSOPInstanceUID == report.SOPInstanceUID
    named = read(RECORDS["of a patient"])
    assert (named.PatientID, str(named.PatientName), named.PatientSex, named.AccessionNumber) == ("4711", "Müller^Änne", "F", "A1")
    assert (named.IssuerOfPatientID, report.IssuerOfPatientID) == ("NORTH", "")


def test_frames_count_from_one_and_stand_once():
    report = read(replace(ANSWERED, images=(CINE, replace(CINE, frame=0), CINE, IMAGE)))
    found = {item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID: item.ReferencedSOPSequence[0] for item in items(report) if item.ValueType == "IMAGE"}
    assert {uid: item.get("ReferencedFrameNumber") for uid, item in found.items()} == {"1.2.6": [1, 3], "1.2.3": None}


def test_the_same_answer_is_the_same_report_and_another_is_another():
    assert structured_report(ANSWERED) == structured_report(ANSWERED)
    assert len({read(record).SOPInstanceUID for record in RECORDS.values()}) == len(RECORDS)


def test_highdicom_reads_it_back():
    report = highdicom.sr.srread(BytesIO(structured_report(ANSWERED)))
    assert isinstance(report, highdicom.sr.Comprehensive3DSR)
    [group] = report.content.get_image_measurement_groups()
    assert [source.referenced_sop_instance_uid for source in group.source_images] == ["1.2.3"]
    assert [(found.name.meaning, found.value.meaning) for found in group.get_qualitative_evaluations()][-1] == ("Which side is the lesion on?", "right")
    [measured] = group.get_measurements()
    assert (measured.name.value, measured.value, measured.unit.value) == ("111012", 82.0, "%")
    [observer] = report.content.get_observer_contexts()
    assert observer.observer_identifying_attributes.model_name == "nano"


def test_a_dicomweb_client_finds_it_after_storing(tmp_path):
    client = pytest.importorskip("dicomweb_client").DICOMfileClient(tmp_path.as_uri(), in_memory=True)
    stored = read(ANSWERED)
    client.store_instances([stored])
    [found] = client.search_for_instances(study_instance_uid="1.2.1", search_filters={"Modality": "SR"})
    assert found["00080018"]["Value"] == [stored.SOPInstanceUID]
    again = client.retrieve_instance("1.2.1", stored.SeriesInstanceUID, stored.SOPInstanceUID)
    assert report_faults(again) == [] and answer(again) == "right"


def test_an_image_of_no_known_class_is_one_sentence():
    image = replace(IMAGE, instance=replace(IMAGE.instance, sop_class_uid="1.2.840.99"))
    with pytest.raises(ImageError, match="the images' headers do not allow a DICOM SR"):
        structured_report(replace(ANSWERED, images=(image,)))


def test_what_is_wrong_with_a_patients_header_is_not_shown():
    with pytest.raises(ImageError, match="or a date or sex") as refused:
        structured_report(replace(ANSWERED, patient=Patient("4711", patient_birth_date="CANARY")))
    assert "CANARY" not in str(refused.value)


# ---------------------------------------------------------------- deliberate faults


def group_of(report):
    return next(item for item in items(report) if name_of(item) == GROUP)


def number_of(report):
    return next(item for item in items(report) if item.ValueType == "NUM")


def no_language(report):
    report.ContentSequence = [item for item in report.ContentSequence if name_of(item) != "121049"]


def eighty_two_hundred(report):
    number_of(report).MeasuredValueSequence[0].NumericValue = 8200


def no_unit(report):
    del number_of(report).MeasuredValueSequence[0].MeasurementUnitsCodeSequence


def forbidden_relationship(report):
    next(item for item in group_of(report).ContentSequence if name_of(item) == "Q-").RelationshipType = "HAS PROPERTIES"


def verified_by_nobody(report):
    report.VerificationFlag = "VERIFIED"


def final(report):
    report.PreliminaryFlag = "FINAL"


def image_of_another_study(report):
    next(item for item in items(report) if item.ValueType == "IMAGE").ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.99"


def two_answers(report):
    content = group_of(report).ContentSequence
    content.append(next(item for item in content if name_of(item) == "Q-"))


# Which of the two programs see it; ours sees all.
FAULTS = {
    no_language: "", eighty_two_hundred: "", no_unit: "dciodvfy dsrdump", forbidden_relationship: "dsrdump", verified_by_nobody: "dciodvfy",
    final: "", image_of_another_study: "dciodvfy", two_answers: "",
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_deliberate_fault_is_found(fault):
    report = read(ANSWERED)
    fault(report)
    assert report_faults(report)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_what_other_programs_see_of_it(tmp_path, fault, program):
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    report = read(ANSWERED)
    fault(report)
    report.save_as(tmp_path / "sr.dcm")
    assert bool(PROGRAMS[program](tmp_path / "sr.dcm")) == (program in FAULTS[fault])


# ---------------------------------------------------------------- the page

PAGE = Path(__file__).resolve().parents[1] / "docs" / "clinical.md"


def test_the_page_says_what_is_so():
    page = PAGE.read_text(encoding="utf-8")
    [block] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {}
    exec(block, names)
    assert report_faults(pydicom.dcmread(BytesIO(names["structured_report"](names["record"])))) == []
    assert names["bundle"](names["record"])["type"] == "transaction"
    assert "Eleven kinds of record" in page and len(RECORDS) == 11
    assert "Fifteen deliberate faults" in page and len(FAULTS) + len(OTHER_FAULTS) == 15
