"""Stored values to colour: palettes, and RGB of any depth (PS3.3 C.7.6.3.1.2)."""

import numpy as np
from PIL import Image

from medvlm_r1.data.dicom.elements import Elements
from medvlm_r1.data.dicom.lut import Table, table_of
from medvlm_r1.data.dicom.shape import PALETTE, Shape
from medvlm_r1.data.window import window
from medvlm_r1.errors import ImageError

_COLOURS = ("Red", "Green", "Blue")


def to_colour(pixels: np.ndarray, elements: Elements, shape: Shape, big_endian: bool) -> Image.Image:
    """8-bit RGB of a frame that is not grey. No window applies to it."""
    return looked_up(pixels, elements, big_endian) if shape.photometric_interpretation == PALETTE else eight_bit(pixels, shape.bits_stored)


def eight_bit(pixels: np.ndarray, bits: int) -> Image.Image:
    """All of a range that may be used, 0 to 2^bits - 1, to 0 to 255.

    >>> eight_bit(np.array([[[0, 2048, 4095]]]), 12).getpixel((0, 0))
    (0, 128, 255)
    """
    return window(pixels, 0, 2**bits - 1)


def looked_up(pixels: np.ndarray, elements: Elements, big_endian: bool) -> Image.Image:
    """Through the palette. Where no entry needs more than 8 bits, 8 is what they have, whatever the descriptor says."""
    tables = [_table(elements, colour, pixels.dtype.kind == "i", big_endian) for colour in _COLOURS]
    bits = 8 if max(int(table.entries.max()) for table in tables) < 256 else max(table.bits for table in tables)
    return eight_bit(np.stack([table.look_up(pixels) for table in tables], axis=-1), bits)


def _table(elements: Elements, colour: str, signed: bool, big_endian: bool) -> Table:
    prefix = f"{colour}PaletteColorLookupTable"
    table = table_of(elements, prefix, signed, big_endian)
    if table is None:
        raise ImageError(f'image "{elements.name}" has no {colour.lower()} palette; correct its header, or drop the question')
    return table
