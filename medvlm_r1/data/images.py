"""Open a picture by its reference: a file, a place in one, or ``scheme:…`` for one that is drawn or changed when asked for.

A place is what follows "#": ``cine.dcm#frame=3``, ``head.nii.gz#axis=2&slice=17``.
A new file kind is one line of OPENERS or PLACED, a new scheme one line of SCHEMES.
"""

import difflib
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path

from PIL import Image

from medvlm_r1.data import parquet, urls
from medvlm_r1.data.foreign import errors_as
from medvlm_r1.data.kinds import content_kind, head_of
from medvlm_r1.data.raster import PAGES, open_raster
from medvlm_r1.data.views import EFFECTS
from medvlm_r1.errors import ImageError, install, nearest

WINDOW = ("center", "width")  # the keys whose values need not be whole numbers
_PAIR = r"[a-z]+=-?\d+(?:\.\d+)?"
Opener = Callable[[Path, Mapping[str, float]], Image.Image]


def load_image(reference: str) -> Image.Image:
    """The picture that a reference names, decoded to its last pixel, as 8-bit RGB.

    What a file is, its content says; the name counts where that says nothing. Levels beyond 8 bits are stretched
    from the least to the greatest (``data.raster``), those of DICOM and NIfTI through a window (``data.dicom``, ``data.nifti``);
    transparency is laid over white, as Qwen's own loader does; a rotation in the
    EXIF header is applied; of several frames the first is taken unless one is named.

    Raises ImageError, and nothing else, where the picture is missing, truncated, of an unknown kind or no image.
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
    return _opener(path, keys, reference)(path, keys).convert("RGB")


def scheme_of(reference: str) -> str:
    """What stands before the colon, or "" for a plain path.

    >>> scheme_of("phantom:mri/train/3"), scheme_of("images/00017.png"), scheme_of("https://a.b/c.png")
    ('phantom', '', 'https')
    """
    match = re.match(r"([A-Za-z][A-Za-z0-9+-]+):", reference)
    return match[1] if match else ""


def place(reference: str) -> tuple[str, dict[str, float]]:
    """The file of a reference, and the place in it.

    >>> place("head.nii.gz#axis=2&slice=17"), place("pet.dcm#center=0.1&width=0.2"), place("case #3.png")
    (('head.nii.gz', {'axis': 2, 'slice': 17}), ('pet.dcm', {'center': 0.1, 'width': 0.2}), ('case #3.png', {}))
    """
    match = re.fullmatch(rf"(.+)#({_PAIR}(?:&{_PAIR})*)", reference, re.DOTALL)
    if not match:
        return reference, {}
    pairs = (pair.partition("=") for pair in match[2].split("&"))
    return match[1], {key: float(value) if "." in value else int(value) for key, _, value in pairs}


def content_hash(image: Image.Image) -> str:
    """64 hex digits (SHA-256) of size, mode and pixels; equal exactly when the decoded pictures are.

    >>> content_hash(Image.new("L", (2, 2), 7)) == content_hash(Image.new("L", (2, 2), 7))
    True
    """
    head = f"{image.mode} {image.width}x{image.height}\n".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()


def kind_of(path: Path) -> str:
    """The suffix that decides who opens a file; where it is none of ours, the one that the content should have, if any.

    >>> kind_of(Path("a/b.PNG")), kind_of(Path("head.nii.gz")), kind_of(Path("notes.gz"))
    ('.png', '.nii.gz', '.gz')
    """
    name = path.name.lower()
    if name.endswith(".nii.gz"):
        return ".nii.gz"
    suffix = path.suffix.lower()
    if suffix in {*OPENERS, *PLACED} or not path.is_file():
        return suffix
    return content_of(path) or suffix


def content_of(path: Path) -> str:
    """The suffix that a file's first bytes stand for, or "". Raises ImageError where it cannot be read."""
    with errors_as(f'image "{path}" cannot be read ({{why}}); check its permissions'):
        return content_kind(head_of(path)[0])


def _opener(path: Path, keys: Mapping[str, float], reference: str) -> Opener:
    kind = content_of(path) or kind_of(path)
    if kind in PLACED:
        known, opener = PLACED[kind]()
    elif kind in OPENERS:
        known, opener = PAGES if kind in (".tif", ".tiff") else (), OPENERS[kind]
    else:
        raise ImageError(f'image "{reference}" has the unknown suffix "{path.suffix}"; convert it to one of {", ".join([*OPENERS, *PLACED])}')
    if keys and not known:
        raise ImageError(f'image "{reference}" is a single picture; drop what follows "#"')
    for key, value in keys.items():
        if key not in known:
            raise ImageError(f'image "{reference}" has the unknown key "{key}"{nearest(key, known)}')
        if isinstance(value, float) and key not in WINDOW:
            raise ImageError(f'image "{reference}" has {key}={value}, which is no whole number; write {key}={round(value)}')
    return opener


def _require_file(path: Path, reference: str) -> None:
    if not path.exists():
        head, mark, place_in_it = reference.rpartition("#")
        if mark and Path(head).is_file():
            raise ImageError(f'image "{reference}" has "{place_in_it}" after "#", which is no place in a file; write #frame=3 or #center=40&width=400')
        folder = path.parent
        beside = [file.name for file in islice(folder.iterdir(), 10_000)] if folder.is_dir() else []
        close = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.8)
        hint = f'did you mean "{close[0]}"?' if close else f'copy it into "{folder}" or correct the path'
        raise ImageError(f'image "{reference}" is missing; {hint}')
    if not path.is_file():
        raise ImageError(f'image "{reference}" is no file; name a picture inside it')
    if path.stat().st_size == 0:
        raise ImageError(f'image "{reference}" is empty (0 bytes); copy it again from its source')


def _dicom() -> tuple[Sequence[str], Opener]:
    try:
        from medvlm_r1.data import dicom
    except ModuleNotFoundError as error:
        raise ImageError(f"a DICOM file needs pydicom; {install('pydicom', 'pylibjpeg', 'pylibjpeg-openjpeg', 'pyjpegls')}") from error
    return dicom.KEYS, dicom.open_dicom


def _nifti() -> tuple[Sequence[str], Opener]:
    from medvlm_r1.data import nifti

    return nifti.KEYS, nifti.open_nifti


def _phantom(reference: str) -> Image.Image:
    from medvlm_r1.data.phantom import sets

    return sets.open_reference(reference)


def _viewed(reference: str) -> Image.Image:
    name, _, shown = reference.partition(":")
    return EFFECTS[name](load_image(shown))


OPENERS: dict[str, Opener] = dict.fromkeys((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"), open_raster)
PLACED = {".dcm": _dicom, ".dicom": _dicom, ".nii": _nifti, ".nii.gz": _nifti}  # imported when first needed
DRAWN: dict[str, Callable[[str], Image.Image]] = {"phantom": _phantom, **dict.fromkeys(EFFECTS, _viewed)}
SCHEMES: dict[str, Callable[[str], Image.Image]] = DRAWN | {
    "file": lambda reference: urls.open_file(reference, load_image),
    "data": lambda reference: urls.open_data(reference, load_image),
    "parquet": lambda reference: urls.open_bytes(*parquet.picture(reference), reference, load_image),
    **dict.fromkeys(urls.WEB, urls.from_web),
}
