"""PNG, JPEG, TIFF and BMP as 8-bit RGB, whatever their depth, colours and polarity.

Pillow shows the upper byte of 16-bit colour, so that 12-bit values in it come out nearly black, takes a 16-bit TIFF's
"white is zero" for black is zero, and signed and unsigned for the same. Those are read here from all of their bits.
"""

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from medvlm_r1.data.foreign import errors_as, require_pixels
from medvlm_r1.data.kinds import content_kind, head_of, not_an_image
from medvlm_r1.data.window import finite, over_white, window
from medvlm_r1.errors import ImageError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
PAGES = ("frame",)  # the keys of a TIFF, which may have several pages
_UNSIGNED, _SIGNED = 1, 2  # SampleFormat, TIFF 6.0
_WHITE_IS_ZERO, _IN_ONE = 0, 1  # PhotometricInterpretation, PlanarConfiguration
# Read with the other byte order, the "upper" byte of 16-bit colour is the lower one. N is this machine's order.
_LOWER = {f"{mode};16{order}": f"{mode};16{other}" for mode in ("RGB", "RGBA", "RGBX") for order, other in ("BL", "LB")}
_LOWER |= {f"{mode};16N": f"{mode};16{'B' if np.little_endian else 'L'}" for mode in ("RGB", "RGBA", "RGBX")}
_GREY_WITH_OPACITY = "LA;16B"  # of PNG
# libtiff gives every level in this machine's order; for these Pillow takes them to be in the file's.
_NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}
_SHOWN = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")

# What a header does against the standard is weighed here; Pillow's own warnings would only tell of it on a user's screen.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Loaded:
    """A picture as Pillow has it, turned as its EXIF header says, and what Pillow does not heed; of another file than TIFF as if it were a plain one."""

    image: Image.Image
    rawmodes: frozenset[str]  # Pillow's names for how the pixels are packed
    bits: int  # of a sample (TIFF 6.0, tag 258)
    photometric: int  # 262
    planar: int  # 284
    sample_format: int  # 339

    @property
    def is_deep_colour(self) -> bool:
        """Is this colour, of which Pillow keeps the upper byte?"""
        return self.image.mode in ("RGB", "RGBA", "CMYK") and (self.bits > 8 or any(";16" in rawmode for rawmode in self.rawmodes))

    @property
    def is_deep_grey(self) -> bool:
        """Is this grey of other levels than 0 to 255?"""
        mode = self.image.mode
        return mode == "F" or mode.startswith("I") or (mode == "L" and self.sample_format == _SIGNED)


def open_raster(path: Path, keys: Mapping[str, float]) -> Image.Image:
    """One picture, 8-bit RGB; ``frame`` (from 0) names a page of a TIFF, the first if left out.

    Levels of more than 8 bits, grey or colour, are stretched from their least to their greatest; NaN is background, and
    black. Transparency is laid over white. A rotation in the EXIF header is applied.
    Raises ImageError, and nothing else, for a file that cannot be shown.
    """
    page = int(keys.get("frame", 0))
    loaded = _loaded(path, page)
    image = loaded.image
    if loaded.is_deep_colour:
        return _stretched(*_deep_colour(path, page, loaded), loaded, path)
    if loaded.is_deep_grey:
        return _stretched(_grey(loaded), None, loaded, path)
    if image.mode not in _SHOWN:
        raise ImageError(f'image "{path}" is in the colour space {image.mode}, which is not shown; convert it to RGB')
    with errors_as(f'image "{path}" is truncated or corrupt ({{why}}); copy it again from its source'):
        shown = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return over_white(shown, str(path)) if shown.mode == "RGBA" else shown


def size_of(path: Path) -> tuple[int, int]:
    """(width, height) by the header alone. Raises ImageError where there is none."""
    with _opened(path) as image:
        return image.size


def n_pages(path: Path) -> int:
    """How many pages by the header alone. Raises ImageError where there is none."""
    with _opened(path) as image, errors_as(f'image "{path}" is truncated or corrupt ({{why}}); copy it again from its source'):
        return int(getattr(image, "n_frames", 1))


def _stretched(levels: np.ndarray, alpha: np.ndarray | None, loaded: Loaded, path: Path) -> Image.Image:
    known = finite(levels, str(path))
    shown = window(levels, float(known.min()), float(known.max())).convert("RGB")
    missing = loaded.image.info.get("transparency")
    if alpha is None and missing is not None:  # PNG 11.3.1.1: one level, or one colour, that is not there
        there = levels != np.asarray(missing)
        alpha = 255 * (there if levels.ndim == 2 else there.any(axis=-1)).astype(np.uint8)
    if alpha is None:
        return shown
    shown.putalpha(Image.fromarray(alpha))
    return over_white(shown, str(path))


