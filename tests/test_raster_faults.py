"""PNG, JPEG, TIFF and BMP of every depth, polarity and mode; levels worked out by hand."""

import io
import struct
import zlib

import drawn_files as drawn
import numpy as np
import pytest
from PIL import Image

from medvlm_r1.data import probe
from medvlm_r1.data.images import load_image
from medvlm_r1.errors import ImageError

GREY = np.array([[0, 10, 20, 51], [30, 40, 50, 25]])
STRETCHED = np.array([[0, 50, 100, 255], [150, 200, 250, 125]])  # times 5
TWELVE = np.array([[[0, 819, 4095], [1638, 0, 2457]]])  # 12 bits: 0 51 255, 102 0 153


def shown(path, place=""):
    return np.asarray(load_image(f"{path}{place}"))


def refused(path, *parts, place=""):
    with pytest.raises(ImageError) as caught:
        load_image(f"{path}{place}")
    sentence = str(caught.value)
    assert "\n" not in sentence and str(path) in sentence and all(part in sentence for part in parts), sentence


# ---------------------------------------------------------------- PNG


def test_png_colour_of_12_bits_in_16_is_shown_in_full(tmp_path):
    assert shown(drawn.png16(tmp_path / "a.png", TWELVE)).tolist() == [[[0, 51, 255], [102, 0, 153]]]


def test_png_colour_and_grey_of_16_bits_with_opacity(tmp_path):
    opaque, clear = np.full((1, 2, 1), 65535), np.array([[[65535], [0]]])
    assert shown(drawn.png16(tmp_path / "a.png", np.concatenate([TWELVE, opaque], -1))).tolist() == [[[0, 51, 255], [102, 0, 153]]]
    assert shown(drawn.png16(tmp_path / "b.png", np.concatenate([TWELVE, clear], -1))).tolist() == [[[0, 51, 255], [255, 255, 255]]]
    grey = np.concatenate([TWELVE[..., 1:], opaque], -1)[..., [0, 2]]
    assert shown(drawn.png16(tmp_path / "c.png", grey))[..., 0].tolist() == [[255, 0]]


def test_what_is_transparent_everywhere_is_refused(tmp_path):
    """Of 12 bits in 16, opacity is below a sixteenth: all would be white."""
    refused(drawn.png16(tmp_path / "a.png", np.stack([TWELVE[0], TWELVE[0]], -1)), "transparent everywhere; save it without its alpha")
    Image.new("RGBA", (4, 4), (9, 9, 9, 0)).save(tmp_path / "b.png")
    refused(tmp_path / "b.png", "transparent everywhere")


