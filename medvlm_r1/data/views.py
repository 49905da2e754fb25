"""What a model is shown instead of its image, to see whether it looks."""

from collections.abc import Callable

from PIL import Image

View = Callable[[Image.Image], Image.Image]


def blank(image: Image.Image) -> Image.Image:
    """A uniform grey image of the same size.

    >>> blank(Image.new("RGB", (4, 2))).getcolors()
    [(8, (128, 128, 128))]
    """
    return Image.new("RGB", image.size, (128, 128, 128))


VIEWS: dict[str, View | None] = {"image": None, "blank": blank}
