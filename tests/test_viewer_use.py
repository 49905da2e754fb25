"""The viewer as it is used: keys, mouse, lengths, presets, words; and files that mean harm."""

import drawn_files as drawn
import numpy as np
import pytest
from test_viewer import AXIAL, NOISE, SIGNED, browser, desk, different, opened, seen, volume  # noqa: F401

pytest.importorskip("playwright.sync_api", reason="the viewer is tried in a browser: pip install playwright")
pydicom = pytest.importorskip("pydicom")

import viewer_kit  # noqa: E402

pytestmark = pytest.mark.skipif(viewer_kit.CHROMIUM is None, reason="no Chromium here: nobody has looked at the viewer")
CT = {"dtype": np.int16, "RescaleSlope": 1, "RescaleIntercept": -1000, "WindowCenter": [40, -600], "WindowWidth": [400, 1500]}


def press(seen, *keys):  # noqa: F811
    seen.page.locator(".viewer-stage").focus()
    for key in keys:
        seen.page.keyboard.press(key)
    seen.run("0")


def point(seen, column, row):  # noqa: F811
    """Where the middle of a pixel lies in the window of the browser."""
    x, y = seen.run(f"(() => {{ const p = viewer.surface.place; return [p.x + ({column} + 0.5) * p.sx, p.y + ({row} + 0.5) * p.sy]; }})()")
    box = seen.page.locator(".viewer-canvas").bounding_box()
    return box["x"] + x, box["y"] + y


def test_keys_for_everything(tmp_path, seen):  # noqa: F811
    path = opened(seen, drawn.save_dicom(tmp_path / "a.dcm", np.stack([SIGNED] * 30), **CT))
    press(seen, "ArrowDown", "ArrowRight", "PageDown", "]")
    assert seen.text("where") == "Frame 14/30" and seen.place() == {"frame": 13}
    press(seen, "ArrowUp", "[", "Home")
    assert seen.place() == {}
    press(seen, "End")
    assert seen.text("where") == "Frame 30/30"
    press(seen, "w", "ArrowRight", "ArrowUp", "Escape")  # 2 % wider, then 2 % of it brighter
    assert seen.place() == {"frame": 29, "center": 32, "width": 408} and seen.text("window") == "WL 32 WW 408"
    assert different(seen, f"{path}#frame=29&center=32&width=408") == 0
    press(seen, "i")
    assert seen.text("window") == "WL 32 WW 408, inverted" and seen.place() == {"frame": 29, "center": 32, "width": 408}
    assert "not for the model" in seen.text("said")
    before = seen.run("viewer.surface.scale")
    press(seen, "+", "+", "-", "Shift+ArrowRight")
    assert seen.run("viewer.surface.scale") == pytest.approx(before * 1.25)
    press(seen, "1")
    assert seen.text("zoom") == "100 %"
    press(seen, "r")
    assert seen.text("window") == "WL 40 WW 400" and seen.run("viewer.surface.scale") == before and seen.place() == {"frame": 29}
    assert different(seen, f"{path}#frame=29") == 0


def test_presets_are_the_files_and_for_hounsfield_units_the_usual_ones(tmp_path, seen):  # noqa: F811
    named = {**CT, "WindowCenterWidthExplanation": ["BRAIN", "DOE JANE"]}  # free text: what is no known word is not shown
    opened(seen, drawn.save_dicom(tmp_path / "a.dcm", SIGNED, **named))
    labels = seen.page.locator(".viewer-presets option").all_text_contents()
    assert labels[:3] == ["File: BRAIN", "File: window 2", "Brain"] and {"Lung", "Bone", "Liver"} < set(labels)
    press(seen, "p")
    assert seen.place() == {"center": -600, "width": 1500}
    seen.page.locator(".viewer-presets").select_option(label="Bone")
    seen.run("0")
    assert seen.text("window") == "WL 400 WW 1800"
    seen.page.locator(".viewer-presets").select_option(index=0)
    seen.run("0")
    assert seen.place() == {}
    for changes in ({"Modality": "MR"}, {"RescaleType": "US"}, {"RescaleIntercept": ""}, {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}):
        opened(seen, drawn.save_dicom(tmp_path / "a.dcm", SIGNED, **{**CT, **changes}))
        assert "Lung" not in seen.page.locator(".viewer-presets option").all_text_contents() and seen.page.evaluate("viewer.header.unit") == ""


