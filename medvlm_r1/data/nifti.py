"""Slices of NIfTI volumes, in radiological convention: the patient's right is on the picture's left."""

import gzip
import io
import logging
import math
from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.orientations import apply_orientation, io_orientation
from PIL import Image

from medvlm_r1.data.foreign import errors_as
from medvlm_r1.data.kinds import content_kind, head_of, not_an_image
from medvlm_r1.data.window import bounds, finite, named, over_white, percentiles, window
from medvlm_r1.errors import ImageError

KEYS = ("axis", "slice", "volume", "center", "width")
PLANES = ("sagittal", "coronal", "axial")  # axis 0, 1, 2 of a volume in canonical orientation
MAX_VOXELS = 2**28  # of one volume: 512 x 512 x 1024
_GZIP_RATIO = 1032  # deflate shrinks no further (RFC 1951): what claims to unpack to more is cut or a bomb
# What a header does against the standard is weighed here; nibabel's own warnings would only tell of it on a user's screen.
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)
_COLOURS = (("R", "G", "B"), ("R", "G", "B", "A"))  # datatypes 128 and 2304 as nibabel names them


def open_nifti(path: Path, keys: Mapping[str, float]) -> Image.Image:
    """One slice, 8 bit.

    ``axis`` 0, 1, 2 is sagittal, coronal, axial (the default); ``slice`` counts from the
    patient's left, back or feet; ``volume`` (from 0) is for a file with several.
    The window is ``center`` and ``width``, else the header's cal_min and cal_max, else the
    0.5 to 99.5 percentiles of the whole volume, so that its slices compare. Colour has none.
    One voxel is one pixel, also where voxels are not square.

    Whether the file is compressed is read from its first bytes, not its name.
    Raises ImageError, and nothing else, for a file that cannot be shown.
    """
    image, volume = read(path, int(keys.get("volume", 0)))
    plane = show(volume, *_place(volume.shape, keys, path))
    if volume.dtype.names:
        return coloured(plane, str(path))
    asked = named(keys, str(path))
    return window(plane, *(bounds(*asked) if asked else limits(volume, image.header, str(path))))


def read(path: Path, number: int) -> tuple[nibabel.Nifti1Image, np.ndarray]:
    """The header, and volume ``number`` in canonical orientation (RAS+): float32, or a record of colours. Raises ImageError."""
    with errors_as(f'image "{path}" cannot be read ({{why}}); check its permissions'):
        head, zipped = head_of(path)
    if content_kind(head) != ".nii":
        raise not_an_image(path, head, zipped, "no NIfTI header")
    with (gzip.open if zipped else open)(path, "rb") as file:
        image = _header(file, head, path)
        volume = _volume(image, file, number, path.stat().st_size * (_GZIP_RATIO if zipped else 1), path)
    if volume.dtype.kind == "c":
        raise ImageError(f'image "{path}" holds complex numbers; write their magnitude to a file of its own, numpy.abs(volume)')
    return image, volume


def coloured(plane: np.ndarray, name: str) -> Image.Image:
    """RGB of a record of colours, over white where it has opacity. No window applies to it."""
    assert plane.dtype.names
    shown = Image.fromarray(np.stack([plane[colour] for colour in plane.dtype.names], axis=-1))
    return over_white(shown, name) if shown.mode == "RGBA" else shown


def show(volume: np.ndarray, axis: int, index: int) -> np.ndarray:
    """A slice of a RAS+ volume as rows from top to bottom: front or head up, the patient's right (or front, if sagittal) on the left.

    >>> volume = np.zeros((2, 2, 2))
    >>> volume[1, 1, 1] = 7  # right, front, head
    >>> show(volume, 2, 1).tolist(), show(volume, 1, 1).tolist(), show(volume, 0, 1).tolist()
    ([[7.0, 0.0], [0.0, 0.0]], [[7.0, 0.0], [0.0, 0.0]], [[7.0, 0.0], [0.0, 0.0]])
    """
    return np.take(volume, index, axis=axis)[::-1, ::-1].swapaxes(0, 1)


