"""From what a scanner measured to the 256 grey levels that a model sees."""

from collections.abc import Mapping

import numpy as np
from PIL import Image

from medvlm_r1.errors import ImageError

PERCENTILES = (0.5, 99.5)
_HALF = 128  # of 255, opaque
_ROWS = 64  # that are worked on at once


def window(values: np.ndarray, low: float, high: float) -> Image.Image:
    """Grey 0 at ``low`` and below, 255 at ``high`` and above, linear between; NaN is background, and black.

    >>> list(window(np.array([[-1000.0, -160.0, 40.0, 240.0, np.inf, np.nan]]), -160, 240).tobytes())
    [0, 0, 128, 255, 255, 0]
    """
    shown = np.empty(values.shape, np.uint8)
    for first in range(0, len(values), _ROWS):  # a large picture has no room for itself in float64
        rows = slice(first, first + _ROWS)
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = np.subtract(values[rows], low, dtype=np.float64)
            scaled *= 255.0
            scaled /= max(high - low, 1e-12)
        shown[rows] = np.rint(np.nan_to_num(np.clip(scaled, 0, 255, out=scaled), copy=False))
    return Image.fromarray(shown)


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """The window of a picture that comes without one: PERCENTILES, which a few hot pixels do not move.

    >>> percentiles(np.arange(1001.0))
    (5.0, 995.0)
    """
    low, high = np.percentile(values, PERCENTILES)
    return float(low), float(high)


def finite(values: np.ndarray, name: str) -> np.ndarray:
    """The values that a window may be drawn from: neither NaN nor infinite. Raises ImageError where there are none."""
    is_finite = np.isfinite(values)
    found = values.ravel(order="K") if is_finite.all() else values[is_finite]  # a volume that is turned is slow to go through by rows
    if not found.size:
        raise ImageError(f'image "{name}" holds no number, only NaN or infinite values; replace the file or drop the question')
    return found


def over_white(rgba: Image.Image, name: str) -> Image.Image:
    """RGB, as Qwen's own loader lays out what is transparent. Raises ImageError where nothing would be seen.

    >>> over_white(Image.new("RGBA", (1, 1), (0, 0, 0, 255)), "a.png").getpixel((0, 0))
    (0, 0, 0)
    """
    if np.asarray(rgba.getchannel("A")).max() < _HALF:  # also what 12 bits of opacity in 16 come to
        raise ImageError(f'image "{name}" is transparent everywhere; save it without its alpha channel')
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def bounds(center: float, width: float) -> tuple[float, float]:
    """The values shown black and white by a window, after DICOM PS3.3 C.11.2.1.2.1 (LINEAR).

    The standard's half-units make a window of width w cover w whole values. They want a width of 1 or
    more; a smaller one, of values far below 1, is read without them (C.11.2.1.3.2, LINEAR_EXACT).

    >>> bounds(40, 400), bounds(2048, 4096), bounds(0, 100), bounds(0.5, 0.5)
    ((-160.0, 239.0), (0.0, 4095.0), (-50.0, 49.0), (0.25, 0.75))
    """
    if width < 1:
        return exact_bounds(center, width)
    return center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2


def exact_bounds(center: float, width: float) -> tuple[float, float]:
    """The same after C.11.2.1.3.2 (LINEAR_EXACT).

    >>> exact_bounds(0, 400)
    (-200.0, 200.0)
    """
    return center - width / 2, center + width / 2


def named(keys: Mapping[str, float], name: str) -> tuple[float, float] | None:
    """The ``center`` and ``width`` that a reference asks for, or None. Raises ImageError for one without the other, or a width that shows nothing.

    >>> named({"frame": 3}, "a.dcm"), named({"center": 40, "width": 400}, "a.dcm")
    (None, (40, 400))
    """
    if "center" not in keys and "width" not in keys:
        return None
    if "center" not in keys or "width" not in keys:
        raise ImageError(f'image "{name}" is asked for with half a window; write center=… and width=… together')
    if keys["width"] <= 0:
        raise ImageError(f'image "{name}" is asked for with width={keys["width"]}, which shows nothing; write width=1 or more')
    return keys["center"], keys["width"]