def test_values_below_the_pointer(tmp_path, seen):  # noqa: F811
    opened(seen, drawn.save_dicom(tmp_path / "a.dcm", SIGNED, **CT))
    seen.page.mouse.move(*point(seen, 7, 3))
    assert seen.text("value") == f"{int(SIGNED[3, 7]) - 1000} HU"
    opened(seen, drawn.save_dicom(tmp_path / "a.dcm", SIGNED, dtype=np.int16, Modality="MR"))
    seen.page.mouse.move(*point(seen, 39, 23))
    assert seen.text("value") == str(SIGNED[23, 39])
    seen.page.mouse.move(5, 300)
    assert seen.text("value") == ""


def test_a_length_is_in_mm_where_the_file_says_how_large_a_pixel_is(tmp_path, seen):  # noqa: F811
    opened(seen, drawn.save_dicom(tmp_path / "a.dcm", NOISE, PixelSpacing=[2, 0.5]))
    assert seen.run("viewer.surface.place.sy / viewer.surface.place.sx") == 4
    seen.page.locator(".viewer-drag").select_option("length")
    seen.page.mouse.click(*point(seen, 4, 3))
    seen.page.mouse.click(*point(seen, 10, 5))  # 6 columns of 0.5 mm and 2 rows of 2 mm: 3, 4, 5
    assert seen.page.evaluate("viewer.mm") == pytest.approx(5, abs=0.1) and seen.text("said") == "5.0 mm"
    press(seen, "l", "Enter", *["ArrowRight"] * 3, "Shift+ArrowRight", "Enter")
    assert seen.text("said") == "6.5 mm"  # 13 columns
    press(seen, "Escape")
    assert seen.page.evaluate("viewer.surface.lines.length") == 0
    opened(seen, drawn.save_dicom(tmp_path / "a.dcm", NOISE, Modality="DX", ImagerPixelSpacing=[0.1, 0.1]))
    press(seen, "l", "Enter", "ArrowRight", "Enter")
    assert seen.text("said") == "0.1 mm at the detector"
    opened(seen, drawn.save_dicom(tmp_path / "a.dcm", NOISE, PixelAspectRatio=[2, 1]))
    press(seen, "l")
    assert "does not say how large" in seen.text("said") and seen.run("viewer.surface.aspect") == 2
    assert seen.page.locator(".viewer-drag option[value=length]").is_disabled()


@pytest.mark.parametrize(("unit", "mm"), [(2, "2.0 mm"), (3, "0.0 mm"), (0, "")])
def test_a_volumes_unit_of_length(tmp_path, seen, unit, mm):  # noqa: F811
    opened(seen, drawn.save_nifti(tmp_path / "a.nii", volume(), xyzt_units=unit))
    press(seen, "l", *(["Enter", "ArrowRight", "Enter"] if mm else []))
    assert mm in seen.text("said") if mm else "does not say" in seen.text("said")


def test_dragging_and_the_wheel(tmp_path, seen):  # noqa: F811
    opened(seen, drawn.save_dicom(tmp_path / "a.dcm", np.stack([SIGNED] * 3), **CT))
    seen.page.locator(".viewer-drag").select_option("window")
    x, y = point(seen, 20, 12)
    seen.page.mouse.move(x, y)
    seen.page.mouse.down()
    seen.page.mouse.move(x + 125, y + 20)
    seen.page.mouse.up()
    assert seen.place() == {"center": 60, "width": round(400 * np.exp(0.5))}
    seen.page.mouse.wheel(0, 100)
    seen.until("viewer.number === 1")
    seen.page.locator(".viewer-drag").select_option("pan")
    before = seen.run("viewer.surface.place")
    seen.page.mouse.down()
    seen.page.mouse.move(x + 155, y + 30)
    seen.page.mouse.up()
    after = seen.run("viewer.surface.place")
    assert (after["x"] - before["x"], after["y"] - before["y"]) == (30, 10)
    assert seen.page.evaluate("places.at(-1).frame") == 1  # the page is told
    seen.page.locator(".viewer-drag").select_option("window")


def test_a_screen_reader_is_told_frame_and_window(tmp_path, seen):  # noqa: F811
    opened(seen, drawn.save_nifti(tmp_path / "a.nii", volume(), cal_min=0, cal_max=100))
    seen.until("document.querySelector('#aloud').textContent === 'Axial 4 of 7. Window level 50.5, width 101.'")
    press(seen, "v", "ArrowDown", "i")
    seen.until("document.querySelector('#aloud').textContent === 'Coronal 7 of 11. Window level 50.5, width 101, inverted.'")
    stage = seen.page.locator(".viewer-stage")
    stage.focus()
    press(seen, "Shift+Tab", "Tab")
    assert stage.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
    named = "[...document.querySelectorAll('#viewer button, #viewer select, #viewer input, .viewer-stage')].every((e) => e.ariaLabel || e.textContent.trim() || e.labels?.[0]?.textContent.trim())"
    assert seen.page.evaluate(named)


