"""Fingerprints of pictures, and the search for those that look alike.

Two pictures are the same where their decoded pixels are; they look alike where
at most NEAR_BITS of 64 perceptual bits differ. The hash sees coarse structure
only: it bears another size, JPEG quality or contrast; not a mirror or a crop.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.fft import dctn

from medvlm_r1.data.images import content_hash
from medvlm_r1.errors import ImageError

NEAR_BITS = 3
_BANDS = 4  # of 16 bits: three differing bits leave at least one band of four untouched
_SIDE_PX = 32
_BLOCK = 1024

LoadImage = Callable[[str], Image.Image]


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of a picture: 64 hex digits that are equal exactly when its pixels are, and 64 bits of how it looks.

    >>> f = Fingerprint("a.png", "9f…", 0b1011)
    >>> (f.bits ^ 0b1000).bit_count()
    2
    """

    reference: str
    pixels: str
    bits: int


@dataclass(frozen=True)
class Failure:
    """A picture that could not be opened, and why."""

    reference: str
    reason: str


def fingerprints(references: Sequence[str], load_image: LoadImage, workers: int = 2) -> Iterator[Fingerprint | Failure]:
    """One for each reference, in order; no more pictures are open at a time than there are workers.

    Threads and not processes: decoding and hashing release the interpreter's lock.
    """

    def one(reference: str) -> Fingerprint | Failure:
        try:
            image = load_image(reference)
        except ImageError as error:  # an audit counts broken pictures, it does not stop at them
            return Failure(reference, str(error))
        return Fingerprint(reference, content_hash(image), perceptual_hash(image))

    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(references), _BLOCK):
            yield from pool.map(one, references[start : start + _BLOCK])


def perceptual_hash(image: Image.Image) -> int:
    """64 bits: which of the lowest 8 × 8 cosine waves of the grey picture, 32 × 32, lie above their median.

    The mean, the very lowest, counts as 0: brightness says nothing about the picture.

    >>> picture = Image.effect_mandelbrot((256, 256), (-2, -1.2, 0.8, 1.4), 100)
    >>> paler = picture.resize((90, 90)).point(lambda level: 20 + level // 2)
    >>> [(perceptual_hash(picture) ^ perceptual_hash(other)).bit_count() <= NEAR_BITS for other in (paler, picture.rotate(90))]
    [True, False]
    """
    grey = np.asarray(image.convert("L").resize((_SIDE_PX, _SIDE_PX), Image.Resampling.LANCZOS), dtype=np.float64)
    waves = dctn(grey, norm="ortho")[:8, :8].ravel()
    waves[0] = 0.0
    return int.from_bytes(np.packbits(waves > np.median(waves)).tobytes(), "big")


def near_pairs(hashes_N: np.ndarray) -> np.ndarray:
    """All pairs (i, j), i < j, of different 64-bit hashes with at most NEAR_BITS bits between them, sorted.

    The hashes are to be distinct. Those that share a band of 16 bits are compared;
    no pair is missed, because three bits cannot spoil four bands.

    >>> near_pairs(np.array([0b0000, 0b0111, 0b1111, 1 << 63], dtype=np.uint64)).tolist()
    [[0, 1], [0, 3], [1, 2]]
    """
    found: set[tuple[int, int]] = set()
    for band in range(_BANDS):
        key_N = (hashes_N >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.argsort(key_N, kind="stable")
        edges = np.flatnonzero(np.diff(key_N[order])) + 1
        for bucket in np.split(order, edges):
            for place in range(len(bucket) - 1):
                first, others = bucket[place], bucket[place + 1 :]  # ascending: the sort is stable
                near = others[np.bitwise_count(hashes_N[others] ^ hashes_N[first]) <= NEAR_BITS]
                found.update((int(first), int(other)) for other in near)
    return np.array(sorted(found), dtype=np.int64).reshape(-1, 2)
