"""DICOM files as they are found: empty and wrong elements, odd windows, tables, bits, codings; grey levels worked out by hand."""

import gzip
import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

pydicom = pytest.importorskip("pydicom")

import drawn_files as drawn  # noqa: E402
from pydicom import uid  # noqa: E402

from medvlm_r1.data.images import load_image  # noqa: E402
from medvlm_r1.errors import ImageError  # noqa: E402

STEPS = [[0, 1, 2, 3, 4]]  # with slope 100 and intercept -200: -200 -100 0 100 200
RESCALED = {"RescaleSlope": 100, "RescaleIntercept": -200}
WINDOW = {"WindowCenter": 0, "WindowWidth": 201}
SHOWN = [[0, 1, 128, 255, 255]]  # PS3.3 C.11.2.1.2.1: ((x - (c - 0.5)) / (w - 1) + 0.5) * 255
STRETCHED = [[0, 63, 128, 192, 255]]  # without a window: 0.5 and 99.5 percentiles are -198 and 198, (x + 198) / 396 * 255


@pytest.fixture
def levels(tmp_path):
    """The red of what ``pixels`` are shown as; a data set or bytes may be given instead."""

    def show(pixels, place="", name="a.dcm", **values):
        path = tmp_path / name
        if isinstance(pixels, bytes):
            path.write_bytes(pixels)
        elif isinstance(pixels, pydicom.Dataset):
            pixels.save_as(path, enforce_file_format=True)
        else:
            drawn.save_dicom(path, pixels, **values)
        return np.asarray(load_image(f"{path}{place}"))[..., 0].tolist()

    return show


@pytest.fixture
def refused(levels):
    """One sentence that names the file and holds all ``parts``."""

    def check(pixels, *parts, **values):
        with pytest.raises(ImageError) as caught:
            levels(pixels, **values)
        sentence = str(caught.value)
        assert "\n" not in sentence and sentence.startswith('image "') and "; " in sentence
        assert all(part in sentence for part in parts), sentence

    return check


# ---------------------------------------------------------------- elements that are empty, wrong, or more than one


@pytest.mark.parametrize(
    "keyword",
    ["VOILUTFunction", "NumberOfFrames", "PixelPaddingValue", "PixelPaddingRangeLimit", "HighBit", "BitsStored", "PixelRepresentation",
     "PlanarConfiguration", "SamplesPerPixel", "ModalityLUTSequence", "VOILUTSequence", "SharedFunctionalGroupsSequence"],
)  # fmt: skip
def test_an_empty_element_counts_as_absent(levels, keyword):
    vr = pydicom.datadict.dictionary_VR(keyword)[:2]
    for nothing in (b"", b"  ", b" \\ ") if vr in ("CS", "IS") else (b"",):
        assert levels(drawn.with_element(drawn.dicom(STEPS, **RESCALED, **WINDOW), keyword, vr, nothing)) == SHOWN


def test_slope_and_intercept_may_be_empty_each_for_itself(levels):
    assert levels([[0, 100, 200, 300, 400]], RescaleSlope="", RescaleIntercept=-200, **WINDOW) == SHOWN
    assert levels([[0, 1, 2, 3, 4]], RescaleSlope=100, RescaleIntercept="", WindowCenter=200, WindowWidth=201) == SHOWN
    assert levels([[-200, -100, 0, 100, 200]], dtype=np.int16, RescaleSlope="", RescaleIntercept="", **WINDOW) == SHOWN


@pytest.mark.parametrize("empty", ["WindowCenter", "WindowWidth"])
def test_half_a_window_is_none(levels, empty):
    assert levels(STEPS, **RESCALED, **(WINDOW | {empty: ""})) == STRETCHED


def test_a_voi_lut_sequence_of_empty_items_leaves_the_window(levels):
    half, empty = drawn.item(LUTExplanation="cut"), drawn.lut([3, 0, 16], b"")
    for items in ([drawn.item()], [half], [empty], [half, empty]):
        assert levels(STEPS, **RESCALED, **WINDOW, VOILUTSequence=items) == SHOWN
    assert levels([[0, 1, 2]], **WINDOW, VOILUTSequence=[empty, drawn.lut([3, 0, 8], [0, 51, 255])]) == [[0, 51, 255]]