def test_a_large_picture_is_whole_once_it_rests(tmp_path, seen):  # noqa: F811
    """While its window moves, means of blocks are painted, or 1:1 the part in sight, as it will be; then all of it."""
    large = np.kron(np.arange(300 * 250).reshape(300, 250) % 4096, np.ones((6, 6), int))
    path = opened(seen, drawn.save_dicom(tmp_path / "a.dcm", large, WindowCenter=2000, WindowWidth=4000))
    seen.run("viewer.setWindow(1000, 1500)")
    assert seen.page.evaluate("viewer.surface.part.image.width") == 1500 // 2
    assert different(seen, f"{path}#center=1000&width=1500") == 0
    seen.run("viewer.oneToOne(), viewer.move(31, -17)")
    unlike = """(() => { const [part, x, y, width, height] = viewer.surface.sketch(...viewer.through), {columns} = viewer.surface.frame; let n = 0;
      for (let r = 0; r < height; r++) for (let c = 0; c < width; c++) n += part.pixels[r * width + c] !== viewer.surface.whole.pixels[(y + r) * columns + x + c];
      return [n, width < 1500 && height < 1800]; })()"""
    assert seen.page.evaluate(unlike) == [0, True]


# ---------------------------------------------------------------- harm

CANARIES = {
    "PatientName": "CANARY^JANE",
    "PatientID": "CANARY-4711",
    "PatientBirthDate": "19010203",
    "AccessionNumber": "CANARYACC",
    "StudyDate": "19991231",
    "ReferringPhysicianName": "CANARY^DOC",
}
MARKUP = "<img src=x onerror=alert(1)>"


def test_no_word_of_a_file_becomes_markup_or_leaves_the_server(tmp_path, seen, desk):  # noqa: F811
    hostile = {
        "WindowCenterWidthExplanation": [MARKUP, "CANARY JANE"],
        "Modality": "<B>CANARY",
        "RescaleType": MARKUP[:16],
        "StudyDescription": MARKUP,
        **CANARIES,
    }
    dataset = drawn.dicom(SIGNED, **{**CT, **hostile, "ImageType": ["<script>", "CANARY"]})
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    data = (tmp_path / "a.dcm").read_bytes()
    assert seen.open(data, f"{MARKUP}CANARY.dcm") is None
    seen.run("viewer.mark({x0: 0.1, y0: 0.1, x1: 0.5, y1: 0.5}, '<b>here</b>')")
    assert seen.text("label") == "<b>here</b>" and seen.page.locator("#viewer img, #viewer script, #viewer b").count() == 0
    page, header = seen.page.content(), seen.page.evaluate("JSON.stringify(viewer.header)")
    for words in ("CANARY", "onerror", "19010203", "19991231"):
        assert words not in page and words not in header and not any(words in line for line in desk.log)
    assert "CANARY" not in seen.page.title() and not any("CANARY" in url for url in seen.asked)


@pytest.mark.parametrize(("data", "status"), [(b"GIF89a" + bytes(100), 415), (b"", 400), (b"\x89PNG\r\n\x1a\nCANARY", 400), (bytes(128) + b"DICMCANARY", 400)])
def test_what_cannot_be_opened_is_told_in_our_own_words(seen, data, status):  # noqa: F811
    error = seen.open(data)
    assert error["status"] == status and "CANARY" not in error["message"] and "; " in error["message"]
    assert seen.page.evaluate("viewer.stack") is None and seen.place() == {}


def test_a_stack_that_is_too_large_is_refused_before_it_is_decoded(seen):  # noqa: F811
    dataset = drawn.dicom(NOISE, syntax=pydicom.uid.RLELossless, NumberOfFrames=2**20)
    file = pydicom.filebase.DicomBytesIO()
    dataset.save_as(file, enforce_file_format=True)
    error = seen.open(file.getvalue())
    assert error["status"] == 413 and "too large" in error["message"]


def test_the_last_of_two_files_wins(tmp_path, seen):  # noqa: F811
    first, second = (drawn.save_dicom(tmp_path / f"{n}.dcm", NOISE[:n]).read_bytes() for n in (8, 16))
    rows = seen.page.evaluate(
        "async (files) => { await Promise.all(files.map((bytes) => viewer.open(new Blob([new Uint8Array(bytes)])))); return viewer.header.shape[1]; }",
        [list(first), list(second)],
    )
    assert rows == 16
    seen.page.evaluate("viewer.close()")
    assert seen.place() == {} and seen.page.evaluate("viewer.file") is None
