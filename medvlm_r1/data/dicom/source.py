"""A DICOM file as header elements and stored values; the one module that calls pydicom."""

import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import Decoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
)

from medvlm_r1.data.dicom.codestream import DECODERS, advice, remedy, require_whole
from medvlm_r1.data.dicom.elements import Elements
from medvlm_r1.data.dicom.shape import Shape, unpacked
from medvlm_r1.data.foreign import errors_as, printable, require_pixels
from medvlm_r1.data.kinds import dicom_start, head_of, not_an_image
from medvlm_r1.errors import ImageError

MAX_INFLATED_BYTES = 64 * 2**20  # of the deflated transfer syntax, which shrinks a thousandfold: 300 MB fit into 300 kB
_UNDEFINED = 0xFFFFFFFF  # the length of an element that is made of fragments
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
# All that a model's picture is made of: no name, no date, no patient.
PICTURE = (
    *("Modality", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit", "DoubleFloatPixelPaddingValue", "DoubleFloatPixelPaddingRangeLimit"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *(f"{kind}{colour}PaletteColorLookupTable{part}" for kind in ("", "Segmented") for colour in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")),
    *PIXELS,
)

# What a header does against the standard is weighed here, element by element; pydicom's warnings would only tell of it on a user's screen.
warnings.filterwarnings("ignore", module=r"pydicom\.")


@dataclass(frozen=True)
class Source:
    """A file's header and how its pixels are coded."""

    elements: Elements
    dataset: pydicom.Dataset
    syntax: UID

    @property
    def big_endian(self) -> bool:
        """PS3.5 A.3 (retired)."""
        return self.syntax == ExplicitVRBigEndian


def read(path: Path, keywords: Sequence[str] = PICTURE) -> Source:
    """These elements of a file. Raises ImageError for one that is no DICOM, cannot be parsed, or unpacks to more than MAX_INFLATED_BYTES."""
    tags = [tag for keyword in keywords if (tag := pydicom.datadict.tag_for_keyword(keyword)) is not None]
    corrupt = f'image "{path}" is truncated or corrupt ({{why}}); copy it again from its source'
    with errors_as(f'image "{path}" cannot be read ({{why}}); check its permissions'):
        start = dicom_start(head_of(path)[0])
        data = path.read_bytes()
    if start is None:
        raise not_an_image(path, *head_of(path), "no DICOM header")
    file = BytesIO(data)
    file.seek(start)
    with errors_as(corrupt):
        meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
        syntax = UID(printable(str(meta.get("TransferSyntaxUID") or "")))
    if syntax == DeflatedExplicitVRLittleEndian:
        file, syntax = BytesIO(_inflate(file.read(), path)), ExplicitVRLittleEndian
    syntax = syntax or _guessed(data[file.tell() : file.tell() + 6])
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    with errors_as(corrupt):
        dataset = read_dataset(file, implicit, little, specific_tags=tags)
    return Source(Elements([dataset], str(path)), dataset, syntax)


def pixels_of(source: Source) -> str:
    """The element that holds the pixels. Raises ImageError where there is none."""
    keyword = next((keyword for keyword in PIXELS if keyword in source.dataset), None)
    if keyword is None:
        kind = source.elements.text("Modality") or "DICOM"
        raise ImageError(f'image "{source.elements.name}" holds no pixels (it is a {kind[:16]} object); drop the question')
    return keyword


def dataset(values: Mapping[str, str]) -> pydicom.Dataset:
    """A data set in memory, by keywords."""
    made = pydicom.Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def _inflate(data: bytes, path: Path) -> bytes:
    """PS3.5 A.5, and no more of it than is allowed."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    with errors_as(f'image "{path}" is truncated or corrupt ({{why}}); copy it again from its source'):
        inflated = unpacker.decompress(data, MAX_INFLATED_BYTES)
    if unpacker.unconsumed_tail:
        raise ImageError(f'image "{path}" unpacks to more than {MAX_INFLATED_BYTES >> 20} MiB; write it without the deflated transfer syntax')
    if not unpacker.eof:
        raise ImageError(f'image "{path}" is truncated or corrupt (its deflated part has no end); copy it again from its source')
    return inflated


def _guessed(first: bytes) -> UID:
    """A data set without a transfer syntax, by its first element: explicit where two capitals follow the tag, big-endian where the group says so."""
    if not first[4:6].isalpha() or not first[4:6].isupper():
        return ImplicitVRLittleEndian
    return ExplicitVRBigEndian if first[0] == 0 and first[1] else ExplicitVRLittleEndian


def decode(source: Source, shape: Shape, keyword: str, frame: int) -> np.ndarray:
    """(rows, columns) or (rows, columns, samples) of one frame as they are stored, YBR colour as RGB. Raises ImageError where no decoder here can."""
    name, syntax = source.elements.name, source.syntax
    require_pixels(shape.columns, shape.rows, name)
    decoder, plugin = _decoder(syntax, name)
    unreadable = f'image "{name}" has pixels that cannot be decoded ({syntax.name}: {{why}}); {remedy(syntax.name, plugin)}'
    element = source.dataset.get_item(keyword)
    if not decoder.is_encapsulated and getattr(element, "length", 0) == _UNDEFINED:
        raise ImageError(f'image "{name}" does not say how its pixels are compressed (no Transfer Syntax UID); write it again with a DICOM tool')
    with errors_as(unreadable):
        value, offsets = bytes(element.value), _offsets(source.dataset)
    if not decoder.is_encapsulated and len(value) < shape.n_bytes:
        said = f"{shape.number_of_frames} x {shape.rows} x {shape.columns} values, of which {len(value)} bytes are there, not {shape.n_bytes}"
        raise ImageError(f'image "{name}" is truncated or corrupt (it says {said}); copy it again from its source')
    if decoder.is_encapsulated and "JPEG" in syntax.name:
        with errors_as(unreadable):
            stream = bytes(get_frame(value, frame, number_of_frames=shape.number_of_frames, extended_offsets=offsets))
        require_whole(stream, (shape.columns, shape.rows), name)
    options = asdict(shape) | {"pixel_keyword": keyword, "pixel_vr": element.VR or "OW", "extended_offsets": offsets, "correct_unused_bits": False}
    del options["high_bit"]
    with errors_as(unreadable):
        values = decoder.as_array(value, index=frame, decoding_plugin=plugin, **options)[0]
    # JPEG-LS and JPEG 2000 code the values, not their cells; pydicom gives them their sign.
    return values if syntax in (*JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes) else unpacked(values, shape)


def _decoder(syntax: UID, name: str) -> tuple[Decoder, str]:
    """pydicom's decoder, and which of its plug-ins is to do it; "" for pixels that are not compressed."""
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise ImageError(f'image "{name}" has the transfer syntax {syntax.name}, which is not read; {advice(syntax.name)}') from error
    plugin = next((known for known in DECODERS if known in decoder.available_plugins), "")
    if decoder.is_encapsulated and not plugin:
        raise ImageError(f'image "{name}" is compressed ({syntax.name}) and no decoder for that is installed; {advice(syntax.name)}')
    return decoder, plugin


def _offsets(dataset: pydicom.Dataset) -> tuple[bytes, bytes] | None:
    """The Extended Offset Table and its lengths (PS3.5 A.4)."""
    tables = [dataset[keyword].value for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths") if keyword in dataset]
    return (tables[0], tables[1]) if len(tables) == 2 and all(tables) else None
