"""From what a scanner measured to the 256 grey levels that a model sees."""

import numpy as np
from PIL import Image

PERCENTILES = (0.5, 99.5)


def window(values: np.ndarray, low: float, high: float) -> Image.Image:
    """Grey 0 at ``low`` and below, 255 at ``high`` and above, linear between.

    >>> list(window(np.array([[-1000.0, -160.0, 40.0, 240.0, 3000.0]]), -160, 240).tobytes())
    [0, 0, 128, 255, 255]
    """
    scaled = (values - low) * 255.0 / max(high - low, 1e-12)
    return Image.fromarray(np.rint(np.clip(scaled, 0, 255)).astype(np.uint8))


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """The window of a picture that comes without one: PERCENTILES, which a few hot pixels do not move.

    >>> percentiles(np.arange(1001.0))
    (5.0, 995.0)
    """
    low, high = np.percentile(values, PERCENTILES)
    return float(low), float(high)


def bounds(center: float, width: float) -> tuple[float, float]:
    """The values shown black and white by a window, after DICOM PS3.3 C.11.2.1.2.1 (LINEAR).

    The standard's half-units make a window of width w cover w whole values.

    >>> bounds(40, 400), bounds(2048, 4096), bounds(0, 100)
    ((-160.0, 239.0), (0.0, 4095.0), (-50.0, 49.0))
    """
    return center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