@pytest.mark.parametrize(
    ("keyword", "vr", "value"),
    [
        ("WindowWidth", "DS", b"wide"),
        ("WindowCenter", "DS", b"40,5"),
        ("RescaleSlope", "DS", b"inf "),
        ("RescaleIntercept", "FD", struct.pack("<d", np.nan)),
        ("RescaleSlope", "LO", b"one "),
        ("Rows", "US", b"\1"),
        ("Columns", "ZZ", b"\5\0"),
        ("Columns", "LO", b"five"),
        ("BitsAllocated", "FD", struct.pack("<d", 8.5)),
        ("NumberOfFrames", "IS", b"1A"),
        ("VOILUTSequence", "LO", b"none"),
        ("ModalityLUTSequence", "US", b"\5\0"),
        ("PixelPaddingValue", "DS", b"none"),
    ],
)
def test_an_element_of_the_wrong_type_is_named(refused, keyword, vr, value):
    values = {} if keyword == "PixelPaddingValue" else WINDOW
    refused(drawn.with_element(drawn.dicom(STEPS, **RESCALED, **values), keyword, vr, value), keyword)


def test_of_several_values_the_first_counts_and_of_several_windows_the_first_that_shows_something(levels):
    assert levels(drawn.with_element(drawn.dicom(STEPS, **RESCALED, **WINDOW), "RescaleSlope", "DS", b"100\\7 ")) == SHOWN
    assert levels(STEPS, **RESCALED, WindowCenter=[7, 0, 9], WindowWidth=[0, 201, 50]) == SHOWN
    assert levels(STEPS, **RESCALED, WindowCenter=[0, 40], WindowWidth=[201]) == SHOWN


@pytest.mark.parametrize(
    ("missing", "part"), [("Rows", "has no Rows"), ("BitsAllocated", "has no BitsAllocated"), ("PhotometricInterpretation", "no PhotometricInterpretation")]
)
def test_what_cannot_be_guessed_is_named(refused, missing, part):
    refused(STEPS, part, **{missing: None})


# ---------------------------------------------------------------- windows


@pytest.mark.parametrize("width", [0, -400])
def test_a_width_that_shows_nothing_is_no_window(levels, width):
    assert levels(STEPS, **RESCALED, WindowCenter=0, WindowWidth=width) == STRETCHED


def test_a_width_below_1_is_linear_without_half_units(levels):
    """Stored 0..4 times 0.05: 0 .. 0.2; (x - (0.1 - 0.1)) / 0.2 * 255."""
    values = {"RescaleSlope": 0.05, "RescaleIntercept": 0}
    assert levels(STEPS, **values, WindowCenter="0.1", WindowWidth="0.2") == [[0, 64, 128, 191, 255]]
    assert levels(STEPS, "#center=0.1&width=0.2", **values) == [[0, 64, 128, 191, 255]]
    assert levels(STEPS, WindowCenter=2, WindowWidth=1) == [[0, 0, 255, 255, 255]]  # all above c - 0.5 is white
    exact = {"WindowCenter": 0.1, "WindowWidth": 0.2, "VOILUTFunction": "LINEAR_EXACT"}
    assert levels(STEPS, **values, **exact) == [[0, 64, 128, 191, 255]]


@pytest.mark.parametrize(
    ("place", "part"),
    [
        ("#center=100&width=0", "write width=1 or more"),
        ("#center=100&width=-5", "write width=1 or more"),
        ("#center=40", "write center=… and width=… together"),
        ("#width=400", "write center=… and width=… together"),
        ("#frame=1.5", "no whole number; write frame=2"),
        ("#center=abc&width=1", 'has "center=abc&width=1" after "#"'),
    ],
)
def test_a_window_that_cannot_be_shown_is_answered_with_one_that_can(refused, place, part):
    refused(STEPS, part, place=place, **WINDOW)


def test_an_unknown_function_is_named_with_the_way_round_it(levels, refused):
    values = RESCALED | WINDOW | {"VOILUTFunction": "CUBIC"}
    refused(STEPS, "VOILUTFunction 'CUBIC'", "#center=0&width=201", **values)
    assert levels(STEPS, "#center=0&width=201", **values) == SHOWN


