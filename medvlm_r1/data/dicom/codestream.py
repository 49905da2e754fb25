"""What compressed pixels say of themselves, and who decodes them.

A decoder allocates what its input asks for, so the size is read here first.
"""

from medvlm_r1.data.foreign import require_pixels
from medvlm_r1.errors import ImageError, install

# By the name of the transfer syntax. Never GDCM: a damaged stream makes it abort the whole process.
_ADVICE = {
    "High-Throughput JPEG 2000": install("pylibjpeg", "pylibjpeg-openjpeg"),
    "JPEG 2000": install("pylibjpeg", "pylibjpeg-openjpeg"),
    "JPEG-LS": install("pyjpegls"),
    "JPEG ": install("pylibjpeg", "pylibjpeg-libjpeg"),
    "MPEG": "export the frame as PNG",
    "HEVC": "export the frame as PNG",
}
_JP2 = b"\0\0\0\x0cjP  "  # a codestream may come in JP2's boxes
_MOST_BOX_BYTES = 2**16
_ELSE = "decompress the file with a DICOM tool"
DECODERS = ("pylibjpeg", "pyjpegls", "pydicom", "pillow")  # pydicom's names for its plug-ins, the most able first


def advice(syntax: str) -> str:
    """What to do about a transfer syntax that cannot be decoded here.

    >>> advice("JPEG-LS Lossless Image Compression").partition(" -m ")[2]
    'pip install pyjpegls, or decompress the file with a DICOM tool'
    """
    known = next((text for start, text in _ADVICE.items() if syntax.startswith(start)), "")
    return f"{known}, or {_ELSE}" if "pip install" in known else known or _ELSE


def remedy(syntax: str, plugin: str) -> str:
    """What to do about pixels that ``plugin`` could not decode: Pillow reads 8 bits, and little else of what JPEG may be.

    >>> remedy("JPEG Extended (Process 2 and 4)", "pillow").partition(" -m ")[2]
    'pip install pylibjpeg pylibjpeg-libjpeg, or decompress the file with a DICOM tool'
    >>> remedy("JPEG Baseline (Process 1)", "pillow"), remedy("RLE Lossless", "pydicom")
    ('copy it again from its source', 'copy it again from its source')
    """
    return advice(syntax) if plugin == "pillow" and "Baseline" not in syntax else "copy it again from its source"


def require_whole(stream: bytes, size: tuple[int, int], name: str) -> None:
    """Raises ImageError where a JPEG, JPEG-LS or JPEG 2000 stream is not of the ``size`` (columns, rows) that the header says, or is cut short."""
    coded = coded_size(stream)
    if coded is None:
        raise ImageError(f'image "{name}" is truncated or corrupt (its compressed pixels have no header); copy it again from its source')
    require_pixels(*coded, name)
    if coded != size:
        raise ImageError(f'image "{name}" is said to have {size[0]} x {size[1]} pixels and holds {coded[0]} x {coded[1]}; copy it again from its source')
    if _is_jpeg_ls(stream) and not stream.rstrip(b"\0").endswith(b"\xff\xd9"):
        # CharLS takes many seconds to see that a stream is cut, whatever its size.
        raise ImageError(f'image "{name}" is truncated (its JPEG-LS stream has no end); copy it again from its source')


def coded_size(stream: bytes) -> tuple[int, int] | None:
    """(columns, rows) of a JPEG or JPEG-LS (ITU-T T.81 B.2.2, T.87 C.1.2) or of a JPEG 2000 codestream (T.800 A.5.1); None where there is none.

    >>> coded_size(bytes.fromhex("ffd8 ffc0 000b 08 0040 0020 01 01 11 00"))
    (32, 64)
    """
    at = stream.find(b"\xff\x4f\xff\x51", 0, _MOST_BOX_BYTES) if stream.startswith(_JP2) else 0
    if stream[at : at + 4] == b"\xff\x4f\xff\x51":
        right, bottom, left, top = (int.from_bytes(stream[at + k : at + k + 4], "big") for k in (8, 12, 16, 20))
        return right - left, bottom - top
    frame = _frame_header(stream)
    if frame is None:
        return None
    return int.from_bytes(stream[frame + 7 : frame + 9], "big"), int.from_bytes(stream[frame + 5 : frame + 7], "big")


def _is_jpeg_ls(stream: bytes) -> bool:
    frame = _frame_header(stream)
    return frame is not None and stream[frame + 1] == 0xF7


def _frame_header(stream: bytes) -> int | None:
    """Where the first frame header (SOF0 to SOF15, SOF55) of a JPEG stream begins."""
    at = 2 if stream[:2] == b"\xff\xd8" else len(stream)
    while at + 9 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return at
        else:
            at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return None
