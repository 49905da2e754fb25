"""Images by their UIDs, a study's folder, and whose images they are."""

import pytest
from drawn_files import RAMP, save_dicom

pytest.importorskip("pydicom")

from medvlm_r1.data.study import Instance, Patient, images_in, instance, patient
from medvlm_r1.errors import DataError, ImageError

CT = "1.2.840.10008.5.1.4.1.1.2"


def image(path, study="1.2.1", **values):
    return str(save_dicom(path, RAMP, StudyInstanceUID=study, SeriesInstanceUID=f"{study}.1", **values))


def test_an_image_is_known_by_its_uids(tmp_path):
    name = image(tmp_path / "a.dcm", SOPInstanceUID="1.2.3", SeriesNumber=2, InstanceNumber=7)
    assert instance(f"{name}#center=40&width=400") == Instance("1.2.1", "1.2.1.1", CT, "1.2.3", 1, (2, 7))


@pytest.mark.parametrize(("values", "part"), [
    ({"StudyInstanceUID": ""}, "no StudyInstanceUID"), ({"SOPInstanceUID": "1.02.3"}, "the SOPInstanceUID '1.02.3', which is no UID"),
])  # fmt: skip
def test_a_header_without_them_is_one_sentence(tmp_path, values, part):
    dataset = {"StudyInstanceUID": "1.2.1", "SeriesInstanceUID": "1.2.2"} | values
    with pytest.raises(ImageError, match=part):
        instance(str(save_dicom(tmp_path / "a.dcm", RAMP, **dataset)))


def test_a_png_has_none(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ImageError, match="has no UIDs by which a report could name it"):
        instance(str(tmp_path / "a.png"))


def test_a_folder_is_read_in_the_order_of_its_series_and_images(tmp_path):
    for name, series, number in (("z", 1, 1), ("a", 1, 10), ("b", 1, 2), ("c", 2, 1)):
        image(tmp_path / name, SeriesNumber=series, InstanceNumber=number, SOPInstanceUID=f"1.2.{series}.{number}")
    (tmp_path / "notes.txt").write_text("no picture", encoding="utf-8")
    save_dicom(tmp_path / "report.dcm", RAMP, Rows=None, StudyInstanceUID="1.7")  # no image
    assert [path.rsplit("/")[-1] for path in images_in(tmp_path)] == ["z", "b", "a", "c"]
    assert [path.rsplit("/")[-1] for path in images_in(tmp_path, 2)] == ["z", "c"]


def test_a_folder_of_two_studies_or_of_nothing_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no image"):
        images_in(tmp_path)
    image(tmp_path / "a.dcm")
    image(tmp_path / "b.dcm", study="1.2.9")
    with pytest.raises(DataError, match="holds images of 2 studies"):
        images_in(tmp_path)


def test_a_report_is_about_one_patient_whose_name_no_message_shows(tmp_path):
    first = image(tmp_path / "a.dcm", SpecificCharacterSet="ISO_IR 192", PatientID="CANARY-1", PatientName="Müller^Änne", StudyDate="20261101")
    other = image(tmp_path / "b.dcm", PatientID="CANARY-2")
    assert patient([first]) == Patient("CANARY-1", "Müller^Änne", study_date="20261101")
    assert "CANARY" not in repr(patient([first]))
    with pytest.raises(DataError, match="are of two patients") as refused:
        patient([first, other])
    assert "CANARY" not in str(refused.value)
    issued = [image(tmp_path / f"{name}.dcm", PatientID="CANARY-1", IssuerOfPatientID=name) for name in ("NORTH", "SOUTH")]
    assert patient([first, issued[0]]).patient_id == "CANARY-1"
    with pytest.raises(DataError, match="are of two patients"):
        patient(issued)
    nobodys = [image(tmp_path / f"{name}.dcm", PatientID="", PatientName=name) for name in ("DOE^JANE", "ROE^RICHARD", "Doe^Jane^")]
    assert patient(nobodys[::2]).patient_name == "DOE^JANE"
    with pytest.raises(DataError, match="are of two patients"):
        patient(nobodys[:2])