# ---------------------------------------------------------------- rescale and tables


def test_slope_0_is_no_rescale(levels):
    """dcmtk: "ignoring modality transformation"; -198 and 198 above are 0.02 and 3.98 here."""
    assert levels(STEPS, RescaleSlope=0, RescaleIntercept=7) == STRETCHED
    assert levels([[-200, -100, 0, 100, 200]], dtype=np.int16, RescaleSlope=0, RescaleIntercept=7, **WINDOW) == SHOWN


def test_a_modality_table_beats_the_slope_and_ends_at_its_first_and_last_entry(levels):
    for entries, vr in (([0, 100, 200], "US"), (np.array([0, 100, 200], "<u2").tobytes(), "OW"), (bytes([0, 100, 200, 0]), "OW")):
        table = {"ModalityLUTSequence": [drawn.lut([3, 1, 16], entries, vr)], "WindowCenter": 100, "WindowWidth": 201}
        assert levels(STEPS, **table, **RESCALED) == [[1, 1, 128, 255, 255]]  # 0 0 100 200 200 through 0.5, 100.5, 200.5 of 200


def test_a_table_may_begin_below_0_and_have_65536_entries(levels):
    shown = levels([[-2, -1, 0, 1]], dtype=np.int16, VOILUTSequence=[drawn.lut([3, -1, 8], [0, 51, 255])])
    assert shown == [[0, 0, 51, 255]]
    ramp = np.arange(65536, dtype="<u2").tobytes()
    assert levels([[0, 257, 65535]], VOILUTSequence=[drawn.lut([0, 0, 16], ramp, "OW")]) == [[0, 1, 255]]


def test_a_voi_table_of_12_bits_that_says_16_is_not_black(levels):
    assert levels([[0, 1, 2]], VOILUTSequence=[drawn.lut([3, 0, 16], [0, 819, 4095])]) == [[0, 51, 255]]
    assert levels([[0, 1, 2]], VOILUTSequence=[drawn.lut([3, 0, 16], [0, 13107, 65535])]) == [[0, 51, 255]]


@pytest.mark.parametrize(("descriptor", "part"), [([9, 0, 16], "3 entries of 9"), ([3, 0], "LUTDescriptor [3, 0]"), ([3, 0, 99], "LUTDescriptor [3, 0, 99]")])
def test_a_table_that_contradicts_itself_is_named(refused, descriptor, part):
    refused(STEPS, part, VOILUTSequence=[drawn.lut([*descriptor], [0, 1, 2])])


# ---------------------------------------------------------------- padding, bits, floats


@pytest.mark.parametrize("ends", [(3900, 4095), (4095, 3900)])
def test_a_range_of_padding_is_left_out_of_the_window(levels, ends):
    """C.7.5.1.1.2: inclusive, in either order. The ramp's percentiles are 1005 and 1995, as without padding."""
    ramp = np.arange(1000, 2001)
    alone = levels(ramp[None])
    padded = levels(np.append(ramp, [3900, 4000, 4095] * 100)[None], PixelPaddingValue=ends[0], PixelPaddingRangeLimit=ends[1])
    assert padded[0][:1001] == alone[0] and alone[0][10] == 1 and alone[0][500] == 128


def test_padding_of_signed_pixels_may_be_written_as_unsigned(levels):
    ramp = np.append(np.arange(1000, 2001), [-2000] * 500)[None]
    written = drawn.with_element(drawn.dicom(ramp, dtype=np.int16), "PixelPaddingValue", "US", struct.pack("<H", 65536 - 2000))
    assert levels(written)[0][:1001] == levels(np.arange(1000, 2001)[None])[0]


def test_all_padding_is_still_shown(levels):
    assert levels([[5, 5]], PixelPaddingValue=5) == [[0, 0]]


def test_what_lies_beside_the_stored_bits_is_no_part_of_the_value(levels):
    twelve = {"BitsStored": 12, "HighBit": 11, "WindowCenter": 2048, "WindowWidth": 4096}
    assert levels([[0xF000, 0x4FFF]], **twelve) == [[0, 255]]  # an overlay in the high bits
    high = {"BitsStored": 12, "HighBit": 15, "WindowCenter": 2048, "WindowWidth": 4096}
    assert levels([[0x000F, 0xFFF0]], **high) == [[0, 255]]  # PS3.5 8.1.1: the four low bits are not part of it


