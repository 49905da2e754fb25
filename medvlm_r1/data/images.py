"""Open a picture by its reference: a file, or ``scheme:…`` for one that is drawn when asked for.

A new file kind is one line of OPENERS, a new scheme one line of SCHEMES.
"""

import difflib
import hashlib
import re
import struct
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from medvlm_r1.data.phantom import sets
from medvlm_r1.errors import ImageError, nearest

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


def load_image(reference: str) -> Image.Image:
    """The picture that a reference names, decoded to its last pixel, as 8-bit RGB.

    Grey levels beyond 8 bits are stretched from their least to their greatest
    value; transparency is laid over white, as Qwen's own loader does; a rotation
    in the EXIF header is applied; of several frames the first is taken.

    Raises ImageError where the picture is missing, truncated, of an unknown kind or no image.
    """
    scheme = scheme_of(reference)
    if scheme in SCHEMES:
        return SCHEMES[scheme](reference).convert("RGB")
    path = Path(reference)
    if scheme and not path.exists():
        hint = nearest(scheme, SCHEMES)
        raise ImageError(f'image "{reference}" is of the unknown kind "{scheme}:"{hint}; or give the path of a file here')
    opener = OPENERS.get(path.suffix.lower())
    if opener is None:
        kinds = ", ".join(OPENERS)
        raise ImageError(f'image "{reference}" has the unknown suffix "{path.suffix}"; convert it to one of {kinds}')
    _require_file(path, reference)
    try:
        return to_rgb(opener(path))
    except UnidentifiedImageError as error:
        raise ImageError(f'image "{reference}" is not an image; replace the file or drop the question') from error
    except Image.DecompressionBombError as error:
        raise ImageError(f'image "{reference}" is too large ({error}); scale it down first') from error
    except _BROKEN as error:
        raise ImageError(f'image "{reference}" is truncated or corrupt ({error}); copy it again from its source') from error


def scheme_of(reference: str) -> str:
    """What stands before the colon, or "" for a plain path.

    >>> scheme_of("phantom:mri/train/3"), scheme_of("images/00017.png"), scheme_of("https://a.b/c.png")
    ('phantom', '', 'https')
    """
    match = re.match(r"([A-Za-z][A-Za-z0-9+-]+):", reference)
    return match[1] if match else ""


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of a picture in any of Pillow's modes; see ``load_image`` for the rules."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        return _stretch(np.asarray(image, dtype=np.float64)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def content_hash(image: Image.Image) -> str:
    """64 hex digits (SHA-256) of size, mode and pixels; equal exactly when the decoded pictures are.

    >>> content_hash(Image.new("L", (2, 2), 7)) == content_hash(Image.new("L", (2, 2), 7))
    True
    """
    head = f"{image.mode} {image.width}x{image.height}\n".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()


def _stretch(levels: np.ndarray) -> Image.Image:
    if not np.isfinite(levels).all():
        raise ValueError("it holds values that are not finite")
    low, high = levels.min(), levels.max()
    scaled = (levels - low) * (255.0 / max(high - low, 1e-12))
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def _require_file(path: Path, reference: str) -> None:
    if not path.exists():
        folder = path.parent
        beside = [file.name for file in islice(folder.iterdir(), 10_000)] if folder.is_dir() else []
        close = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.8)
        hint = f'did you mean "{close[0]}"?' if close else f'copy it into "{folder}" or correct the path'
        raise ImageError(f'image "{reference}" is missing; {hint}')
    if not path.is_file():
        raise ImageError(f'image "{reference}" is no file; name a picture inside it')
    if path.stat().st_size == 0:
        raise ImageError(f'image "{reference}" is empty (0 bytes); copy it again from its source')


def _open_pillow(path: Path) -> Image.Image:
    with Image.open(path, formats=("PNG", "JPEG", "TIFF", "BMP")) as image:
        image.load()  # Pillow reads lazily: a truncated file shows only here
        return image


OPENERS: dict[str, Callable[[Path], Image.Image]] = dict.fromkeys(
    (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"), _open_pillow
)
SCHEMES: dict[str, Callable[[str], Image.Image]] = {"phantom": sets.open_reference}
