"""Slices of NIfTI volumes, in radiological convention: the patient's right is on the picture's left."""

from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

from medvlm_r1.data.window import bounds, percentiles, window
from medvlm_r1.errors import ImageError

KEYS = ("axis", "slice", "volume", "center", "width")
PLANES = ("sagittal", "coronal", "axial")  # axis 0, 1, 2 of a volume in canonical orientation


def open_nifti(path: Path, keys: dict[str, int]) -> Image.Image:
    """One slice, 8 bit.

    ``axis`` 0, 1, 2 is sagittal, coronal, axial (the default); ``slice`` counts from the
    patient's left, back or feet; ``volume`` (from 0) is for a file with several.
    The window is ``center`` and ``width``, else the header's cal_min and cal_max, else the
    0.5 to 99.5 percentiles of the whole volume, so that its slices compare.
    One voxel is one pixel, also where voxels are not square.
    """
    try:
        # The nearest of the 48 orientations by axes flipped and swapped; nothing is interpolated.
        image = nibabel.as_closest_canonical(nibabel.load(str(path)))
        volume = _volume(np.asarray(image.dataobj, dtype=np.float32), keys.get("volume", 0), path)
    except nibabel.filebasedimages.ImageFileError as error:
        raise ImageError(f'image "{path}" is not an image (no NIfTI header); replace the file or drop the question') from error
    plane = show(volume, *_place(volume.shape, keys, path))
    if not np.isfinite(plane).all():
        raise ValueError("it holds values that are not finite")
    return window(plane, *_window(volume, image.header, keys))


def show(volume: np.ndarray, axis: int, index: int) -> np.ndarray:
    """A slice of a RAS+ volume as rows from top to bottom: front or head up, the patient's right (or front, if sagittal) on the left.

    >>> volume = np.zeros((2, 2, 2))
    >>> volume[1, 1, 1] = 7  # right, front, head
    >>> show(volume, 2, 1).tolist(), show(volume, 1, 1).tolist(), show(volume, 0, 1).tolist()
    ([[7.0, 0.0], [0.0, 0.0]], [[7.0, 0.0], [0.0, 0.0]], [[7.0, 0.0], [0.0, 0.0]])
    """
    return np.take(volume, index, axis=axis)[::-1, ::-1].T


def _volume(values: np.ndarray, number: int, path: Path) -> np.ndarray:
    if values.ndim < 3:
        raise ImageError(f'image "{path}" has {values.ndim} dimensions; a NIfTI picture wants 3 or 4')
    volumes = values.reshape(*values.shape[:3], -1)
    if not 0 <= number < volumes.shape[3]:
        raise ImageError(f'image "{path}" has no volume {number}; it has {volumes.shape[3]}, counted from 0')
    return volumes[..., number]


def _place(shape: tuple[int, ...], keys: dict[str, int], path: Path) -> tuple[int, int]:
    axis = keys.get("axis", 2)
    if axis not in (0, 1, 2):
        raise ImageError(f'image "{path}" has no axis {axis}; write axis=0 (sagittal), 1 (coronal) or 2 (axial)')
    n_slices = shape[axis]
    index = keys.get("slice", 0 if n_slices == 1 else -1)
    if not 0 <= index < n_slices:
        wanted = f"no slice {index}" if "slice" in keys else "no slice named"
        raise ImageError(f'image "{path}" has {wanted}; it has {n_slices} {PLANES[axis]} ones: write {path.name}#axis={axis}&slice={n_slices // 2}')
    return axis, index


def _window(volume: np.ndarray, header: nibabel.Nifti1Header, keys: dict[str, int]) -> tuple[float, float]:
    if "width" in keys:
        return bounds(keys.get("center", 0), keys["width"])
    low, high = (float(header[name]) if name in header else 0.0 for name in ("cal_min", "cal_max"))
    return (low, high) if high > low else percentiles(volume[np.isfinite(volume)])
