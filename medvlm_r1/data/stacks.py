"""Open a file whole, as a person pages through it. What a file is, its content says, as for ``data.images``."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from medvlm_r1.data.images import content_of
from medvlm_r1.data.raster import n_pages, open_raster, size_of
from medvlm_r1.data.stack import Stack, one_after_the_other, require_room
from medvlm_r1.errors import ImageError, install


def load_stack(path: Path) -> Stack:
    """Raises ImageError, and nothing else, where ``load_image`` would, and for a stack too large to be sent."""
    kind = content_of(path)
    return _OPENERS.get(kind, raster_stack)(path)


def raster_stack(path: Path) -> Stack:
    """PNG, JPEG, TIFF or BMP as the model is shown them, 8 bit; the pages of a TIFF that are as large as its first, up to one that is not."""
    count, size = n_pages(path) if content_of(path) == ".tif" else 1, size_of(path)
    require_room(count * size[0] * size[1], str(path))
    pages: list[np.ndarray] = []
    for number in range(count):
        page = np.asarray(open_raster(path, {"frame": number} if number else {}))
        if pages and page.shape != pages[0].shape:
            break
        pages.append(page)
    samples = np.stack(pages)
    is_grey = bool((samples[..., :1] == samples).all())
    samples = np.ascontiguousarray(samples[..., 0]) if is_grey else samples
    require_room(samples.nbytes, str(path))
    rules = [{"function": "RANGE", "low": 0.0, "high": 255.0, "window": None, "slope": 1.0, "intercept": 0.0}] if is_grey else []
    notes = ["raster", *(["fewer-pages"] if len(pages) < count else [])]
    return Stack("raster", samples, {"frames": one_after_the_other(samples.shape)}, rules, notes=notes)


def _dicom(path: Path) -> Stack:
    try:
        from medvlm_r1.data.dicom.stack import dicom_stack
    except ModuleNotFoundError as error:
        raise ImageError(f"a DICOM file needs pydicom; {install('pydicom', 'pylibjpeg', 'pylibjpeg-openjpeg', 'pyjpegls')}") from error
    return dicom_stack(path)


def _nifti(path: Path) -> Stack:
    from medvlm_r1.data.nifti_stack import nifti_stack

    return nifti_stack(path)


_OPENERS: dict[str, Callable[[Path], Stack]] = {".dcm": _dicom, ".nii": _nifti}