def test_the_sign_is_that_of_the_stored_bits(levels):
    """0xFFF of 12 signed bits is -1: through c 0.5, w 3 black is at -1 and white at 1."""
    values = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1, "WindowCenter": 0.5, "WindowWidth": 3}
    assert levels([[0xFFF, 0x000, 0x001]], **values) == [[0, 128, 255]]


@pytest.mark.parametrize(("keyword", "kind", "bits"), [("FloatPixelData", "<f4", 32), ("DoubleFloatPixelData", "<f8", 64)])
def test_float_pixels_are_shown_and_nan_is_black(levels, keyword, kind, bits):
    """C.7.6.24: a window of 2 around 1 takes 0 to -0.5 .. 1.5 in half-units."""
    values = np.array([[0.0, 0.25, 0.5, np.nan, np.inf, -np.inf]], kind)
    floats = {keyword: values.tobytes(), "PixelData": None, "BitsAllocated": bits, "BitsStored": None, "HighBit": None, "PixelRepresentation": None}
    exact = {"WindowCenter": 0.25, "WindowWidth": 0.5}
    assert levels(values.astype(np.uint16) * 0, **floats, **exact) == [[0, 128, 255, 0, 255, 0]]
    padded = floats | {keyword: np.append(np.arange(1001), [-99] * 500).astype(kind).tobytes(), "Columns": 1501}
    padding = {f"{keyword.removesuffix('Data')}PaddingValue": -99.0}
    assert levels([[0]], **padded, **padding)[0][:1001:250] == [0, 63, 128, 192, 255]  # of 5 .. 995


def test_pixels_of_nothing_but_nan_are_refused(refused):
    values = np.full((2, 2), np.nan, "<f4")
    refused(np.zeros((2, 2)), "only NaN", FloatPixelData=values.tobytes(), PixelData=None, BitsAllocated=32)


@pytest.mark.parametrize(("allocated", "stored"), [(12, 12), (16, 20), (24, 24), (16, 0)])
def test_cells_that_are_not_read_are_named(refused, allocated, stored):
    refused(STEPS, f"stores {stored} bits in {allocated}", BitsAllocated=allocated, BitsStored=stored)


def test_pictures_of_1_bit(levels):
    """PS3.5 8.1.1 and D.2: the first pixel is the lowest bit."""
    assert levels([[0] * 8] * 2, PixelData=bytes([0b00000101, 0b10000000]), BitsAllocated=1, BitsStored=1, HighBit=0) == [
        [255, 0, 255, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 255],
    ]


# ---------------------------------------------------------------- colour

RGB = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}


def rgb_of(path):
    return np.asarray(load_image(str(path))).tolist()


def test_colour_of_12_bits_in_16_is_shown_in_full(tmp_path):
    file = drawn.save_dicom(tmp_path / "a.dcm", [[[0, 2048, 4095]]], **RGB, BitsStored=12, HighBit=11)
    assert rgb_of(file) == [[[0, 128, 255]]]


