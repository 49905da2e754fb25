"""Open a picture by its reference: a file, a place in one, or ``scheme:…`` for one that is drawn or changed when asked for.

A place is what follows "#": ``cine.dcm#frame=3``, ``head.nii.gz#axis=2&slice=17``.
A new file kind is one line of OPENERS or PLACED, a new scheme one line of SCHEMES.
"""

import difflib
import hashlib
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from medvlm_r1.data import parquet, urls
from medvlm_r1.data.views import VIEWS
from medvlm_r1.data.window import window
from medvlm_r1.errors import ImageError, nearest

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
PlacedOpener = Callable[[Path, dict[str, int]], Image.Image]


def load_image(reference: str) -> Image.Image:
    """The picture that a reference names, decoded to its last pixel, as 8-bit RGB.

    Grey levels beyond 8 bits are stretched from their least to their greatest
    value, those of DICOM and NIfTI through a window (``data.dicom``, ``data.nifti``);
    transparency is laid over white, as Qwen's own loader does; a rotation in the
    EXIF header is applied; of several frames the first is taken unless one is named.

    Raises ImageError where the picture is missing, truncated, of an unknown kind or no image.
    """
    scheme = scheme_of(reference)
    if scheme in SCHEMES:
        return SCHEMES[scheme](reference).convert("RGB")
    name, keys = place(reference)
    path = Path(name)
    if scheme and not path.exists():
        hint = nearest(scheme, SCHEMES)
        raise ImageError(f'image "{reference}" is of the unknown kind "{scheme}:"{hint}; or give the path of a file here')
    _require_file(path, reference)
    opener = _opener(path, keys, reference)
    try:
        return to_rgb(opener(path))
    except ImageError:
        raise
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


def place(reference: str) -> tuple[str, dict[str, int]]:
    """The file of a reference, and the place in it.

    >>> place("head.nii.gz#axis=2&slice=17"), place("case #3.png")
    (('head.nii.gz', {'axis': 2, 'slice': 17}), ('case #3.png', {}))
    """
    match = re.fullmatch(r"(.+)#([a-z]+=-?\d+(?:&[a-z]+=-?\d+)*)", reference, re.DOTALL)
    if not match:
        return reference, {}
    return match[1], {key: int(value) for key, _, value in (pair.partition("=") for pair in match[2].split("&"))}


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
    return window(levels, levels.min(), levels.max())


def kind_of(path: Path) -> str:
    """The suffix that decides who opens a file, ".dcm" for a DICOM file that has none.

    >>> kind_of(Path("a/b.PNG")), kind_of(Path("head.nii.gz")), kind_of(Path("notes.gz"))
    ('.png', '.nii.gz', '.gz')
    """
    name = path.name.lower()
    if name.endswith(".nii.gz"):
        return ".nii.gz"
    suffix = path.suffix.lower()
    return ".dcm" if suffix not in {*OPENERS, *PLACED} and _has_dicom_mark(path) else suffix


def _has_dicom_mark(path: Path) -> bool:
    """PS3.10 7.1: 128 bytes, then DICM. Archives name their files by UID, which looks like a suffix."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _opener(path: Path, keys: dict[str, int], reference: str) -> Callable[[Path], Image.Image]:
    kind = kind_of(path)
    if kind in PLACED:
        known, opener = PLACED[kind]()
        for key in keys:
            if key not in known:
                raise ImageError(f'image "{reference}" has the unknown key "{key}"{nearest(key, known)}')
        return lambda path: opener(path, keys)
    if kind not in OPENERS:
        raise ImageError(f'image "{reference}" has the unknown suffix "{path.suffix}"; convert it to one of {", ".join([*OPENERS, *PLACED])}')
    if keys:
        raise ImageError(f'image "{reference}" is a single picture; drop what follows "#"')
    return OPENERS[kind]


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


def _dicom() -> tuple[Sequence[str], PlacedOpener]:
    try:
        from medvlm_r1.data import dicom
    except ModuleNotFoundError as error:
        raise ImageError('a DICOM file needs pydicom; pip install "medvlm-r1[dicom]"') from error
    return dicom.KEYS, dicom.open_dicom


def _nifti() -> tuple[Sequence[str], PlacedOpener]:
    from medvlm_r1.data import nifti

    return nifti.KEYS, nifti.open_nifti


def _phantom(reference: str) -> Image.Image:
    from medvlm_r1.data.phantom import sets

    return sets.open_reference(reference)


def _viewed(reference: str) -> Image.Image:
    name, _, shown = reference.partition(":")
    return VIEWS[name](load_image(shown))


OPENERS: dict[str, Callable[[Path], Image.Image]] = dict.fromkeys((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"), _open_pillow)
PLACED = {".dcm": _dicom, ".dicom": _dicom, ".nii": _nifti, ".nii.gz": _nifti}  # imported when first needed
DRAWN: dict[str, Callable[[str], Image.Image]] = {"phantom": _phantom, **dict.fromkeys(VIEWS, _viewed)}
SCHEMES: dict[str, Callable[[str], Image.Image]] = DRAWN | {
    "file": lambda reference: urls.open_file(reference, load_image),
    "data": lambda reference: urls.open_data(reference, load_image),
    "parquet": lambda reference: urls.open_bytes(*parquet.picture(reference), reference, load_image),
    **dict.fromkeys(urls.WEB, urls.from_web),
}
