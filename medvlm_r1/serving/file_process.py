"""The process that opens other people's files: one child for each, with little memory, little time and nothing to write to.

It is started with one end of a socket and loads the readers of pictures, and no torch. For each file it is sent a
connection, forks, and the child reads the file from it, opens it in memory and sends back what the model is to see, or the
whole stack that a person pages through. Whatever a file does to a decoder, it does to one child that has nobody else's data.

    python -m medvlm_r1.serving.file_process FD
"""

import gc
import hashlib
import importlib.util
import io
import json
import os
import re
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from medvlm_r1.data.images import load_image
from medvlm_r1.data.stacks import load_stack
from medvlm_r1.data.study import instance
from medvlm_r1.data.urls import suffix_of
from medvlm_r1.errors import ImageError
from medvlm_r1.serving.plain_png import MOST_PIXELS

MOST_SECONDS = 10
MOST_MEMORY_BYTES = 3 * 2**29  # of one child
NICE = 3  # the front answers first, then files are opened, then tokens are written
_OPEN_FILES = 32
HEAD_BYTES, ALIGNED = 4, 8  # the length before a stack's header, and a multiple of what its samples begin at


def keep(channel: socket.socket) -> None:
    """Say that it begins, then fork a child for every connection that comes over ``channel``, until its other end closes."""
    os.nice(NICE)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are not waited for
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the front's business
    if importlib.util.find_spec("pydicom"):  # an extra; loaded here once, and not in every child
        importlib.import_module("medvlm_r1.data.dicom.stack")
    importlib.import_module("medvlm_r1.data.nifti_stack")
    _warm()
    gc.collect()
    gc.freeze()  # what a child does not touch needs no copy
    channel.send(b"!")
    while True:
        try:
            message, connections, _, _ = socket.recv_fds(channel, 1, 1)
        except ConnectionResetError:  # its other end closed before it read our byte
            return
        if not message:
            return
        if os.fork() == 0:
            try:
                channel.close()
                _child(socket.socket(fileno=connections[0]))
            finally:  # without what Python does at its end
                os._exit(0)
        os.close(connections[0])


def _warm() -> None:
    """Pillow loads its formats when it first opens and writes a picture: here, once, and not in every child."""
    with os.fdopen(os.memfd_create("warm"), "wb") as file:
        file.write(png_of(Image.new("RGB", (8, 8))))
        file.flush()
        png_of(load_image(f"/proc/self/fd/{file.fileno()}"))


def _child(connection: socket.socket) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process wherever it is
    signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
    with connection, connection.makefile("rwb") as stream:
        asked = json.loads(stream.readline())
        data = stream.read(asked["size"])
        stream.write(whole(data) if asked["whole"] else opened(data, asked["place"]))


def opened(data: bytes, place: str) -> bytes:
    """A line that says what came of a file, and behind it the PNG, if any. Nothing is written to a disk."""

    def picture(path: str) -> bytes:
        image = load_image(path + place)
        _require_room(image.width, image.height)
        png = png_of(image)
        told = {"width": image.width, "height": image.height, "size": len(png), **_known(path)}
        return _line(code="", sha256=hashlib.sha256(png).hexdigest(), **told) + png

    return _in_memory(data, picture)


def _known(path: str) -> dict[str, Any]:
    """The UIDs by which a report could name it; most pictures have none."""
    try:
        found = instance(path)
    except ImageError:
        return {"instance": None}
    names = ("study_uid", "series_uid", "sop_class_uid", "sop_instance_uid", "number_of_frames")
    return {"instance": {name: getattr(found, name) for name in names}}


def whole(data: bytes) -> bytes:
    """A line that says what came of a file, and behind it the header and the samples of all its frames (``reading.pictures``), if any."""

    def stack(path: str) -> bytes:
        found = load_stack(Path(path))
        rows, columns = found.samples.shape[1:3]
        _require_room(columns, rows)
        head = json.dumps({**found.header, "sha256": hashlib.sha256(data).hexdigest()}, allow_nan=False).encode()
        head += b" " * (-(len(head) + HEAD_BYTES) % ALIGNED)
        samples = found.samples.astype(found.samples.dtype.newbyteorder("<"), copy=False).tobytes()
        return b"".join((_line(code="", size=HEAD_BYTES + len(head) + len(samples)), len(head).to_bytes(HEAD_BYTES, "little"), head, samples))

    return _in_memory(data, stack)


def _in_memory(data: bytes, reader: Callable[[str], bytes]) -> bytes:
    """What ``reader`` makes of the file, which has a path and no place on a disk; or a line that says why it cannot."""
    if not suffix_of(data):
        return _line(code="unsupported", why="the picture is of no kind that is read here; send PNG, JPEG, TIFF, BMP, DICOM or NIfTI")
    memory = os.memfd_create("picture")
    with os.fdopen(memory, "wb") as file:
        file.write(data)
        file.flush()
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
        try:
            return reader(f"/proc/self/fd/{memory}")
        except ImageError as error:
            why = plain(str(error))
            return _line(code="large" if "too large" in why or "unpacks to more" in why else "corrupt", why=why)


def _require_room(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise ImageError(f"the picture is too large, at most {MOST_PIXELS} pixels; scale it down first")


def png_of(image: Image.Image) -> bytes:
    """The picture as PNG; one without colour has one channel, which opens as the same picture."""
    red, green, blue = image.split()
    if red.tobytes() == green.tobytes() == blue.tobytes():
        image = red
    data = io.BytesIO()
    image.save(data, "PNG", compress_level=1)
    return data.getvalue()


def plain(text: str) -> str:
    """What may be told of a file that cannot be opened: our own words, up to where the file's own could begin, and the remedy.

    >>> plain('image "/proc/self/fd/5" is truncated or corrupt (bad value: DOE^JANE); copy it again from its source')
    'the picture is truncated or corrupt; copy it again from its source'
    >>> plain('image "x" has the transfer syntax DOE, which is not read; send it uncompressed')
    'the picture cannot be opened; send it uncompressed'
    """
    what, _, remedy = text.rpartition("; ")
    what = re.sub(r'^(question "[^"]*": )?image "[^"]*"', "the picture", what)
    words = re.split(r'[("\[:]', what)[0].strip()
    foreign = "transfer syntax" in words or not words.startswith("the picture ") or not re.fullmatch(r"[\w ,.'/-]*", words)
    return f"{'the picture cannot be opened' if foreign else words}; {re.split(r'[(]', remedy)[0].strip()}"


def _line(**values: Any) -> bytes:
    return json.dumps(values).encode() + b"\n"


if __name__ == "__main__":
    keep(socket.socket(fileno=int(sys.argv[1])))
