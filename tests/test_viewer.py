"""The viewer in a browser, over the server's own route: what is painted is what the model is shown, to the byte."""

import hashlib
import itertools
import struct

import drawn_files as drawn
import numpy as np
import pytest

pytest.importorskip("playwright.sync_api", reason="the viewer is tried in a browser: pip install playwright")
pydicom = pytest.importorskip("pydicom")
for decoder in ("jpeg_ls", "openjpeg"):
    pytest.importorskip(decoder)

import viewer_kit  # noqa: E402
from test_pydicom_files import REFUSED, dicom_files  # noqa: E402

from medvlm_r1.data.images import load_image  # noqa: E402
from medvlm_r1.errors import ImageError  # noqa: E402

pytestmark = pytest.mark.skipif(viewer_kit.CHROMIUM is None, reason="no Chromium here: nobody has looked at the viewer")

RNG = np.random.default_rng(7)
NOISE = RNG.integers(0, 4096, (24, 40), dtype=np.uint16)
SIGNED = RNG.integers(-2000, 2000, (24, 40)).astype(np.int16)
RESCALED = {"RescaleSlope": 1.7, "RescaleIntercept": -1024.3}
AXIAL = [1, 0, 0, 0, 1, 0]


@pytest.fixture(scope="module")
def desk():
    with viewer_kit.Desk() as desk:
        yield desk


@pytest.fixture(scope="module")
def browser():
    with viewer_kit.browser() as found:
        yield found


@pytest.fixture(scope="module")
def seen(browser, desk):
    seen = viewer_kit.Seen(browser, desk)
    yield seen
    assert seen.faults == []  # nothing was refused by the policy, and no script failed
    assert all(url.startswith((desk.address, "data:")) for url in seen.asked)


def different(seen, reference, what="shown"):
    """How many pixels are not as the model is shown them."""
    theirs = np.asarray(load_image(str(reference)).convert("RGBA"))
    if seen.digest(what) == hashlib.sha256(theirs.tobytes()).hexdigest():
        return 0
    rows, columns, data = getattr(seen, what)()
    assert (rows, columns) == theirs.shape[:2]
    return int((np.frombuffer(data, np.uint8).reshape(rows, columns, 4) != theirs).any(axis=-1).sum())


def opened(seen, path):
    assert seen.open(path.read_bytes(), path.name) is None
    return path


# ---------------------------------------------------------------- the same bytes

