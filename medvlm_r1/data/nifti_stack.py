"""A NIfTI volume in three planes before its window, cut as ``open_nifti`` cuts it."""

import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import io_orientation
from PIL import Image

from medvlm_r1.data.foreign import errors_as
from medvlm_r1.data.nifti import PLANES, coloured, limits, read
from medvlm_r1.data.sides import Sides, letters, named
from medvlm_r1.data.stack import Plane, Stack, packed, require_room, square_enough
from medvlm_r1.errors import ImageError

_MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001}
_ACROSS = {0: (1, 2), 1: (0, 2), 2: (0, 1)}  # by the axis that is cut: which one runs along a row, and which one down


def nifti_stack(path: Path) -> Stack:
    """The first volume. Raises ImageError, and nothing else, for a file that cannot be shown."""
    image, volume = read(path, 0)
    rules: list[dict[str, Any]] = []
    notes = ["first-volume"] if math.prod(image.shape[3:]) > 1 else []
    if volume.dtype.names:
        require_room(volume.size * 3, str(path))
        samples = _colours(volume, str(path))
        notes.append("colour")
    else:
        require_room(volume.size, str(path))
        low, high = limits(volume, image.header, str(path))
        is_said = (low, high) == (float(image.header["cal_min"]), float(image.header["cal_max"]))
        notes += [] if is_said else ["percentiles"]
        rules = [{"function": "RANGE" if is_said else "PERCENTILES", "low": low, "high": high, "window": None, "slope": 1.0, "intercept": 0.0}]
        samples = packed(np.ascontiguousarray(volume.transpose()))  # axial slices lie whole
        require_room(samples.nbytes, str(path))
    planes, more = _planes(image, volume.shape, str(path))
    return Stack("nifti", samples, planes, rules, notes=[*notes, *more])


def _colours(volume: np.ndarray, name: str) -> np.ndarray:
    """(head, front, right, 3); a slice that is wholly transparent is white."""
    return np.stack([np.asarray(_or_white(volume[:, :, k].transpose(), name)) for k in range(volume.shape[2])])


def _or_white(plane: np.ndarray, name: str) -> Image.Image:
    try:
        return coloured(plane, name)
    except ImageError:
        return Image.new("RGB", (plane.shape[1], plane.shape[0]), "white")


def _planes(image: nibabel.Nifti1Image, shape: tuple[int, ...], name: str) -> tuple[dict[str, Plane], list[str]]:
    """Axial first; and the codes of what the header leaves open."""
    directions, sizes = _directions(image, name)
    unit = _unit(image.header)
    step = (1, shape[0], shape[0] * shape[1])  # of right, front and head
    is_known = int(image.header["qform_code"]) > 0 or int(image.header["sform_code"]) > 0
    planes = {}
    for axis in (2, 1, 0):
        along, down = _ACROSS[axis]
        spacing = square_enough((sizes[down] * (unit or 1.0), sizes[along] * (unit or 1.0)))
        planes[PLANES[axis]] = Plane(
            count=shape[axis],
            rows=shape[down],
            columns=shape[along],
            start=(shape[along] - 1) * step[along] + (shape[down] - 1) * step[down],
            step=(step[axis], -step[down], -step[along]),
            sides=(_sides(-directions[along], -directions[down]) if is_known else None,),
            spacing=spacing,
            scale="mm" if unit and spacing else "",
            axis=axis,
        )
    sized = "" if all(plane.spacing for plane in planes.values()) else "no-spacing"
    return planes, [*([] if is_known else ["no-sides"]), *filter(None, (sized or ("" if unit else "no-unit"),))]


def _directions(image: nibabel.Nifti1Image, name: str) -> tuple[np.ndarray, list[float]]:
    """Where right, front and head of the turned volume really lead to (x to the left, y to the back, z to the head), and the voxel's size along each."""
    with errors_as(f'image "{name}" does not say how its axes lie ({{why}}); write its affine again'):
        turned = io_orientation(image.affine)
        sizes = voxel_sizes(image.affine)
    found, lengths = np.zeros((3, 3)), [0.0] * 3
    for stored, (axis, flip) in enumerate(turned):
        found[int(axis)] = image.affine[:3, stored] * flip * (-1, -1, 1) / sizes[stored]
        lengths[int(axis)] = float(sizes[stored])
    return found, lengths


def _sides(row: np.ndarray, column: np.ndarray) -> Sides:
    return named(letters(row.tolist()), letters(column.tolist()))


def _unit(header: Any) -> float | None:
    """Millimetres, or None where the header has no unit of length that is known."""
    try:
        return _MILLIMETRES.get(header.get_xyzt_units()[0])
    except KeyError:
        return None
