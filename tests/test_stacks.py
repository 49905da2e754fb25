"""What is sent of a file before its window: numbers worked out by hand, and nothing that the header does not say."""

import asyncio
import gzip
import hashlib
import json
import re
import struct
from pathlib import Path

import drawn_files as drawn
import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")

import serving_kit  # noqa: E402

from medvlm_r1.data.stacks import load_stack  # noqa: E402
from medvlm_r1.errors import ImageError  # noqa: E402
from medvlm_r1.reading import pictures  # noqa: E402
from medvlm_r1.serving import app  # noqa: E402

PIXELS = np.arange(12, dtype=np.uint16).reshape(3, 4)


def test_samples_are_as_they_are_stored_and_the_line_over_them_is_told(tmp_path):
    values = {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": [40, 50], "WindowWidth": [400, 0], "PixelSpacing": [0.5, 0.25]}
    stack = load_stack(drawn.save_dicom(tmp_path / "a.dcm", PIXELS, **values, ImageOrientationPatient=[1, 0, 0, 0, 1, 0]))
    assert stack.samples.dtype == np.uint16 and stack.samples.tolist() == [PIXELS.tolist()]
    assert (stack.modality, stack.unit, stack.inverted, list(stack.notes)) == ("CT", "HU", False, [])
    assert stack.rules == [{"slope": 2.0, "intercept": -1000.0, "function": "LINEAR", "low": -160.0, "high": 239.0, "window": (40.0, 400.0)}]
    assert stack.windows == [{"center": 40.0, "width": 400.0, "name": ""}]  # the second shows nothing
    plane = stack.planes["frames"]
    assert (plane.count, plane.rows, plane.columns, plane.start, plane.step) == (1, 3, 4, 0, (12, 4, 1))
    assert (plane.spacing, plane.scale, plane.axis) == ((0.5, 0.25), "mm", None)
    assert list(plane.sides) == [{"left": "R", "right": "L", "top": "A", "bottom": "P"}]


def test_each_frame_has_its_own_rule_sides_and_line(tmp_path):
    def group(k):
        values = drawn.item(PixelValueTransformationSequence=[drawn.item(RescaleSlope=k + 1, RescaleIntercept=-k, RescaleType="US")])
        values.FrameVOILUTSequence = [drawn.item(WindowCenter=10 * k + 10, WindowWidth=5)]
        values.PlaneOrientationSequence = [drawn.item(ImageOrientationPatient=[[1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1]][k])]
        values.PixelMeasuresSequence = [drawn.item(PixelSpacing=[1, 1 + k])]
        return values

    stack = load_stack(drawn.save_dicom(tmp_path / "a.dcm", [PIXELS, PIXELS], PerFrameFunctionalGroupsSequence=[group(0), group(1)]))
    assert [(rule["slope"], rule["intercept"], rule["low"]) for rule in stack.rules] == [(1, 0, 7.5), (2, -1, 17.5)] and stack.rule_of_frame == [0, 1]
    plane = stack.planes["frames"]
    assert [(one["left"], one["top"]) for one in plane.sides] == [("R", "A"), ("A", "H")]
    assert (plane.spacing, plane.scale) == (None, "") and "no-spacing" in stack.notes  # no one size of a pixel for all


@pytest.mark.parametrize(("modality", "values", "spacing", "scale"), [
    ("CT", {"PixelSpacing": [1, 2]}, (1, 2), "mm"),
    ("DX", {"PixelSpacing": [1, 2]}, (1, 2), "detector"),
    ("DX", {"PixelSpacing": [1, 2], "PixelSpacingCalibrationType": "GEOMETRY"}, (1, 2), "mm"),
    ("DX", {"PixelSpacing": [1, 2], "ImagerPixelSpacing": [2, 4]}, (1, 2), "mm"),
    ("DX", {"PixelSpacing": [1, 2], "ImagerPixelSpacing": [1, 2]}, (1, 2), "detector"),
    ("MG", {"ImagerPixelSpacing": [0.1, 0.1]}, (0.1, 0.1), "detector"),
    ("US", {"PixelAspectRatio": [2, 1]}, (2, 1), ""),
    ("CT", {"PixelSpacing": [0, 1]}, None, ""),
    ("CT", {"PixelSpacing": [1, 1000]}, None, ""),
    ("CT", {"PixelSpacing": [1]}, None, ""),
])  # fmt: skip
def test_how_large_a_pixel_is(tmp_path, modality, values, spacing, scale):
    plane = load_stack(drawn.save_dicom(tmp_path / "a.dcm", PIXELS, Modality=modality, **values)).planes["frames"]
    assert (plane.spacing, plane.scale) == (spacing, scale)


@pytest.mark.parametrize(
    "broken", [("PixelSpacing", "DS", b"x\\y "), ("ImageOrientationPatient", "DS", b"1\\0\\0\\0\\1 "), ("ImageOrientationPatient", "DS", b"1\\0\\0\\1\\0\\0 ")]
)
def test_a_header_that_cannot_be_understood_says_nothing_and_the_picture_is_shown(tmp_path, broken):
    (tmp_path / "a.dcm").write_bytes(drawn.with_element(drawn.dicom(PIXELS), *broken))
    stack = load_stack(tmp_path / "a.dcm")
    assert list(stack.planes["frames"].sides) == [None] and {"no-sides", "no-spacing"} <= set(stack.notes)


@pytest.mark.parametrize(("modality", "said", "note"), [("US", None, "may-be-burned-in"), ("US", "NO", ""), ("CT", None, ""), ("CT", "YES", "burned-in")])
def test_text_in_the_picture_is_warned_of(tmp_path, modality, said, note):
    values = {"BurnedInAnnotation": said} if said else {}
    stack = load_stack(drawn.save_dicom(tmp_path / "a.dcm", PIXELS, Modality=modality, **values))
    assert [code for code in stack.notes if "burned" in code] == ([note] if note else [])


def test_no_script_of_the_viewer_makes_markup_or_calls_out():
    """Words become text nodes alone: what a file says cannot become an element, whatever reaches the page."""
    static = Path(pictures.__file__).parent / "static"
    for name in ("viewer.js", "hands.js", "controls.js", "surface.js", "stack.js", "window.js"):
        script = (static / name).read_text(encoding="utf-8")
        assert not re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser|https?:|\.style\b|setAttribute\(\"(?:style|on)", script
        ), name


def test_a_volume_is_sent_once_and_cut_three_ways(tmp_path):
    volume = np.arange(24).reshape(2, 3, 4)
    stack = load_stack(drawn.save_nifti(tmp_path / "a.nii.gz", volume, "LPI"))
    assert stack.samples.dtype == np.uint8 and stack.samples.shape == (4, 3, 2)
    flat = stack.samples.ravel()

    def cut(name, number):
        plane = stack.planes[name]
        rows, columns = np.mgrid[: plane.rows, : plane.columns]
        return flat[plane.start + number * plane.step[0] + rows * plane.step[1] + columns * plane.step[2]].tolist()

    # Right, front and head grow: 12, 4 and 1. The patient's right, or front, is on the left; front, or head, is up.
    assert cut("axial", 0) == [[20, 8], [16, 4], [12, 0]]
    assert cut("coronal", 2) == [[23, 11], [22, 10], [21, 9], [20, 8]]
    assert cut("sagittal", 1) == [[23, 19, 15], [22, 18, 14], [21, 17, 13], [20, 16, 12]]
    assert [stack.planes[name].axis for name in ("axial", "coronal", "sagittal")] == [2, 1, 0]


def test_an_oblique_volume_has_two_letters(tmp_path):
    """Turned by 30 degrees about the axis from feet to head: right leads to the front too."""
    path = drawn.save_nifti(tmp_path / "a.nii", np.zeros((2, 3, 4)))
    turned = np.array([[np.cos(np.pi / 6), -np.sin(np.pi / 6), 0, 0], [np.sin(np.pi / 6), np.cos(np.pi / 6), 0, 0], [0, 0, 1, 0]], "<f4")
    data = bytearray(path.read_bytes())
    struct.pack_into("<12f", data, 280, *turned.ravel())  # srow_x, srow_y, srow_z: nifti1.h counts to the right, the front, the head
    path.write_bytes(data)
    sides = load_stack(path).planes["axial"].sides[0]
    assert sides == {"left": "RA", "right": "LP", "top": "AL", "bottom": "PR"}


def test_what_would_unpack_to_too_much_is_refused(tmp_path):
    path = drawn.save_nifti(tmp_path / "a.nii", np.zeros((2, 2, 2)))
    data = bytearray(path.read_bytes())
    struct.pack_into("<8h", data, 40, 3, 1024, 1024, 200, 1, 1, 1, 1)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(bytes(data) + bytes(2**20)))
    with pytest.raises(ImageError):
        load_stack(tmp_path / "b.nii.gz")
    with pytest.raises(ImageError, match=r"too large to be paged through \(12288 MiB unpacked, at most 128\)"):
        load_stack(drawn.save_dicom(tmp_path / "a.dcm", PIXELS, syntax=pydicom.uid.RLELossless, NumberOfFrames=2**20, Rows=64, Columns=96))


