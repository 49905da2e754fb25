"""DICOM pictures as a viewer shows them (PS3.3 C.11): one frame is decoded, and shown as grey or colour."""

from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageOps

from medvlm_r1.data.dicom.colour import eight_bit, looked_up
from medvlm_r1.data.dicom.grey import to_grey
from medvlm_r1.data.dicom.shape import GREY, PALETTE, shape_of
from medvlm_r1.data.dicom.source import PIXELS, decode, read
from medvlm_r1.errors import ImageError

KEYS = ("frame", "center", "width")


def open_dicom(path: Path, keys: Mapping[str, float]) -> Image.Image:
    """One frame, 8 bit: ``frame`` (from 0, the first if left out); ``center`` and ``width`` replace the file's own window.

    Raises ImageError, and nothing else, for a file that cannot be shown.
    """
    source = read(path)
    elements = source.elements
    keyword = next((keyword for keyword in PIXELS if keyword in source.dataset), None)
    if keyword is None:
        kind = elements.text("Modality") or "DICOM"
        raise ImageError(f'image "{path}" holds no pixels (it is a {kind[:16]} object); drop the question')
    shape, frame = shape_of(elements, keyword), int(keys.get("frame", 0))
    if not 0 <= frame < shape.number_of_frames:
        raise ImageError(f'image "{path}" has no frame {frame}; it has {shape.number_of_frames}, counted from 0')
    pixels = decode(source, shape, keyword, frame)
    kind = shape.photometric_interpretation
    if kind == PALETTE:
        return looked_up(pixels, elements, source.big_endian)
    if kind not in GREY:
        return eight_bit(pixels, shape.bits_stored)
    grey = to_grey(pixels, elements.of_frame(frame), keys, source.big_endian)
    return ImageOps.invert(grey) if kind == "MONOCHROME1" else grey