def test_colour_in_planes_and_as_luminance(tmp_path):
    planes = drawn.save_dicom(tmp_path / "p.dcm", [[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8, **RGB | {"PlanarConfiguration": 1})
    assert rgb_of(planes) == [[[1, 3, 5], [2, 4, 6]]]
    # C.7.6.3.1.2: R = Y + 1.402 (Cr - 128), B = Y + 1.772 (Cb - 128), G = Y - 0.344 (Cb - 128) - 0.714 (Cr - 128)
    file = drawn.save_dicom(tmp_path / "y.dcm", [[[100, 128, 128], [100, 138, 118]]], dtype=np.uint8, **RGB | {"PhotometricInterpretation": "YBR_FULL"})
    assert rgb_of(file) == [[[100, 100, 100], [86, 104, 118]]]
    half = drawn.dicom(np.zeros((1, 2, 3)), dtype=np.uint8, **RGB | {"PhotometricInterpretation": "YBR_FULL_422"})
    half.PixelData = bytes([100, 50, 138, 118])  # two luminances, one pair of colours
    half.save_as(tmp_path / "h.dcm", enforce_file_format=True)
    assert rgb_of(tmp_path / "h.dcm") == [[[86, 104, 118], [36, 54, 68]]]


@pytest.mark.parametrize("kind", ["HSV", "CMYK", "ARGB", "YBR_PARTIAL_422", "SEPIA"])
def test_colour_spaces_that_are_not_shown_are_named(refused, kind):
    refused([[[1, 2, 3]]], kind, "convert it to grey or RGB", dtype=np.uint8, **RGB | {"PhotometricInterpretation": kind})


@pytest.mark.parametrize(("kind", "samples"), [("MONOCHROME2", 3), ("PALETTE COLOR", 3), ("RGB", 1), ("RGB", 4)])
def test_samples_that_contradict_the_colour_are_named(refused, kind, samples):
    dataset = drawn.dicom(np.zeros((1, 2, 3)), dtype=np.uint8, **RGB | {"PhotometricInterpretation": kind})
    dataset.SamplesPerPixel = samples
    refused(dataset, f"{kind}, {samples} a pixel")


def test_palettes_of_every_dialect(tmp_path):
    def show(**values):
        return rgb_of(drawn.save_dicom(tmp_path / "a.dcm", [[0, 5, 6, 9]], PhotometricInterpretation="PALETTE COLOR", **values))[0]

    sixteen = drawn.palette([0, 65535], [257, 514], [771, 0], first=5)
    assert show(**sixteen) == [[0, 1, 3], [0, 1, 3], [255, 2, 0], [255, 2, 0]]
    assert show(**drawn.palette([0, 255], [1, 2], [3, 0], first=5)) == show(**sixteen)  # 8 bits that call themselves 16
    # C.7.9.2: a value, a line of three more up to it, in 16 bits
    line = drawn.palette(*[[0, 1, 0, 1, 3, 257 * 30]] * 3, first=5, segmented=True)
    assert show(**line) == [[0, 0, 0], [0, 0, 0], [10, 10, 10], [30, 30, 30]]
    copied = drawn.palette(*[[0, 2, 257, 514, 2, 1, 0, 0]] * 3, first=5, segmented=True)  # the first segment once more
    assert show(**copied) == [[1, 1, 1], [1, 1, 1], [2, 2, 2], [2, 2, 2]]


def test_a_palette_that_cannot_be_read_is_named(refused):
    values = {"PhotometricInterpretation": "PALETTE COLOR"}
    refused([[0]], "has no red palette", **values)
    refused([[0]], "PaletteColorLookupTableData", **values, **drawn.palette(*[[2, 9, 0, 0]] * 3, segmented=True))
    bomb = drawn.palette(*[[0, 1, 0, *[1, 65535, 7] * 50]] * 3, segmented=True)  # 3,300,000 entries
    refused([[0]], "more than 65536 entries", **values, **bomb)


def test_segments_are_those_that_pydicom_expands(tmp_path):
    segments = [0, 3, 100, 60000, 5, 1, 5, 30000, 0, 1, 9, 1, 250, 65000]
    values = {"PhotometricInterpretation": "PALETTE COLOR"} | drawn.palette(*[segments] * 3, segmented=True)
    for colour in ("Red", "Green", "Blue"):
        values[f"{colour}PaletteColorLookupTableDescriptor"] = [259, 0, 16]
    file = drawn.save_dicom(tmp_path / "a.dcm", np.arange(259)[None], **values)
    dataset = pydicom.dcmread(file)
    wanted = pydicom.pixels.apply_color_lut(dataset.pixel_array, dataset)
    assert (np.asarray(load_image(str(file))) == np.rint(wanted / 257)).all()


# ---------------------------------------------------------------- the file around it


@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
@pytest.mark.parametrize("name", ["a.dcm", "IM000001", "1.2.840.113619"])
def test_a_data_set_without_preamble_is_read(levels, implicit, little, name):
    dataset = drawn.dicom(STEPS, **RESCALED, **WINDOW, syntax=uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian)
    assert levels(drawn.bare(dataset, implicit, little), name=name) == SHOWN


def test_the_mark_alone_and_a_preamble_that_is_a_tiffs(levels, tmp_path):
    whole = drawn.save_dicom(tmp_path / "b.dcm", STEPS, **RESCALED, **WINDOW).read_bytes()
    assert levels(whole[128:]) == SHOWN
    assert levels(b"II*\0" + whole[4:], name="a.tif") == SHOWN  # PS3.10 7.1 allows it
    assert levels(whole, name="a.png") == SHOWN


def test_other_files_under_a_dicom_name_are_named(refused):
    refused(b"no header here" * 100, "no DICOM header")
    refused(gzip.compress(b"x" * 500), "compressed with gzip); unpack it")
    refused(b"GIF89a" + bytes(500), "it is a GIF file); convert it to PNG")


def test_a_file_without_transfer_syntax_is_read_unless_it_is_compressed(levels, refused):
    dataset = drawn.dicom(STEPS, **RESCALED, **WINDOW)
    assert levels(drawn.bare(dataset, implicit=False)) == SHOWN
    compressed = drawn.dicom(STEPS, syntax=uid.JPEG2000Lossless, PixelData=pydicom.encaps.encapsulate([b"\xff\x4f"]))
    compressed["PixelData"].is_undefined_length = True
    refused(drawn.bare(compressed, implicit=False), "no Transfer Syntax UID")


def test_the_deflated_syntax_is_unpacked_up_to_64_mib(levels, refused, tmp_path):
    assert levels(STEPS, syntax=uid.DeflatedExplicitVRLittleEndian, **RESCALED, **WINDOW) == SHOWN
    whole = drawn.save_dicom(tmp_path / "b.dcm", STEPS, syntax=uid.DeflatedExplicitVRLittleEndian).read_bytes()
    refused(whole[:-20], "truncated or corrupt")
    packer = zlib.compressobj(6, wbits=-15)
    bomb = packer.compress(drawn.bare(drawn.dicom(STEPS), implicit=False)) + packer.compress(bytes(70 * 2**20)) + packer.flush()
    head = whole[: whole.index(uid.DeflatedExplicitVRLittleEndian.encode()) + len(uid.DeflatedExplicitVRLittleEndian)]
    end = 128 + 4 + 12 + struct.unpack("<L", whole[140:144])[0]
    assert len(head) < end and len(bomb) < 80_000
    refused(whole[:end] + bomb, "unpacks to more than 64 MiB")


def test_numbers_that_would_fill_the_memory_are_refused_first(refused):
    refused(STEPS, "it says 2147483647 x 1 x 5 values", NumberOfFrames=2**31 - 1)
    refused(STEPS, "is too large (65535 x 65535 pixels", Rows=65535, Columns=65535)
    rle = {"syntax": uid.RLELossless, "PixelData": pydicom.encaps.encapsulate([bytes(100)])}
    refused(STEPS, "is too large (20000 x 20000 pixels", Rows=20000, Columns=20000, **rle)
    refused(STEPS, "0 x 1 pixels", Columns=0)


def test_sequences_nested_thousands_deep_are_refused(refused):
    sequence = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 2**32 - 1) + struct.pack("<HHL", 0xFFFE, 0xE000, 2**32 - 1)
    refused(b"DICM" + sequence * 5000, "truncated or corrupt", "recursion")


def test_no_pixels_and_too_few(refused):
    refused(STEPS, "holds no pixels (it is a CT object)", PixelData=None)
    refused(np.zeros((64, 64)), "100 bytes are there, not 8192", PixelData=bytes(100))
    refused(STEPS, "has no frame 5; it has 1", place="#frame=5")


# ---------------------------------------------------------------- compressed pixels

CHEST = np.random.default_rng(0).integers(0, 4096, (32, 48))
TWELVE = {"BitsStored": 12, "HighBit": 11, "WindowCenter": 2048, "WindowWidth": 4096}


def jpeg_2000(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG2000", no_jp2=True)
    return file.getvalue()


def encapsulated(stream, syntax):
    return {"syntax": syntax, "PixelData": pydicom.encaps.encapsulate([stream])}


@pytest.mark.parametrize("name", ["rle", "j2k", "jls"])
def test_lossless_compression_changes_no_level(levels, name):
    pixels = CHEST.astype(np.uint16)
    if name == "rle":
        dataset = drawn.dicom(pixels, **TWELVE)
        dataset.compress(uid.RLELossless)
    elif name == "j2k":
        dataset = drawn.dicom(pixels, **TWELVE | {"BitsStored": 16, "HighBit": 15}, **encapsulated(jpeg_2000(pixels), uid.JPEG2000Lossless))
    else:
        jpeg_ls = pytest.importorskip("jpeg_ls")
        dataset = drawn.dicom(pixels, **TWELVE | {"BitsStored": 16, "HighBit": 15}, **encapsulated(bytes(jpeg_ls.encode_array(pixels)), uid.JPEGLSLossless))
    assert levels(dataset) == levels(pixels, **TWELVE)


def test_a_stream_of_another_size_than_the_headers_is_refused(refused):
    """A decoder allocates what its stream asks for."""
    stream = bytearray(jpeg_2000(np.zeros((8, 8), np.uint8)))
    refused(np.zeros((9, 8)), "is said to have 8 x 9 pixels and holds 8 x 8", dtype=np.uint8, **encapsulated(bytes(stream), uid.JPEG2000Lossless))
    stream[8:16] = struct.pack(">LL", 60000, 60000)
    refused(np.zeros((8, 8)), "is too large (60000 x 60000 pixels", dtype=np.uint8, **encapsulated(bytes(stream), uid.JPEG2000Lossless))
    refused(np.zeros((8, 8)), "compressed pixels have no header", dtype=np.uint8, **encapsulated(bytes(90), uid.JPEGBaseline8Bit))


def test_a_cut_jpeg_ls_stream_is_refused_before_it_is_decoded(refused):
    jpeg_ls = pytest.importorskip("jpeg_ls")
    stream = bytes(jpeg_ls.encode_array(CHEST.astype(np.uint16)))
    refused(CHEST, "stream has no end", **encapsulated(stream[: len(stream) // 2], uid.JPEGLSLossless))


@pytest.mark.parametrize(
    ("syntax", "part"),
    [
        (uid.JPEGExtended12Bit, "pip install pylibjpeg pylibjpeg-libjpeg"),
        (uid.MPEG4HP41, "export the frame as PNG"),
        (uid.UID("1.2.840.113619.5.2"), "transfer syntax 1.2.840.113619.5.2, which is not read; decompress"),
    ],
)
def test_what_cannot_be_decoded_is_named_with_what_to_do(refused, syntax, part):
    """The frame header of a 12-bit JPEG is all that is there."""
    stream = bytes.fromhex("ffd8 ffc1 000b 0c 0020 0030 01 01 11 00 ffda")
    values = {"PixelData": pydicom.encaps.encapsulate([stream]), "BitsStored": 12}
    dataset = drawn.dicom(CHEST, **values)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset["PixelData"].is_undefined_length = True
    refused(b"DICM" + file_meta(dataset) + drawn.bare(dataset, implicit=False), part)


def file_meta(dataset):
    file = pydicom.filebase.DicomBytesIO()
    pydicom.filewriter.write_file_meta_info(file, dataset.file_meta, enforce_standard=False)
    return file.getvalue()


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("module", "syntax", "part"), [("jpeg_ls", uid.JPEGLSLossless, "pip install pyjpegls"), ("pydicom", uid.ExplicitVRLittleEndian, "pip install pydicom")]
)
def test_without_a_decoder_the_sentence_names_it(tmp_path, module, syntax, part):
    file = drawn.save_dicom(tmp_path / "a.dcm", [[1, 2]], syntax=syntax)
    blocked = f"import sys; sys.modules['{module}'] = sys.modules['libjpeg'] = None; from medvlm_r1.data.images import load_image; load_image({str(file)!r})"
    assert part in run_python(blocked).stderr.splitlines()[-1]


def test_pictures_are_read_without_torch():
    """The process that opens users' files is small."""
    code = "import sys, medvlm_r1.data.dicom, medvlm_r1.data.nifti, medvlm_r1.data.images, medvlm_r1.data.probe; print('torch' in sys.modules)"
    assert run_python(code).stdout.strip() == "False"
