"""How a picture's stored values lie in its pixel data (PS3.3 C.7.6.3): all that has to be known to decode them."""

from dataclasses import dataclass

import numpy as np

from medvlm_r1.data.dicom.elements import Elements
from medvlm_r1.errors import ImageError

INVERTED = "MONOCHROME1"  # the least value is white
GREY = (INVERTED, "MONOCHROME2")
PALETTE = "PALETTE COLOR"
RGB = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")  # decoded to RGB
_FLOAT_BITS = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}


@dataclass(frozen=True)
class Shape:
    """The Image Pixel module as plain numbers; the names are also those of pydicom's decoding options, but for ``high_bit``.

    >>> shape = Shape(512, 512, 1, "MONOCHROME2", 16, 12, 11, 0, 0, 1)
    >>> shape.shift, shape.n_bytes
    (4, 524288)
    """

    rows: int
    columns: int
    samples_per_pixel: int
    photometric_interpretation: str
    bits_allocated: int
    bits_stored: int
    high_bit: int
    pixel_representation: int
    planar_configuration: int
    number_of_frames: int

    @property
    def shift(self) -> int:
        """By how many bits a value moves to the left for its highest bit to become the cell's."""
        return self.bits_allocated - 1 - self.high_bit

    @property
    def n_bytes(self) -> int:
        """Of all frames, not compressed; YBR_FULL_422 leaves out every other pair of colours (C.7.6.3.1.2)."""
        n_values = self.rows * self.columns * self.samples_per_pixel * self.number_of_frames
        bits = n_values * self.bits_allocated
        return -(-(bits // 3 * 2 if self.photometric_interpretation == "YBR_FULL_422" else bits) // 8)


def shape_of(elements: Elements, keyword: str) -> Shape:
    """Of the pixels in the element ``keyword``. Raises ImageError where the header contradicts itself or leaves open what is shown.

    What can only have one value may be missing: one sample for grey and palettes, three for colour, all bits stored, one frame.
    """
    kind = elements.text("PhotometricInterpretation")
    if not kind:
        raise ImageError(f'image "{elements.name}" does not say what its values mean (no PhotometricInterpretation); correct its header')
    wanted = 1 if kind in (*GREY, PALETTE) else 3
    if kind not in (*GREY, PALETTE, *RGB) or elements.integer("SamplesPerPixel", wanted) != wanted:
        found = f"{kind[:40]}, {elements.integer('SamplesPerPixel', wanted)} a pixel"
        raise ImageError(f'image "{elements.name}" has values that are not shown ({found}); convert it to grey or RGB')
    allocated = _FLOAT_BITS.get(keyword) or elements.integer("BitsAllocated")
    stored = elements.integer("BitsStored", allocated) if keyword == "PixelData" else allocated
    if allocated not in (1, 8, 16, 32, 64) or not 1 <= stored <= allocated:
        raise ImageError(f'image "{elements.name}" stores {stored} bits in {allocated}, which is not read; convert it to 8 or 16 bits')
    high = elements.integer("HighBit", stored - 1)
    return Shape(
        rows=elements.integer("Rows"),
        columns=elements.integer("Columns"),
        samples_per_pixel=wanted,
        photometric_interpretation=kind,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high if stored <= high + 1 <= allocated else stored - 1,
        pixel_representation=int(elements.integer("PixelRepresentation", 0) == 1 and wanted == 1),
        planar_configuration=elements.integer("PlanarConfiguration", 0),
        number_of_frames=max(elements.integer("NumberOfFrames", 1), 1),
    )


def unpacked(values: np.ndarray, shape: Shape) -> np.ndarray:
    """Cells to values: what lies beside the stored bits (overlays, in old files) is dropped, and the sign spread (PS3.5 8.1.1).

    >>> cells = np.array([0xF123, 0x0FFF], np.uint16)
    >>> unpacked(cells, Shape(1, 2, 1, "MONOCHROME2", 16, 12, 11, 0, 0, 1)).tolist()
    [291, 4095]
    >>> unpacked(cells.view(np.int16), Shape(1, 2, 1, "MONOCHROME2", 16, 12, 11, 1, 0, 1)).tolist()
    [291, -1]
    """
    if values.dtype.kind not in "iu" or shape.bits_stored == shape.bits_allocated:
        return values
    return (values << shape.shift) >> (shape.bits_allocated - shape.bits_stored)