LUT = [drawn.lut([4096, 0, 12], (4095 - np.arange(4096) ** 2 // 4096).tolist())]
FRAMES = {
    "PerFrameFunctionalGroupsSequence": [
        drawn.item(
            FrameVOILUTSequence=[drawn.item(WindowCenter=1000 + 500 * k, WindowWidth=800 + 100 * k)],
            PixelValueTransformationSequence=[drawn.item(RescaleSlope=1 + k, RescaleIntercept=-k, RescaleType="US")],
        )
        for k in range(3)
    ]
}
GREY = {
    "monochrome1": (NOISE, {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 2000, "WindowWidth": 3000}),
    "signed": (SIGNED, {"dtype": np.int16, **RESCALED, "WindowCenter": 40, "WindowWidth": 400}),
    "several windows": (SIGNED, {"dtype": np.int16, "RescaleIntercept": 0, "RescaleSlope": 1, "WindowCenter": ["40", "-600"], "WindowWidth": ["400", "1500"]}),
    "linear exact": (NOISE, {**RESCALED, "WindowCenter": 900.5, "WindowWidth": 333.3, "VOILUTFunction": "LINEAR_EXACT"}),
    "sigmoid": (NOISE, {**RESCALED, "WindowCenter": 900, "WindowWidth": 1200, "VOILUTFunction": "SIGMOID"}),
    "narrow": (NOISE, {"RescaleSlope": 0.0001, "RescaleIntercept": 0, "WindowCenter": 0.2, "WindowWidth": 0.25}),
    "one level": (NOISE, {"WindowCenter": 2000, "WindowWidth": 1}),
    "table": (NOISE, {"VOILUTSequence": LUT}),
    "table, inverted, signed": (SIGNED, {"dtype": np.int16, "VOILUTSequence": [drawn.lut([100, -50, 10], list(range(0, 1000, 10)))], "PhotometricInterpretation": "MONOCHROME1"}),
    "table over halves": (NOISE, {"RescaleSlope": 0.5, "RescaleIntercept": 0, "VOILUTSequence": [drawn.lut([2048, 0, 8], (np.arange(2048) * 37 % 256).tolist())]}),
    "halves of a level": (NOISE, {"WindowCenter": 255, "WindowWidth": 510, "VOILUTFunction": "LINEAR_EXACT"}),
    "modality table": (NOISE, {"ModalityLUTSequence": [drawn.lut([4096, 0, 16], (np.arange(4096) * 15 % 65536).tolist())], "WindowCenter": 9000, "WindowWidth": 20000}),
    "no window": (NOISE, {"PixelPaddingValue": 7}),
    "no window, signed": (SIGNED, {"dtype": np.int16, **RESCALED}),
    "twelve bits and an overlay": (NOISE | 0x8000, {"BitsStored": 12, "HighBit": 11, "WindowCenter": 2000, "WindowWidth": 4000}),
    "bytes": (NOISE % 256, {"dtype": np.uint8, "WindowCenter": 90, "WindowWidth": 100}),
    "float": (NOISE, {"FloatPixelData": (NOISE / 7).astype("<f4").tobytes(), "PixelData": None, "BitsAllocated": 32, "WindowCenter": 300, "WindowWidth": 500}),
    "frames": (np.stack([NOISE, NOISE[::-1], NOISE // 2]), FRAMES),
    "frames without a window": (np.stack([NOISE, NOISE // 3]), {}),
}  # fmt: skip


@pytest.mark.parametrize("case", GREY)
def test_grey_dicom_is_painted_as_the_model_is_shown_it(tmp_path, seen, case):
    pixels, values = GREY[case]
    path = opened(seen, drawn.save_dicom(tmp_path / "a.dcm", pixels, **values))
    for frame in range(len(pixels) if pixels.ndim == 3 else 1):
        seen.run(f"viewer.go({frame})")
        assert different(seen, f"{path}#frame={frame}") == different(seen, f"{path}#frame={frame}", "drawn") == 0
    for center, width in ((40, 400), (-600.5, 1500.25), (0.2, 0.5), (1000, 1), (255.5, 511)):
        seen.run(f"viewer.own = {{center: {center}, width: {width}}}, viewer.later('paint')")
        assert different(seen, f"{path}#frame={frame}&center={center}&width={width}") == 0


def coloured():
    rgb = RNG.integers(0, 256, (24, 40, 3), dtype=np.uint8)
    words = {"dtype": np.uint8, "SamplesPerPixel": 3, "PlanarConfiguration": 0}
    ramp = (np.arange(16) * 4000).tolist()
    yield "rgb", rgb, words | {"PhotometricInterpretation": "RGB"}
    yield "ybr", rgb, words | {"PhotometricInterpretation": "YBR_FULL"}
    yield "palette", NOISE % 16, {"PhotometricInterpretation": "PALETTE COLOR", **drawn.palette(ramp, ramp[::-1], [65535] * 16)}
    segments = [[0, 2, 10, 20, 1, 2, 50]] * 3
    yield "segments", NOISE % 4, {"PhotometricInterpretation": "PALETTE COLOR", **drawn.palette(*segments, segmented=True)}


@pytest.mark.parametrize("case", list(coloured()), ids=lambda case: case[0])
def test_colour_comes_decoded(tmp_path, seen, case):
    _, pixels, values = case
    path = opened(seen, drawn.save_dicom(tmp_path / "a.dcm", pixels, **values))
    assert different(seen, path) == different(seen, path, "drawn") == 0
    seen.run("viewer.setWindow(90, 100)")
    assert different(seen, path) > 100 and seen.place() == {}  # on this screen only: no window of the model's applies to colour
    assert "not what the model is shown" in seen.text("said")


def test_run_length_coding(tmp_path, seen):
    dataset = drawn.dicom(np.stack([NOISE, NOISE[:, ::-1]]), WindowCenter=2000, WindowWidth=3000)
    dataset.compress(pydicom.uid.RLELossless, encoding_plugin="pydicom")
    dataset.save_as(tmp_path / "a.dcm")
    path = opened(seen, tmp_path / "a.dcm")
    assert different(seen, path) == 0
    seen.run("viewer.go(1)")
    assert different(seen, f"{path}#frame=1") == 0


FILES = [path for path in dicom_files() if path.name not in REFUSED and not path.name.startswith("chr")]


@pytest.mark.parametrize("part", range(12))
def test_pydicoms_own_files(seen, part):
    """JPEG 2000, JPEG-LS, JPEG, RLE, palettes, doses, big-endian, one bit: each frame's first and last."""
    n_shown = 0
    for path in FILES[part::12]:
        try:
            load_image(str(path))
        except ImageError:
            assert seen.open(path.read_bytes())["status"] == 400, path
            continue
        opened(seen, path)
        assert different(seen, path) == 0, path
        last = seen.page.evaluate("viewer.count") - 1
        if last:
            seen.run("viewer.go(viewer.count)")
            assert different(seen, f"{path}#frame={last}") == 0, path
        n_shown += 1
    assert n_shown >= 5


def volume(seed=3, shape=(9, 11, 7)):
    return np.random.default_rng(seed).normal(100, 300, shape)


@pytest.mark.parametrize("case", [
    ("<i2", {}), ("<i2", {"cal_min": -100, "cal_max": 350}), ("<f4", {}), ("<f8", {}), ("u1", {}), ("<u2", {}), ("<i4", {}),
    ("<i2", {"scl_slope": 0.37, "scl_inter": -11.3}),
])  # fmt: skip
@pytest.mark.parametrize("orientation", ["RAS", "LPI"])
def test_nifti_in_three_planes(tmp_path, seen, case, orientation):
    kind, header = case
    path = drawn.save_nifti(tmp_path / "a.nii", np.abs(volume()) if "u" in kind else volume(), orientation, np.dtype(kind), **header)
    opened(seen, path)
    for plane, axis, count in (("axial", 2, 7), ("coronal", 1, 11), ("sagittal", 0, 9)):
        seen.run(f"viewer.turnTo('{plane}')")
        assert seen.place() == {"axis": axis, "slice": count // 2}
        for number in (0, count // 2, count - 1):
            seen.run(f"viewer.go({number})")
            assert different(seen, f"{path}#axis={axis}&slice={number}") == 0
        seen.run("viewer.setWindow(80, 350)")
        assert different(seen, f"{path}#axis={axis}&slice={count - 1}&center=80&width=350") == 0
        seen.run("viewer.reset()")


def test_values_that_are_no_numbers_are_black(tmp_path, seen):
    values = volume()
    values[0, 0, 0], values[1, 1, 1], values[2, 2, 2] = np.nan, np.inf, -np.inf
    path = opened(seen, drawn.save_nifti(tmp_path / "a.nii", values, kind=np.float32))
    for number in range(3):
        seen.run(f"viewer.go({number})")
        assert different(seen, f"{path}#axis=2&slice={number}") == 0


def test_pictures_without_a_header(tmp_path, seen):
    rgb = RNG.integers(0, 256, (30, 50, 4), dtype=np.uint8)
    from PIL import Image

    Image.fromarray(rgb).save(tmp_path / "alpha.png")
    Image.fromarray(rgb[..., :3]).save(tmp_path / "a.jpg")
    Image.fromarray(rgb[..., 0]).save(tmp_path / "grey.png")
    drawn.png16(tmp_path / "deep.png", NOISE)
    for name in ("alpha.png", "a.jpg", "grey.png", "deep.png"):
        path = opened(seen, tmp_path / name)
        assert different(seen, path) == different(seen, path, "drawn") == 0
        assert [seen.text(edge) for edge in ("left", "right", "top", "bottom")] == [""] * 4 and seen.place() == {}
    path = opened(seen, drawn.tiff(tmp_path / "a.tif", NOISE.astype(np.uint8), pages=3))
    seen.run("viewer.go(2)")
    assert different(seen, f"{path}#frame=2") == 0 and seen.place() == {"frame": 2}


# ---------------------------------------------------------------- sides


@pytest.mark.parametrize("row", list(itertools.product((-1, 1), range(3))))
@pytest.mark.parametrize("flip", (-1, 1))
def test_sides_of_dicom_follow_where_its_pixels_lie(tmp_path, seen, row, flip):
    """A bright block in the first corner: where it lies in the patient, by C.7.6.2.1.1's own equation, is what the letters there say."""
    sign, axis = row
    along, down = np.zeros(3), np.zeros(3)
    along[axis], down[(axis + 1) % 3] = sign, flip
    pixels = np.zeros((30, 20), np.uint16)
    pixels[:10, :5] = 100
    values = {"WindowCenter": 50, "WindowWidth": 100, "PixelSpacing": [2, 3], "ImagePositionPatient": [0, 0, 0]}
    path = opened(seen, drawn.save_dicom(tmp_path / "a.dcm", pixels, **values, ImageOrientationPatient=[*along, *down]))
    rows, columns, data = seen.shown()
    assert np.frombuffer(data, np.uint8).reshape(rows, columns, 4)[:10, :5, 0].min() == 255 and path  # the block is at the left and the top
    first, last = np.zeros(3), along * 3 * 19 + down * 2 * 29  # of the first and the last pixel, in mm to the left, the back, the head
    for edges, direction in ((("left", "right"), along), (("top", "bottom"), down)):
        axis = int(np.flatnonzero(direction)[0])
        lower, upper = ("R", "A", "F")[axis], ("L", "P", "H")[axis]
        assert [seen.text(edge) for edge in edges] == ([lower, upper] if first[axis] < last[axis] else [upper, lower])


@pytest.mark.parametrize("orientation", ["RAS", "LAS", "LPI", "PIR", "ASL"])
def test_sides_of_nifti_in_three_planes(tmp_path, seen, orientation):
    """One bright block at the patient's right, front and head, wherever it is stored."""
    body = np.zeros((8, 10, 12))
    body[6:, 7:, 9:] = 100  # RAS+: the ends of right, front and head
    opened(seen, drawn.save_nifti(tmp_path / "a.nii", body, orientation, cal_min=0, cal_max=100))
    for plane, number, letters in (("axial", 10, "RA"), ("coronal", 8, "RH"), ("sagittal", 7, "AH")):
        seen.run(f"viewer.turnTo('{plane}'), viewer.go({number})")
        rows, columns, data = seen.shown()
        bright = np.argwhere(np.frombuffer(data, np.uint8).reshape(rows, columns, 4)[..., 0] == 255)
        across, up = ("left", "right")[int(bright[:, 1].mean() > columns / 2)], ("top", "bottom")[int(bright[:, 0].mean() > rows / 2)]
        assert seen.text(across) + seen.text(up) == letters
        opposite = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
        assert seen.text(opposite[across]) + seen.text(opposite[up]) == letters.translate(str.maketrans("RAH", "LPF"))


def test_a_side_that_the_file_does_not_say_is_not_guessed(tmp_path, seen):
    """Affine codes of 0 mean that the header knows no orientation (nifti1.h); two answers of one DICOM header are none."""
    unsaid = bytearray(drawn.save_nifti(tmp_path / "a.nii", volume()).read_bytes())
    struct.pack_into("<hh", unsaid, 252, 0, 0)
    assert seen.open(bytes(unsaid)) is None
    assert [seen.text(edge) for edge in ("left", "right", "top", "bottom")] == [""] * 4
    assert "does not say which side" in seen.text("notes")
    opened(seen, drawn.save_dicom(tmp_path / "a.dcm", NOISE, ImageOrientationPatient=AXIAL, PatientOrientation=["R", "P"]))
    assert seen.text("left") == "" and "contradicts itself" in seen.text("notes")
    opened(seen, drawn.save_dicom(tmp_path / "a.dcm", NOISE, PatientOrientation=["A", "FR"]))
    assert [seen.text(edge) for edge in ("left", "right", "top", "bottom")] == ["P", "A", "HL", "FR"]
    for wrong in (["A", "A"], ["A", "P"], ["LR", "F"], ["<b>", "F"], ["A"]):
        opened(seen, drawn.save_dicom(tmp_path / "a.dcm", NOISE, PatientOrientation=wrong))
        assert seen.text("left") == ""
