"""Is this picture whole? Three depths, from a second for a corpus to minutes."""

from collections.abc import Callable
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from medvlm_r1.data import raster
from medvlm_r1.data.images import OPENERS, SCHEMES, content_of, kind_of, load_image, scheme_of

_END = {".png": b"IEND", ".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9"}
_TAIL_BYTES = 64


def quick(reference: str) -> None:
    """A readable header, and the mark that ends a PNG or JPEG file; everything else, and all in doubt, is decoded."""
    path = Path(reference)
    end = None if scheme_of(reference) in SCHEMES else _END.get(kind_of(path))
    if end is None or not path.is_file() or not _is_whole(path, end):
        load_image(reference)  # says what is wrong, or that nothing is


def _is_whole(path: Path, end: bytes) -> bool:
    try:
        with path.open("rb") as file:
            with Image.open(file, formats=("PNG", "JPEG")) as image:
                width, height = image.size
            file.seek(-min(_TAIL_BYTES, path.stat().st_size), 2)
            return width * height > 0 and end in file.read()
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError):
        return False


def full(reference: str) -> None:
    """Every pixel is decoded."""
    load_image(reference)


def none(reference: str) -> None:
    """Nothing is looked at: for the text alone, while the pictures are elsewhere."""


def size_of(reference: str) -> tuple[int, int]:
    """(width, height) in pixels; of a PNG, JPEG, TIFF or BMP file by its header alone. Raises ImageError where there is none."""
    path = Path(reference)
    if scheme_of(reference) not in SCHEMES and path.is_file() and content_of(path) in OPENERS:
        return raster.size_of(path)
    return load_image(reference).size


PROBES: dict[str, Callable[[str], None]] = {"quick": quick, "full": full, "none": none}
