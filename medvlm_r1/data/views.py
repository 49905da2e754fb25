"""What a model is shown instead of its picture, to see whether it looks.

``blank:images/00017.png`` is a reference like any other: ``data.images.load_image`` opens it.
"""

import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image

from medvlm_r1.types import Example


def blank(image: Image.Image) -> Image.Image:
    """A uniform grey image of the same size.

    >>> blank(Image.new("RGB", (4, 2))).getcolors()
    [(8, (128, 128, 128))]
    """
    return Image.new("RGB", image.size, (128, 128, 128))


def noise(image: Image.Image) -> Image.Image:
    """Grey noise of the same size, mean and spread; the same for the same picture."""
    levels = np.asarray(image.convert("L"), dtype=np.float64)
    rng = np.random.default_rng(zlib.crc32(image.tobytes()))
    drawn = rng.normal(levels.mean(), levels.std(), levels.shape).round().clip(0, 255)
    return Image.fromarray(drawn.astype(np.uint8)).convert("RGB")


VIEWS: dict[str, Callable[[Image.Image], Image.Image]] = {"blank": blank, "noise": noise}


def viewed(example: Example, view: str) -> Example:
    """The same question about its pictures under a view; "image" leaves them as they are.

    >>> viewed(Example("q1", ("a.png",), "Which plane?", (), "axial", "mri"), "blank").images
    ('blank:a.png',)
    """
    return example if view == "image" else replace(example, images=tuple(f"{view}:{reference}" for reference in example.images))