def test_the_route_answers_header_and_samples(tmp_path):
    path = drawn.save_dicom(tmp_path / "a.dcm", PIXELS, PatientName="CANARY^JANE", PatientID="CANARY", WindowCenter=5, WindowWidth=10)

    async def go():
        async with serving_kit.opened_files() as files:
            offered = serving_kit.service(files=files)
            built = app.build(offered, [pictures.route(files)])
            transport = serving_kit.httpx.ASGITransport(built, raise_app_exceptions=False)
            async with serving_kit.httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
                return [await http.post("/reading/picture", content=content) for content in (path.read_bytes(), b"", b"GIF89a", path.read_bytes()[:400])]

    found, empty, foreign, cut = asyncio.run(go())
    assert found.status_code == 200 and found.headers["content-type"] == "application/octet-stream" and b"CANARY" not in found.content
    length = int.from_bytes(found.content[:4], "little")
    header = json.loads(found.content[4 : 4 + length])
    assert (4 + length) % 8 == 0 and (header["shape"], header["dtype"], header["kind"]) == ([1, 3, 4], "uint16", "dicom")
    assert np.frombuffer(found.content[4 + length :], "<u2").tolist() == PIXELS.ravel().tolist()
    assert header["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [one.status_code for one in (empty, foreign, cut)] == [400, 415, 400] and "CANARY" not in cut.text
