"""PNG files that are pixels and nothing else are known without a decoder: their parts counted, their sums checked, their rows inflated once.

Such a file is passed on as it is, and no process is forked for it, which costs ten times as much. Nothing in C is given a byte of
it but zlib, whose output is bounded beforehand. Whatever is otherwise in any way is for the file process, which also says what is wrong.
"""

import struct
import zlib
from dataclasses import dataclass, field

MOST_PIXELS = 2**24  # of what is shown: 4096 x 4096, more than a mammogram
_MAGIC = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3}  # of the colour types grey and colour (PNG 11.2.2)
_UNSEEN = (b"pHYs", b"tIME", b"gAMA", b"sRGB", b"cHRM")  # left out: no pixel that is shown depends on them. A text may hold a rotation
_MOST_FILTER = 4  # Paeth (PNG 9.2)
_PIECE_BYTES = 2**16
_FEW_PARTS, _PART_BYTES = 64, 2**11  # encoders write parts of 4 KiB and more; twenty megabytes of empty ones cost eight seconds


@dataclass(frozen=True)
class Head:
    """What IHDR says of a plain picture. ``bytes``: of its rows, each with its filter's number before it.

    >>> Head(2, 3, 1).bytes
    9
    """

    width: int
    height: int
    channels: int

    @property
    def stride(self) -> int:
        """Bytes from row to row."""
        return 1 + self.width * self.channels

    @property
    def bytes(self) -> int:
        """Of all rows."""
        return self.stride * self.height


@dataclass(frozen=True)
class Plain:
    """A file whose head and parts are those of a plain picture; ``is_whole`` looks at its rows."""

    head: Head
    png: bytes = field(repr=False)  # without what is left out
    rows: tuple[bytes, ...] = field(repr=False)  # deflated

    def is_whole(self) -> bool:
        """Do the rows inflate to just as many as there should be, each with a filter that there is? Up to 0.1 s for 16 million pixels."""
        inflate, at = zlib.decompressobj(), 0
        for part in (*self.rows, b""):
            while True:
                try:
                    piece = inflate.decompress(part, _PIECE_BYTES)
                except zlib.error:
                    return False
                if max(piece[-at % self.head.stride :: self.head.stride], default=0) > _MOST_FILTER:
                    return False
                at, part = at + len(piece), inflate.unconsumed_tail
                if at > self.head.bytes or inflate.unused_data:
                    return False
                if not part and len(piece) < _PIECE_BYTES:
                    break
        return inflate.eof and at == self.head.bytes


def work_of(data: bytes) -> int:
    """About how many bytes ``plain`` and ``is_whole`` will look at, by what the file says of itself."""
    claimed = struct.unpack_from(">II", data, 16) if data.startswith(_MAGIC) and len(data) >= 24 else (0, 0)
    return len(data) + min(claimed[0] * claimed[1], MOST_PIXELS)


def plain(data: bytes) -> Plain | None:
    """The file, where it is a PNG with 8 bits of grey or colour, not interlaced, with true sums, and nothing that changes what is shown."""
    if not data.startswith(_MAGIC):
        return None
    at, kept, rows, head = len(_MAGIC), [_MAGIC], list[bytes](), None
    for _ in range(_FEW_PARTS + len(data) // _PART_BYTES):
        part = _part(data, at)
        if part is None:
            return None
        kind, content, end = part
        if head is None:
            head = _head(content) if kind == b"IHDR" else None
            if head is None:
                return None
        elif kind == b"IDAT":
            rows.append(content)
        elif kind not in (b"IEND", *_UNSEEN):
            return None
        if kind not in _UNSEEN:
            kept.append(data[at:end])
        if kind == b"IEND":
            return None if content else Plain(head, b"".join(kept), tuple(rows))
        at = end
    return None


def _part(data: bytes, at: int) -> tuple[bytes, bytes, int] | None:
    """A chunk's kind, its content and where it ends; None where it is cut off or its sum is wrong."""
    if at + 12 > len(data):
        return None
    size, kind = struct.unpack_from(">I4s", data, at)
    end = at + 12 + size
    if end > len(data) or zlib.crc32(memoryview(data)[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
        return None
    return kind, data[at + 8 : end - 4], end


def _head(content: bytes) -> Head | None:
    if len(content) != 13:
        return None
    width, height, depth, colour, *others = struct.unpack(">IIBBBBB", content)
    if depth != 8 or colour not in _CHANNELS or any(others) or not 0 < width * height <= MOST_PIXELS:
        return None
    return Head(width, height, _CHANNELS[colour])