def _header(file: io.BufferedIOBase, head: bytes, path: Path) -> nibabel.Nifti1Image:
    kind = nibabel.Nifti2Image if head[4:7] == b"n+2" else nibabel.Nifti1Image
    with errors_as(f'image "{path}" is truncated or corrupt ({{why}}); copy it again from its source'):
        return kind.from_stream(file)


def _volume(image: nibabel.Nifti1Image, file: io.BufferedIOBase, number: int, most_bytes: int, path: Path) -> np.ndarray:
    """Volume ``number`` in the nearest of the 48 orientations by axes flipped and swapped; nothing is interpolated.

    float32, or as it is stored where it is colour or complex. ``most_bytes``: what the file can hold.
    """
    assert isinstance(image.dataobj, ArrayProxy)  # it was read from a stream
    shape, offset, kind = image.shape, image.dataobj.offset, image.get_data_dtype()
    if len(shape) < 2:
        raise ImageError(f'image "{path}" has {len(shape)} dimensions; a NIfTI picture wants 2, 3 or 4')
    of_one, others = (*shape[:3], 1)[:3], shape[3:]
    n_volumes, n_voxels = math.prod(others), math.prod(of_one)
    if not 0 <= number < n_volumes:
        raise ImageError(f'image "{path}" has no volume {number}; it has {n_volumes}, counted from 0')
    if n_voxels > MAX_VOXELS:
        raise ImageError(f'image "{path}" is too large ({n_voxels} voxels a volume, at most {MAX_VOXELS}); crop or scale it down first')
    if n_voxels < 1 or not 0 <= offset + (number + 1) * n_voxels * kind.itemsize <= most_bytes:
        raise ImageError(f'image "{path}" is truncated or corrupt (it says {" x ".join(map(str, shape))} voxels); copy it again from its source')
    if kind.names and kind.names not in _COLOURS:
        raise ImageError(f'image "{path}" holds {kind} voxels, which are not shown; convert them to numbers')
    is_plain = kind.names or kind.kind == "c"  # scl_slope is no business of colour (nifti1.h), and complex numbers are not shown
    with errors_as(f'image "{path}" is truncated or corrupt ({{why}}); copy it again from its source'):
        proxy = ArrayProxy(file, (shape, kind, offset), mmap=False) if is_plain else image.dataobj
        with np.errstate(over="ignore"):
            values = np.asarray(proxy[(..., *np.unravel_index(number, others))] if others else proxy, dtype=None if is_plain else np.float32)
    with errors_as(f'image "{path}" does not say how its axes lie ({{why}}); write its affine again'):
        return apply_orientation(values.reshape(of_one), io_orientation(image.affine))


def _place(shape: tuple[int, ...], keys: Mapping[str, float], path: Path) -> tuple[int, int]:
    axis = int(keys.get("axis", 2))
    if axis not in (0, 1, 2):
        raise ImageError(f'image "{path}" has no axis {axis}; write axis=0 (sagittal), 1 (coronal) or 2 (axial)')
    n_slices = shape[axis]
    index = int(keys.get("slice", 0 if n_slices == 1 else -1))
    if not 0 <= index < n_slices:
        wanted = f"no slice {index}" if "slice" in keys else "no slice named"
        raise ImageError(f'image "{path}" has {wanted}; it has {n_slices} {PLANES[axis]} ones: write {path.name}#axis={axis}&slice={n_slices // 2}')
    return axis, index


def limits(volume: np.ndarray, header: nibabel.Nifti1Header, name: str) -> tuple[float, float]:
    """The values shown black and white where no window is asked for."""
    low, high = (float(header[end]) for end in ("cal_min", "cal_max"))
    return (low, high) if math.isfinite(low) and math.isfinite(high) and high > low else percentiles(finite(volume, name))
