"""What a file is, told by its first bytes: names lie, and archives name their files by UID."""

import re
import struct
import zlib
from pathlib import Path

from medvlm_r1.errors import ImageError

_HEAD_BYTES = 8192
_MARKS = {
    rb"\x89PNG\r\n\x1a\n": ".png",
    rb"\xff\xd8\xff": ".jpg",
    rb"II[*+]\0|MM\0[*+]": ".tif",
    rb"BM.{4}\0{4}": ".bmp",
    rb".{344}n[+i]1\0": ".nii",
    rb".{4}n[+i]2\0": ".nii",
}
_OTHERS = (
    (rb"GIF8", "a GIF file", "convert it to PNG"),
    (rb"RIFF....WEBP", "a WebP file", "convert it to PNG"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 file", "convert it to PNG"),
    (rb"PK\x03\x04", "a zip archive", "unpack it"),
    (rb"%PDF", "a PDF document", "export its pictures as PNG"),
    (rb"version https://git-lfs", "a pointer of Git LFS", "fetch the file itself with `git lfs pull`"),
    (rb"\s*<", "a web page or XML text", "download the picture itself"),
)
_SOP_INSTANCE_UID = 0x18  # in group 8; what stands first in a data set comes before it
_VRS = (b"UL", b"OB", b"CS", b"UI", b"DA", b"TM", b"LO", b"SH", b"AE", b"UN")  # of the elements up to there (PS3.6 6, 7)


def head_of(path: Path) -> tuple[bytes, bool]:
    """As many bytes as it takes to know a file, and whether it is compressed with gzip: then they are those inside, as far as they unpack.

    Raises OSError where it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head.startswith(b"\x1f\x8b"):  # RFC 1952 2.3.1
        return head, False
    try:
        return zlib.decompressobj(31).decompress(head, _HEAD_BYTES), True
    except zlib.error:
        return b"", True


def content_kind(head: bytes) -> str:
    """The suffix that a file of these first bytes should have, or "".

    >>> content_kind(b"BM" + bytes(8)), content_kind(bytes(128) + b"DICM"), content_kind(b"GIF89a")
    ('.bmp', '.dcm', '')
    """
    if dicom_start(head) is not None:  # before the others: a DICOM file's first 128 bytes may be those of a TIFF (PS3.10 7.1)
        return ".dcm"
    return next((kind for mark, kind in _MARKS.items() if re.match(mark, head, re.DOTALL)), "")


def not_an_image(path: Path, head: bytes, zipped: bool, lacks: str = "") -> ImageError:
    """The refusal of a file that nobody here reads: says what it is and what to do about it, as far as ``head_of`` tells.

    >>> str(not_an_image(Path("a.png"), b"GIF89a", False))
    'image "a.png" is not an image that is read here (it is a GIF file); convert it to PNG'
    >>> str(not_an_image(Path("a.dcm"), b"?", False, "no DICOM header"))
    'image "a.dcm" is not an image (no DICOM header); replace the file or drop the question'
    """
    what, remedy = next((text for mark, *text in _OTHERS if re.match(mark, head, re.DOTALL)), ("", ""))
    if zipped:
        what, remedy = "compressed with gzip", "unpack it with gunzip"
    if what:
        return ImageError(f'image "{path}" is not an image that is read here (it is {what}); {remedy}')
    return ImageError(f'image "{path}" is not an image{f" ({lacks})" if lacks else ""}; replace the file or drop the question')


def dicom_start(head: bytes) -> int | None:
    """Where a DICOM file's elements begin: 132 (PS3.10 7.1), 4 where the preamble is missing, 0 where its mark is too; None for another file.

    >>> dicom_start(bytes(128) + b"DICM"), dicom_start(b"DICM..."), dicom_start(b"\\x08\\0\\x05\\0CS\\x0a\\0ISO_IR 100"), dicom_start(b"GIF89a")
    (132, 4, 0, None)
    """
    if head[128:132] == b"DICM":
        return 132
    if head[:4] == b"DICM":
        return 4
    return 0 if _is_bare(head) else None


def _is_bare(head: bytes) -> bool:
    """Elements from the first byte on: one of those that a data set begins with, then a value representation or, implicit, a short length."""
    for order in "<>":
        group, number, length = struct.unpack(f"{order}HHL", head[:8].ljust(8, b"\0"))
        if group in (2, 8) and number <= _SOP_INSTANCE_UID and (head[4:6] in _VRS or (order == "<" and length <= 256 and length % 2 == 0 and len(head) > 16)):
            return True
    return False
