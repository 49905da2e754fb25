"""Pictures as data URLs, small enough that a page of ten thousand still opens.

Each picture is decoded once. Side and quality follow from the number of pictures:
a few are tried at each size, and the largest that fits the budget is taken for all.
"""

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from PIL import Image, ImageChops

from medvlm_r1.errors import ImageError
from medvlm_r1.files import digest

LoadImage = Callable[[str], Image.Image]

BUDGET_BYTES = 30_000_000  # of data URLs, all pictures together
# Side in px and JPEG quality, the best first.
_SIZES = ((320, 85), (256, 82), (256, 70), (224, 65), (192, 65), (160, 65), (128, 60), (112, 50), (96, 45), (64, 40))
_TRIED = 24
_THREADS = 2  # Pillow gives the interpreter's lock back while it decodes, scales and encodes
_MARGIN = 1.05  # those that were not tried may be a little larger


@dataclass(frozen=True)
class Picture:
    """An image as a data URL with its own size, or why there is none."""

    url: str
    width_px: int
    height_px: int
    missing: str = ""


def thumbnails(references: Iterable[str], load_image: LoadImage, budget_bytes: int = BUDGET_BYTES) -> dict[str, Picture]:
    """Reference -> picture, each reference once, in order of first appearance; the same pictures give the same bytes."""
    unique = list(dict.fromkeys(references))
    if not unique:
        return {}
    side_px, quality = _fitting(unique, load_image, budget_bytes / len(unique) / _MARGIN)
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(unique, pool.map(lambda reference: picture(reference, load_image, side_px, quality), unique), strict=True))


def picture(reference: str, load_image: LoadImage, side_px: int = 320, quality: int = 85) -> Picture:
    """One image, scaled down to ``side_px`` if it is larger, or the reason why it cannot be shown."""
    try:
        image = load_image(reference)
    except ImageError as error:  # the page shows the reason in the picture's place
        return Picture("", 0, 0, str(error))
    return Picture(_encoded(image, side_px, quality), *image.size)


def _fitting(references: Sequence[str], load_image: LoadImage, bytes_each: float) -> tuple[int, int]:
    """The largest side and quality at which a few pictures, chosen by a hash, stay below ``bytes_each`` on average."""
    loaded = list(islice(_loadable(sorted(references, key=digest), load_image), _TRIED))
    for side_px, quality in _SIZES[:-1]:
        if sum(len(_encoded(image, side_px, quality)) for image in loaded) <= bytes_each * len(loaded):
            return side_px, quality
    return _SIZES[-1]


def _loadable(references: Iterable[str], load_image: LoadImage) -> Iterable[Image.Image]:
    for reference in references:
        try:
            image = load_image(reference)
        except ImageError:  # said in the picture's place, by ``picture``
            image = None
        if image is not None:
            yield image


def _encoded(image: Image.Image, side_px: int, quality: int) -> str:
    image = image if image.mode in ("L", "RGB") else image.convert("RGB")
    if max(image.size) > side_px:
        scale = side_px / max(image.size)
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    data = io.BytesIO()
    _grey_if_grey(image).save(data, "JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def _grey_if_grey(image: Image.Image) -> Image.Image:
    """One channel in place of three equal ones: less to store, most radiographs are so."""
    if image.mode != "RGB":
        return image
    red, green, blue = image.split()
    same = ImageChops.difference(red, green).getbbox() is None and ImageChops.difference(red, blue).getbbox() is None
    return red if same else image
