"""DICOM pictures as a viewer shows them: modality LUT, then VOI LUT or window, then polarity (PS3.3 C.11)."""

from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, apply_windowing, pixel_array

from medvlm_r1.data.window import percentiles, window
from medvlm_r1.errors import ImageError

KEYS = ("frame", "center", "width")
_GREY = ("MONOCHROME1", "MONOCHROME2")


def open_dicom(path: Path, keys: dict[str, int]) -> Image.Image:
    """One frame, 8 bit: ``frame`` (from 0, the first if left out); ``center`` and ``width`` replace the file's own window.

    Raises ImageError for a file without pixels, a frame that is not there, or a compression without a decoder here.
    """
    try:
        dataset = pydicom.dcmread(path)
    except pydicom.errors.InvalidDicomError as error:
        raise ImageError(f'image "{path}" is not an image (no DICOM header); replace the file or drop the question') from error
    if "PixelData" not in dataset:
        raise ImageError(f'image "{path}" holds no pixels (it is a {dataset.get("Modality", "DICOM")} object); drop the question')
    n_frames, frame = int(dataset.get("NumberOfFrames") or 1), keys.get("frame", 0)
    if not 0 <= frame < n_frames:
        raise ImageError(f'image "{path}" has no frame {frame}; it has {n_frames}, counted from 0')
    pixels = _decode(dataset, frame, path)
    kind = dataset.PhotometricInterpretation
    if kind == "PALETTE COLOR":
        return _eight_bit(apply_color_lut(pixels, dataset))
    if kind not in _GREY:
        return _eight_bit(pixels, int(dataset.BitsStored))
    grey = to_grey(pixels, _with_frame_values(dataset, frame), keys)
    return Image.eval(grey, lambda level: 255 - level) if kind == "MONOCHROME1" else grey


def to_grey(pixels: np.ndarray, dataset: pydicom.Dataset, keys: dict[str, int]) -> Image.Image:
    """Stored values to 8 bit. Without a window in the file: the 0.5 to 99.5 percentiles of the rescaled values, padding left out."""
    values = apply_modality_lut(pixels, dataset)
    if "width" in keys:
        return _windowed(values, keys.get("center", 0), keys["width"], "LINEAR")
    if dataset.get("VOILUTSequence"):
        bits = dataset.VOILUTSequence[0].LUTDescriptor[2]
        return window(apply_voi(np.rint(values).astype(np.int64), dataset), 0, 2**bits - 1)
    if _first(dataset, "WindowWidth") is not None and _first(dataset, "WindowCenter") is not None:
        function = dataset.get("VOILUTFunction") or "LINEAR"
        return _windowed(values, _first(dataset, "WindowCenter"), _first(dataset, "WindowWidth"), function)
    padding = dataset.get("PixelPaddingValue")
    inside = values if padding is None or (pixels == padding).all() else values[pixels != padding]
    return window(values, *percentiles(inside))


def _windowed(values: np.ndarray, center: float, width: float, function: str) -> Image.Image:
    # pydicom scales to the range of the stored bits; a header of its own makes that 0 to 255.
    display = pydicom.Dataset()
    display.PhotometricInterpretation, display.BitsStored, display.PixelRepresentation = "MONOCHROME2", 8, 0
    display.WindowCenter, display.WindowWidth, display.VOILUTFunction = center, width, function
    return Image.fromarray(np.rint(apply_windowing(values, display)).astype(np.uint8))


def _first(dataset: pydicom.Dataset, name: str) -> float | None:
    """A file may name several windows; viewers start with the first."""
    value = dataset.get(name)
    if value is None or value == "":
        return None
    return float(value[0] if isinstance(value, pydicom.multival.MultiValue) else value)


def _with_frame_values(dataset: pydicom.Dataset, frame: int) -> pydicom.Dataset:
    """Enhanced objects keep rescale and window per frame, or shared by all (PS3.3 C.7.6.16); here they stand on top."""
    merged = pydicom.Dataset()
    merged.update(dataset)
    merged.file_meta = dataset.file_meta
    shared, per_frame = (dataset.get(f"{name}FunctionalGroupsSequence") or [] for name in ("Shared", "PerFrame"))
    for groups in [*shared[:1], *per_frame[frame : frame + 1]]:
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in groups.get(name) or []:
                merged.update(item)
    return merged


def _decode(dataset: pydicom.Dataset, frame: int, path: Path) -> np.ndarray:
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise ImageError(f'image "{path}" does not say how its pixels are coded (no Transfer Syntax UID); write it again with a DICOM tool')
    try:
        return pixel_array(dataset, index=frame)
    except RuntimeError as error:
        if "missing dependencies" not in str(error):
            raise ValueError(str(error).splitlines()[0]) from error
        remedy = "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg, or decompress the file"
        raise ImageError(f'image "{path}" is compressed ({syntax.name}) and no decoder for that is installed; {remedy}') from error
    except (NotImplementedError, AttributeError) as error:
        raise ImageError(f'image "{path}" has pixels that cannot be read ({syntax.name}: {error}); decompress or convert the file') from error


def _eight_bit(pixels: np.ndarray, bits: int | None = None) -> Image.Image:
    bits = bits or 8 * pixels.dtype.itemsize
    return Image.fromarray((pixels >> (bits - 8)).astype(np.uint8)) if bits > 8 else Image.fromarray(pixels.astype(np.uint8))
