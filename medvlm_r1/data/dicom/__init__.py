"""DICOM pictures as a viewer shows them (PS3.3 C.11): one frame is decoded, and shown as grey or colour."""

from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageOps

from medvlm_r1.data.dicom.colour import to_colour
from medvlm_r1.data.dicom.grey import to_grey
from medvlm_r1.data.dicom.shape import GREY, INVERTED, shape_of
from medvlm_r1.data.dicom.source import decode, pixels_of, read
from medvlm_r1.errors import ImageError

KEYS = ("frame", "center", "width")


def open_dicom(path: Path, keys: Mapping[str, float]) -> Image.Image:
    """One frame, 8 bit: ``frame`` (from 0, the first if left out); ``center`` and ``width`` replace the file's own window.

    Raises ImageError, and nothing else, for a file that cannot be shown.
    """
    source = read(path)
    elements = source.elements
    keyword = pixels_of(source)
    shape, frame = shape_of(elements, keyword), int(keys.get("frame", 0))
    if not 0 <= frame < shape.number_of_frames:
        raise ImageError(f'image "{path}" has no frame {frame}; it has {shape.number_of_frames}, counted from 0')
    pixels = decode(source, shape, keyword, frame)
    if shape.photometric_interpretation not in GREY:
        return to_colour(pixels, elements, shape, source.big_endian)
    grey = to_grey(pixels, elements.of_frame(frame), keys, source.big_endian)
    return ImageOps.invert(grey) if shape.photometric_interpretation == INVERTED else grey