def test_one_level_or_colour_may_stand_for_nothing(tmp_path):
    assert shown(drawn.png16(tmp_path / "a.png", [[0, 300, 600]], transparent=[300]))[..., 0].tolist() == [[0, 255, 255]]
    assert shown(drawn.png16(tmp_path / "b.png", TWELVE, transparent=[1638, 0, 2457])).tolist() == [[[0, 51, 255], [255, 255, 255]]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_modes_of_8_bits_and_fewer_keep_their_levels(tmp_path, mode):
    image = Image.fromarray(np.array([[0, 255, 255], [0, 0, 255]], np.uint8)).convert(mode)
    image.save(tmp_path / "a.png")
    assert shown(tmp_path / "a.png")[..., 1].tolist() == [[0, 255, 255], [0, 0, 255]]


def test_a_palette_with_a_transparent_entry(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "a.png", transparency=1)
    assert shown(tmp_path / "a.png").tolist() == [[[10, 20, 30], [255, 255, 255]]]


# ---------------------------------------------------------------- TIFF

READ = ["<u1", "<i1", "<u2", "<i2", "<u4", "<i4", "<f4", ">u1", ">i1", ">u2", ">i2", ">i4", ">f4"]


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("kind", READ)
def test_tiff_grey_of_every_type(tmp_path, kind, deflated):
    kind = np.dtype(kind)
    first = {"i": -26, "f": -0.5}.get(kind.kind, 100)  # negative where it can be
    step = {"u1": 1, "i1": 1, "u4": 60_000_000}.get(kind.str[1:], 3)
    file = drawn.tiff(tmp_path / "a.tif", (first + step * GREY).astype(kind.newbyteorder("=")), order=kind.str[0].replace("|", "<"), deflated=deflated)
    wanted = first + GREY if kind.str[1:] == "u1" else STRETCHED
    assert shown(file)[..., 0].tolist() == wanted.tolist()


@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
def test_tiff_in_which_the_least_is_white(tmp_path, kind):
    levels = STRETCHED if kind == "u1" else GREY
    assert shown(drawn.tiff(tmp_path / "a.tif", levels.astype(kind), photometric=0))[..., 0].tolist() == (255 - STRETCHED).tolist()


@pytest.mark.parametrize("turned", [False, True])
def test_tiff_nan_is_background(tmp_path, turned):
    levels = GREY.astype(np.float32)
    levels[0, 1] = np.nan
    wanted = 255 - STRETCHED if turned else STRETCHED.copy()
    wanted[0, 1] = 0
    assert shown(drawn.tiff(tmp_path / "a.tif", levels, photometric=0 if turned else 1))[..., 0].tolist() == wanted.tolist()
    refused(drawn.tiff(tmp_path / "b.tif", levels * np.nan), "only NaN")


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_colour_of_12_bits_in_16(tmp_path, order, deflated):
    file = drawn.tiff(tmp_path / "a.tif", TWELVE.astype(np.uint16), order=order, deflated=deflated)
    assert shown(file).tolist() == [[[0, 51, 255], [102, 0, 153]]]


@pytest.mark.parametrize("deflated", [False, True])
def test_tiff_colour_in_planes(tmp_path, deflated):
    colour = np.stack([GREY, GREY + 1, GREY + 2], -1)
    assert (shown(drawn.tiff(tmp_path / "a.tif", colour.astype(np.uint8), planes=True, deflated=deflated)) == colour).all()
    refused(
        drawn.tiff(tmp_path / "b.tif", colour.astype(np.uint16), planes=True, deflated=deflated), "16-bit colour of a kind that is not read (RGB, in planes)"
    )


def test_tiff_kinds_that_are_not_read_are_refused(tmp_path):
    for kind in ("<f8", "<c8"):
        levels = np.asarray(GREY, "<f8") if kind == "<f8" else GREY.astype("<u8")
        refused(drawn.tiff(tmp_path / "a.tif", levels), "is a TIF file that is damaged or stores its pixels in a rare way", "convert it to PNG")
    four = np.stack([GREY] * 4, -1)
    refused(drawn.tiff(tmp_path / "b.tif", four.astype(np.uint16), photometric=5), "16-bit colour of a kind that is not read (CMYK")
    Image.new("LAB", (4, 4)).save(tmp_path / "c.tif")
    refused(tmp_path / "c.tif", "colour space LAB", "convert it to RGB")


def test_tiff_ink_is_turned_into_light(tmp_path):
    ink = np.zeros((1, 2, 4), np.uint8)
    ink[0, 1] = 255, 0, 0, 0
    Image.fromarray(ink, "CMYK").save(tmp_path / "a.tif")
    assert shown(tmp_path / "a.tif").tolist() == [[[255, 255, 255], [0, 255, 255]]]


def test_pages_of_a_tiff_are_named_like_frames(tmp_path):
    file = drawn.tiff(tmp_path / "a.tif", (GREY + 100).astype(np.uint8), pages=3)
    assert [shown(file, place)[0, 0, 0] for place in ("", "#frame=0", "#frame=1", "#frame=2")] == [100, 100, 99, 98]
    refused(file, "has no frame 3; it has 3, counted from 0", place="#frame=3")
    refused(file, 'unknown key "slice"', place="#slice=3")
    deep = drawn.tiff(tmp_path / "b.tif", TWELVE.astype(np.uint16), pages=2)
    assert shown(deep, "#frame=1").shape == (1, 2, 3)


# ---------------------------------------------------------------- other files, large files


def test_the_content_says_what_a_file_is(tmp_path):
    Image.fromarray(GREY.astype(np.uint8)).save(tmp_path / "a.bmp")
    for name in ("a.png", "b.jpg", "c.dcm", "d.nii.gz", "scan", "e.jfif"):
        (tmp_path / name).write_bytes((tmp_path / "a.bmp").read_bytes())
        assert shown(tmp_path / name)[..., 0].tolist() == GREY.tolist()


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"GIF89a", "(it is a GIF file); convert it to PNG"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "(it is a WebP file); convert it to PNG"),
        (b"\n<!DOCTYPE html><html>404</html>", "(it is a web page or XML text); download"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "(it is a pointer of Git LFS); fetch"),
        (b"PK\3\4", "(it is a zip archive); unpack it"),
        (b"\x1f\x8b\x08\0", "(it is compressed with gzip); unpack it"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "is a PNG file that is damaged"),
    ],
)
def test_other_content_is_named_with_what_to_do(tmp_path, data, part):
    (tmp_path / "a.png").write_bytes(data)
    refused(tmp_path / "a.png", part)


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_a_picture_too_large_to_decode_is_refused(tmp_path, side):
    Image.new("1", (8, 8)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    head = data[12:16] + struct.pack(">LL", side, side) + data[24:29]  # PNG 11.2.2: IHDR, then its checksum
    (tmp_path / "a.png").write_bytes(data[:12] + head + struct.pack(">L", zlib.crc32(head)) + data[33:])
    refused(tmp_path / "a.png", "is too large (")
    with pytest.raises(ImageError, match="is too large"):
        probe.size_of(str(tmp_path / "a.png"))


def test_the_size_is_that_of_the_header(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (30, 20)).save(file, "JPEG")
    (tmp_path / "a.png").write_bytes(file.getvalue()[:-20])  # enough for its size, not for its pixels
    assert probe.size_of(str(tmp_path / "a.png")) == (30, 20)
    (tmp_path / "b.png").write_bytes(b"GIF89a")
    with pytest.raises(ImageError, match="a GIF file"):
        probe.size_of(str(tmp_path / "b.png"))
