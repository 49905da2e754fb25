"""A picture that lies in no file: an array, or one of Pillow's images."""

from typing import Any

import numpy as np
from PIL import Image, ImageOps

from medvlm_r1.data.window import finite, over_white, window
from medvlm_r1.errors import ImageError

_NAME = "in memory"


def picture(shown: Any) -> Image.Image:
    r"""8-bit RGB of a Pillow image, or of an array, by the rules of ``images.load_image``.

    An array is (height, width), or (height, width, 3 or 4) of 8 bits, the fourth being opacity. Grey levels of 8 bits
    are taken as they are, any others stretched from their least to their greatest: window them yourself where that
    matters. Raises ImageError for any other array, and for an image that cannot be decoded.

    >>> picture(np.array([[-1000, 0, 1000]])).convert("L").tobytes()
    b'\x00\x80\xff'
    >>> picture(np.zeros((84, 60, 3), np.uint8)).size
    (60, 84)
    """
    try:
        return _rgb(shown if isinstance(shown, Image.Image) else _image(np.asarray(shown)))
    except ImageError:
        raise
    except (OSError, SyntaxError, ValueError, TypeError) as error:
        raise ImageError(f"the picture in memory cannot be decoded ({error}); load it again, or name its file") from error


def _rgb(image: Image.Image) -> Image.Image:
    """As ``raster`` does with a file: turned as EXIF says, deep grey stretched, what is transparent over white."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        levels = np.asarray(image, dtype=np.float64)
        known = finite(levels, _NAME)
        return window(levels, float(known.min()), float(known.max())).convert("RGB")
    return over_white(image.convert("RGBA"), _NAME) if image.has_transparency_data else image.convert("RGB")


def _image(array: np.ndarray) -> Image.Image:
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    array = np.uint8(255) * array if array.dtype == bool else array
    if array.dtype == np.uint8 and array.size and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        return Image.fromarray(array)
    if array.ndim != 2 or array.dtype.kind not in "iuf" or not array.size or not np.isfinite(array).all():
        raise ImageError(
            f"an array of shape {array.shape} and type {array.dtype} is no picture; give (height, width) of finite numbers, one slice of a volume, "
            "or (height, width, 3) of uint8"
        )
    return window(array.astype(np.float64), array.min(), array.max())
