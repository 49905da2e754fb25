"""Where other people's libraries read a file: what they raise becomes one sentence of ours, and nothing else gets out.

A file can make pydicom, nibabel or Pillow raise almost anything, ``RecursionError`` and ``MemoryError`` included. So the
calls into them, and no code of ours, stand under ``errors_as``.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from medvlm_r1.errors import ImageError

MAX_PIXELS = 2**26  # of one picture: 8192 x 8192, four times the largest mammogram; checked before anything is decoded
_MOST_CHARACTERS = 200


@contextmanager
def errors_as(sentence: str) -> Iterator[None]:
    """Raises ImageError(``sentence``) where the calls inside raise; "{why}" in it becomes their reason.

    >>> with errors_as('image "a.dcm" is corrupt ({why}); copy it again'):
    ...     int("x")
    Traceback (most recent call last):
    medvlm_r1.errors.ImageError: image "a.dcm" is corrupt (invalid literal for int() with base 10: 'x'); copy it again
    """
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(sentence.replace("{why}", _reason(error))) from error


def _reason(error: Exception) -> str:
    """A message in one line, or the kind of error where it says nothing."""
    return printable(" ".join(str(error).split()))[:_MOST_CHARACTERS] or type(error).__name__


def printable(text: str) -> str:
    """Without the signs that a terminal would obey.

    >>> printable("\\x1b[31mred\\0")
    '[31mred'
    """
    return "".join(sign for sign in text if sign.isprintable()).strip()


def require_pixels(width: int, height: int, name: str) -> None:
    """Raises ImageError for a picture of no pixels, or of so many that decoding it could exhaust the memory."""
    if width < 1 or height < 1:
        raise ImageError(f'image "{name}" has {width} x {height} pixels; replace the file or drop the question')
    if width * height > MAX_PIXELS:
        raise ImageError(f'image "{name}" is too large ({width} x {height} pixels, at most {MAX_PIXELS}); scale it down first')
