"""A PNG that is passed on as it is shows what everybody else sees in it; whatever is not plain goes to a process of its own."""

import hashlib
import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from medvlm_r1.data.images import content_hash, load_image
from medvlm_r1.serving.file_client import as_it_is

ROWS = b"".join(bytes([filter]) + bytes(range(filter, filter + 6)) for filter in (0, 1, 2, 3, 4))  # six wide, five high, each filter once


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def made(rows=ROWS, head=(6, 5, 8, 0, 0, 0, 0), before=b"", after=b"", idat=None):
    parts = idat if idat is not None else [zlib.compress(rows)]
    written = b"".join(chunk(b"IDAT", part) for part in parts)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", *head)) + before + written + chunk(b"IEND", b"") + after


def test_a_plain_file_is_passed_on_as_it_is(tmp_path):
    for data in (made(), made(ROWS[:14] * 2, (2, 4, 8, 2, 0, 0, 0)), made(idat=[zlib.compress(ROWS)[:9], b"", zlib.compress(ROWS)[9:]])):
        picture, file = as_it_is(data), tmp_path / "a.png"
        file.write_bytes(data)
        assert picture.png == data and picture.sha256 == hashlib.sha256(data).hexdigest()
        assert (picture.width, picture.height) == load_image(str(file)).size
    # Paeth by hand: 4 in the first row; above 3 and left 0 predict 3, so that the first level of the second is 1 + 3.
    shown = np.asarray(Image.open(io.BytesIO(as_it_is(made(b"\0\3\4\4\1\2", (2, 2, 8, 0, 0, 0, 0))).png)))
    assert shown.tolist() == [[3, 4], [4, 6]]


def test_what_no_pixel_depends_on_is_left_behind():
    unseen = chunk(b"pHYs", bytes(9)) + chunk(b"tIME", bytes(7))
    assert as_it_is(made(before=unseen, after=b"DOE^JANE")).png == made()


def test_a_file_of_many_tiny_parts_is_for_the_file_process():
    whole = zlib.compress(ROWS)
    assert as_it_is(made(idat=[whole, *[b""] * 60])) and as_it_is(made(idat=[whole, *[b""] * 70])) is None
    assert as_it_is(made(before=chunk(b"pHYs", b"") * 70)) is None
    noise = bytes(np.random.default_rng(0).integers(0, 256, 3_000_000, dtype=np.uint8))
    rows = b"".join(b"\0" + noise[n : n + 1000] for n in range(0, len(noise), 1000))
    deflated = zlib.compress(rows, 0)  # parts of four kibibytes, as the smallest that encoders write
    assert as_it_is(made(head=(1000, 3000, 8, 0, 0, 0, 0), idat=[deflated[n : n + 4096] for n in range(0, len(deflated), 4096)]))


BOMB = zlib.compress(bytes(10**8), 9)


@pytest.mark.parametrize("data", [
    b"", b"GIF89a", made()[:-1], made()[:40], made()[:20] + b"\1" + made()[21:], made(ROWS[:-1]), made(ROWS + b"\0"), made(b"\5" + ROWS[1:]),
    made(before=chunk(b"tEXt", b"Raw profile type exif\0")), made(before=chunk(b"tRNS", b"\0\0")), made(before=chunk(b"eXIf", b"II")),
    made(head=(6, 5, 16, 0, 0, 0, 0)), made(head=(6, 5, 8, 0, 0, 0, 1)), made(head=(6, 5, 8, 3, 0, 0, 0)), made(head=(0, 5, 8, 0, 0, 0, 0)),
    made(head=(4097, 4096, 8, 0, 0, 0, 0)), made(idat=[BOMB]), made(idat=[BOMB], head=(4096, 4096, 8, 0, 0, 0, 0)), made(idat=[]),
    made(idat=[zlib.compress(ROWS)[:-4]]), made(idat=[zlib.compress(ROWS) + b"more"]), made(idat=[zlib.compress(ROWS), b"more"]),
])  # fmt: skip
def test_anything_else_is_for_the_file_process(data):
    assert as_it_is(data) is None


def test_what_is_passed_on_shows_what_everybody_sees(tmp_path):
    """Files damaged at random, their sums mended: none that is passed on cannot be opened, or shows anything else."""
    rng, file, accepted = random.Random(0), tmp_path / "a.png", 0
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    for _ in range(300):
        data = io.BytesIO()
        Image.fromarray(noise if rng.random() < 0.5 else noise[..., 0]).save(data, "PNG", compress_level=rng.choice((0, 1, 9)))
        size = len(data.getvalue()) - 57  # of the only IDAT
        body = bytearray(data.getvalue()[41:-16])
        for _ in range(rng.choice((0, 1, 2))):
            body[rng.randrange(size)] = rng.randrange(256)
        head = bytearray(data.getvalue()[16:29])
        if rng.random() < 0.3:
            head[rng.choice((3, 7, 8, 9, 12))] = rng.randrange(12)
        file.write_bytes(data.getvalue()[:8] + chunk(b"IHDR", bytes(head)) + chunk(b"IDAT", bytes(body)) + chunk(b"IEND", b""))
        if picture := as_it_is(file.read_bytes()):
            accepted += 1
            assert content_hash(Image.open(io.BytesIO(picture.png), formats=("PNG",)).convert("RGB")) == content_hash(load_image(str(file)))
    assert 50 < accepted < 250