def _grey(loaded: Loaded) -> np.ndarray:
    """Levels of any depth with their sign; those of a TIFF in which the least is white, turned."""
    levels = np.asarray(loaded.image)
    if loaded.image.mode == "L":
        levels = levels.view(np.int8)
    elif loaded.image.mode == "I" and (loaded.sample_format, loaded.bits) == (_UNSIGNED, 32):
        levels = levels.view(np.uint32)
    return -levels.astype(np.float64) if loaded.photometric == _WHITE_IS_ZERO else levels


def _deep_colour(path: Path, page: int, loaded: Loaded) -> tuple[np.ndarray, np.ndarray | None]:
    """(height, width, 3) levels of 16 bits, and the upper byte of their opacity, if any."""
    if loaded.rawmodes == {_GREY_WITH_OPACITY}:  # four bytes, which Pillow also reads as RGBA
        words = np.asarray(_loaded(path, page, {_GREY_WITH_OPACITY: "RGBA"}).image).astype(np.uint16)
        return np.repeat(words[..., :1] << 8 | words[..., 1:2], 3, axis=-1), words[..., 2].astype(np.uint8)
    if not loaded.rawmodes <= _LOWER.keys() or loaded.planar != _IN_ONE:
        what = f"{loaded.image.mode}, {'pixel by pixel' if loaded.planar == _IN_ONE else 'in planes'}"
        raise ImageError(f'image "{path}" has 16-bit colour of a kind that is not read ({what}); convert it to 16-bit RGB PNG')
    upper, lower = (np.asarray(image).astype(np.uint16) for image in (loaded.image, _loaded(path, page, _LOWER).image))
    levels = upper[..., :3] << 8 | lower[..., :3]
    return levels, upper[..., 3].astype(np.uint8) if upper.shape[-1] == 4 else None


def _loaded(path: Path, page: int, other: Mapping[str, str] | None = None) -> Loaded:
    """Page ``page``; ``other`` names another packing for some of Pillow's."""
    with _opened(path) as image, errors_as(f'image "{path}" is truncated or corrupt ({{why}}); copy it again from its source'):
        if page:
            n_pages = getattr(image, "n_frames", 1)
            if not 0 <= page < n_pages:
                raise ImageError(f'image "{path}" has no frame {page}; it has {n_pages}, counted from 0')
            image.seek(page)
            require_pixels(*image.size, str(path))
        rawmodes = frozenset(_rawmode(tile) for tile in image.tile)
        image.tile = [_packed(tile, other or {}) for tile in image.tile]
        image.load()  # Pillow reads lazily: a truncated file shows only here
        ImageOps.exif_transpose(image, in_place=True)
        return Loaded(image, rawmodes, _tag(image, 258, 8), _tag(image, 262, -1), _tag(image, 284, _IN_ONE), _tag(image, 339, _UNSIGNED))


def _tag(image: Image.Image, number: int, default: int) -> int:
    """The first value of a TIFF's tag."""
    value = getattr(image, "tag_v2", {}).get(number, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _rawmode(tile: ImageFile._Tile) -> str:
    return str(tile.args if isinstance(tile.args, str) else next(iter(tile.args or ()), ""))


def _packed(tile: ImageFile._Tile, other: Mapping[str, str]) -> ImageFile._Tile:
    if tile.codec_name == "libtiff":
        other = {**_NATIVE, **other}
    rawmode = other.get(_rawmode(tile))
    if rawmode is None:
        return tile
    return tile._replace(args=rawmode if isinstance(tile.args, str) else (rawmode, *(tile.args or ())[1:]))


def _opened(path: Path) -> ImageFile.ImageFile:
    """A file whose header Pillow has read, and no more of it."""
    with errors_as(f'image "{path}" cannot be read ({{why}}); check its permissions'):
        head, zipped = head_of(path)
    with errors_as(f'image "{path}" is truncated or corrupt ({{why}}); copy it again from its source'):
        try:
            image = Image.open(path, formats=FORMATS)
        except UnidentifiedImageError as error:
            kind = content_kind(head)[1:].upper()
            if not kind:
                raise not_an_image(path, head, zipped) from error
            why = f"is a {kind} file that is damaged or stores its pixels in a rare way"
            raise ImageError(f'image "{path}" {why}; copy it again from its source, or convert it to PNG') from error
        except Image.DecompressionBombError as error:
            raise ImageError(f'image "{path}" is too large ({error}); scale it down first') from error
    try:
        require_pixels(*image.size, str(path))
    except ImageError:
        image.close()
        raise
    return image
