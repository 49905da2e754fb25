"""An answer as a FHIR bundle: its references, its marks, and what two validators say of it."""

import copy
import json
from dataclasses import replace

import pytest
from clinical_checks import ANSWERED, RECORDS, bundle_faults, node_fhir, node_has_fhir

from medvlm_r1.clinical.bundle import bundle


def resource(found, kind):
    return next(entry["resource"] for entry in found["entry"] if entry["resource"]["resourceType"] == kind)


def models():
    return pytest.importorskip("fhir.resources.R4B.bundle").Bundle


@pytest.mark.parametrize("name", RECORDS)
def test_references_resolve_and_every_answer_is_marked(name):
    assert bundle_faults(bundle(RECORDS[name])) == []


@pytest.mark.parametrize("name", RECORDS)
def test_the_models_of_r4b_take_it(name):
    models().model_validate(json.loads(json.dumps(bundle(RECORDS[name]))))


def test_npms_fhir_takes_it(tmp_path):
    if not node_has_fhir():
        pytest.skip("npm's fhir is not where node looks")
    for name, record in RECORDS.items():
        (tmp_path / "bundle.json").write_text(json.dumps(bundle(record)), encoding="utf-8")
        assert node_fhir(tmp_path / "bundle.json") == [], name


VALUES = {
    "answered": ({"text": "right"}, 82.0),
    "not calibrated": ({"text": "right"}, None),
    "free text": ("A nodule [31mon the left.\nIt is small.", None),
    "abstained": ("asked-unknown", None),
    "contradicted": ("unknown", None),
    "unparsed": ("error", None),
    "accepted": ({"text": "right"}, 82.0),
    "rejected": ("unknown", None),
    "supplemented": ({"text": "right"}, 82.0),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_with_its_certainty_or_the_reason_why_there_is_none(name):
    found = resource(bundle(RECORDS[name]), "Observation")
    certainty = [part["valueQuantity"]["value"] for part in found.get("component", []) if "valueQuantity" in part]
    absent = found.get("dataAbsentReason", {}).get("coding", [{}])[0].get("code")
    assert (found.get("valueCodeableConcept") or found.get("valueString") or absent, next(iter(certainty), None)) == VALUES[name]


def test_what_the_report_says():
    found = resource(bundle(RECORDS["contradicted"]), "DiagnosticReport")
    assert found["conclusion"] == "No answer: it contradicts its own thought or an earlier reading.\nResearch use only. Not for diagnosis."
    assert "<p>Warning: The thought names A) left.</p>" in found["text"]["div"]
    assert "&lt;anything&gt; &amp; more" in resource(bundle(RECORDS["long, of several"]), "DiagnosticReport")["text"]["div"]
    assert "SECRET THOUGHT" not in json.dumps(bundle(ANSWERED)) and "SECRET THOUGHT" in json.dumps(bundle(ANSWERED, reasoning=True))


def test_who_said_it_of_which_images_and_who_looked_at_it():
    found = resource(bundle(RECORDS["long, of several"]), "Provenance")
    assert [entity["what"]["identifier"]["value"] for entity in found["entity"]] == ["urn:oid:1.2.3", "urn:oid:1.2.6", "urn:oid:1.9.3"]
    assert "frame 3" in found["entity"][1]["what"]["display"] and len(found["agent"]) == 1
    assert resource(bundle(RECORDS["rejected"]), "Provenance")["agent"][1]["who"] == {"display": "reader-7"}
    assert "subject" not in resource(bundle(ANSWERED), "Observation")
    of_one = RECORDS["of a patient"]
    assert resource(bundle(of_one), "Observation")["subject"]["identifier"] == {"value": "4711", "assigner": {"display": "NORTH"}}
    unissued = replace(of_one, patient=replace(of_one.patient, issuer_of_patient_id=""))
    assert resource(bundle(unissued), "Observation")["subject"]["identifier"] == {"value": "4711"}


def test_posted_twice_it_is_created_once():
    first, again = bundle(ANSWERED), bundle(ANSWERED)
    assert first == again
    named = [entry["request"]["ifNoneExist"] for entry in first["entry"][:3]]
    assert named == [f"identifier=urn:ietf:rfc:3986|{entry['fullUrl']}" for entry in first["entry"][:3]]
    others = bundle(RECORDS["rejected"])
    assert [entry["fullUrl"] == other["fullUrl"] for entry, other in zip(first["entry"], others["entry"], strict=True)] == [True, False, False, False]


# ---------------------------------------------------------------- deliberate faults


def dangling(found):
    resource(found, "DiagnosticReport")["result"][0]["reference"] = "urn:uuid:00000000-0000-4000-8000-000000000000"


def final(found):
    resource(found, "Observation")["status"] = "final"


def no_such_status(found):
    resource(found, "DiagnosticReport")["status"] = "nonsense"


def no_code(found):
    del resource(found, "Observation")["code"]


def unmarked(found):
    del resource(found, "Observation")["meta"]


def value_and_reason(found):
    resource(found, "Observation")["dataAbsentReason"] = {"text": "none"}


def no_such_field(found):
    resource(found, "Device")["colour"] = "blue"


# Who sees it: our check, fhir.resources, npm's fhir; none sees all.
FAULTS = {
    dangling: "ours", final: "ours", no_such_status: "ours npm", no_code: "models npm", unmarked: "ours", value_and_reason: "ours", no_such_field: "models npm",
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_deliberate_fault_is_found(fault):
    found = copy.deepcopy(bundle(ANSWERED))
    fault(found)
    assert bool(bundle_faults(found)) == ("ours" in FAULTS[fault])


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_what_the_models_see_of_it(fault):
    found = copy.deepcopy(bundle(ANSWERED))
    fault(found)
    if "models" in FAULTS[fault]:
        with pytest.raises(ValueError):
            models().model_validate(found)
    else:
        models().model_validate(found)


def test_what_npms_fhir_sees_of_it(tmp_path):
    if not node_has_fhir():
        pytest.skip("npm's fhir is not where node looks")
    for fault, seen in FAULTS.items():
        found = copy.deepcopy(bundle(ANSWERED))
        fault(found)
        (tmp_path / "bundle.json").write_text(json.dumps(found), encoding="utf-8")
        assert bool(node_fhir(tmp_path / "bundle.json")) == ("npm" in seen), fault.__name__
