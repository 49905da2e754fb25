"""Pictures that a URL names: ``file:`` is a path, ``data:`` holds the picture itself, and nothing is fetched from the web."""

import base64
import binascii
import re
import tempfile
from collections.abc import Callable
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from PIL import Image

from medvlm_r1.data.kinds import content_kind
from medvlm_r1.errors import ImageError

MOST_BYTES = 64 * 2**20  # of a picture inside a data: URL
_SHOWN = 48  # of a data: URL in a message
WEB = ("http", "https", "ftp", "ftps", "s3", "gs", "hf")
_HEAD_BYTES = 8192
LoadImage = Callable[[str], Image.Image]


def from_web(reference: str) -> Image.Image:
    """Raises ImageError: a question set that fetched its pictures would be another one every day, and tell others what is looked at."""
    raise ImageError(f'image "{reference}" is on the web, and no picture is fetched from there; download it, and name the file')


def local(url: str) -> str:
    """The path that a ``file:`` URL names, with the place behind "#" as it stands; "" for a file of another machine.

    >>> local("file:///data/im%20a.png"), local("file://localhost/x/cine.dcm#frame=3"), local("file:im/a.png"), local("file://nas/a.png")
    ('/data/im a.png', '/x/cine.dcm#frame=3', 'im/a.png', '')
    """
    parts = urlsplit(url)
    return unquote(parts.path) + (f"#{parts.fragment}" if parts.fragment else "") if parts.netloc in ("", "localhost") else ""


def open_file(url: str, load_image: LoadImage) -> Image.Image:
    """The picture that a ``file:`` URL names. Raises ImageError."""
    if path := local(url):
        return load_image(path)
    raise ImageError(f'image "{url}" is a file of another machine; copy it here, and write its path')


def open_data(url: str, load_image: LoadImage) -> Image.Image:
    """The picture inside a ``data:`` URL, of any kind that ``load_image`` opens. Raises ImageError."""
    content, mark, at = url.partition("#")
    name = url if len(url) <= _SHOWN else f"{url[:_SHOWN]}…"
    return open_bytes(_decoded(content, name), mark + at, name, load_image)


def open_bytes(content: bytes, at: str, name: str, load_image: LoadImage) -> Image.Image:
    """A picture that is no file, through the loader of files: one of each kind, with all its rules. ``at`` is the place in it."""
    suffix = suffix_of(content)
    if not suffix:
        raise ImageError(f'image "{name}" begins with {content[:4]!r}, as no picture does that is read here; make it a PNG, or drop the question')
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(content)
        file.flush()
        try:
            return load_image(file.name + at)
        except ImageError as error:
            raise ImageError(str(error).replace(file.name + at, name).replace(file.name, name)) from error


def suffix_of(content: bytes) -> str:
    """The suffix of a picture's kind by its first bytes; "" where they are of no known kind.

    >>> suffix_of(b"\\xff\\xd8\\xff\\xe0..JFIF"), suffix_of(bytes(128) + b"DICM"), suffix_of(b"GIF89a")
    ('.jpg', '.dcm', '')
    """
    return ".nii.gz" if content.startswith(b"\x1f\x8b") else content_kind(content[:_HEAD_BYTES])


def _decoded(url: str, name: str) -> bytes:
    head, comma, content = url[len("data:") :].partition(",")
    if len(content) > MOST_BYTES * 4 // 3 + 4:
        raise ImageError(f'image "{name}" holds {len(content):,} signs, more than {MOST_BYTES // 2**20} MiB; write it into a file, and name that')
    try:
        is_base64 = head.lower().rstrip().endswith(";base64")
        plain = re.sub(r"\s+", "", unquote(content))
        # A missing "=" at the end loses nothing.
        decoded = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True) if is_base64 else unquote_to_bytes(content)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f'image "{name}" is no base64 ({error}); write the picture into a file, and name that') from error
    if not (comma and decoded):
        raise ImageError(f'image "{name}" holds no picture; write data:image/png;base64,…, or name a file')
    return decoded
