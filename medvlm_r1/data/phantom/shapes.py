"""Small geometric and photographic tools that all phantom renderers share.

Arrays of a picture are float32, shape (H, W), row 0 at the top, column 0 at the
image's left, which is the patient's right. Lengths are mm unless named px.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from medvlm_r1.data.phantom.scene import Scene, stream

MATRIX = 192  # pixels a side before the picture is scaled to its size
SIDE_SIGN = {"left": 1.0, "right": -1.0}  # the patient's left lies on the image's right
_R = np.array([[int(bit) for bit in row] for row in ("11110", "10001", "10001", "11110", "10100", "10010", "10001")], np.float32)


def ramp(depth: np.ndarray, edge: float = 1.0) -> np.ndarray:
    """0 outside, 1 inside, linear over `edge` mm around depth 0.

    >>> ramp(np.float32([-1, 0, 1])).tolist()
    [0.0, 0.5, 1.0]
    """
    return np.clip(depth * np.float32(1 / edge) + np.float32(0.5), 0, 1)


def texture(rng: np.random.Generator, shape: tuple[int, int], grain_px: float) -> np.ndarray:
    """Smooth Gaussian noise (H, W) of standard deviation near 1, blobs of grain_px."""
    rows, cols = (max(3, int(n / grain_px) + 2) for n in shape)
    coarse = rng.standard_normal((rows, cols), np.float32)
    return 1.25 * np.asarray(Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC))


def waves(rng: np.random.Generator, u_mm: np.ndarray, v_mm: np.ndarray, amplitude_mm: float) -> np.ndarray:
    """Smooth random displacement (2, H, W) on the grid v x u: a sum of 5 plane waves."""
    wavelength_mm = rng.uniform(120, 300, 5)
    angle, phase = rng.uniform(0, 2 * np.pi, (2, 5))
    k = 2 * np.pi / wavelength_mm
    along_u = np.exp(1j * (k * np.cos(angle))[:, None] * u_mm)
    along_v = np.exp(1j * ((k * np.sin(angle))[:, None] * v_mm + phase[:, None]))
    return plane_waves(along_v, along_u, amplitude_mm / np.sqrt(5) * rng.standard_normal((2, 5)))


def plane_waves(along_v: np.ndarray, along_u: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Real part of sum_n weights[c, n] along_v[n, :, None] along_u[n]: (C, H, W) float32."""
    left = weights[:, :, None] * along_v
    left = np.concatenate([left.real, -left.imag], 1).astype(np.float32)
    right = np.concatenate([along_u.real, along_u.imag]).astype(np.float32)
    return left.transpose(0, 2, 1) @ right


def place(rng: np.random.Generator, candidates: np.ndarray, count: int, apart_mm: float) -> np.ndarray:
    """`count` of the candidate points (N, 2), at least apart_mm apart where they can be.

    Of many random choices the first that keeps the distance wins, else the widest.
    """
    picks = candidates[rng.integers(len(candidates), size=(400, count))]
    if count == 1:
        return picks[0]
    gaps = np.linalg.norm(picks[:, :, None] - picks[:, None], axis=-1)
    nearest = (gaps + 1e6 * np.eye(count)).min((1, 2))
    enough = nearest >= apart_mm
    return picks[enough.argmax() if enough.any() else nearest.argmax()]


def sides_of(side: str, count: int) -> list[float]:
    """The sign of x, positive to the image's right, for each of `count` lesions.

    >>> sides_of("both", 3), sides_of("right", 2)
    ([1.0, -1.0, 1.0], [-1.0, -1.0])
    """
    return [1.0 - 2.0 * (i % 2) for i in range(count)] if side == "both" else [SIDE_SIGN.get(side, 1.0)] * count


def place_on_sides(rng: np.random.Generator, candidates: np.ndarray, scene: Scene, apart_mm: float) -> np.ndarray:
    """Lesion centres (count, 2); candidates (N, 2) are for the left side, x >= 0.

    Mirroring happens last, so changing the side moves lesions to the mirrored place.
    """
    signs = sides_of(scene.side, scene.count)
    if scene.side == "both":
        points = np.empty((scene.count, 2))
        points[0::2] = place(rng, candidates, len(points[0::2]), apart_mm)
        points[1::2] = place(rng, candidates, len(points[1::2]), apart_mm)
    else:
        points = place(rng, candidates, scene.count, apart_mm).astype(float)
    points[:, 0] *= signs
    return points


class Canvas:
    """A patient's warped plane: coordinates u, v in mm and the value painted there, each (H, W).

    u grows to the image's right (the patient's left), v downwards, both before
    the patient's waves and proportions bent them, so painted organs bend too.
    """

    def __init__(self, scene: Scene, field_mm: float, background: float = -1000.0):
        self.rng = stream(scene, "anatomy")
        self.field_mm = field_mm
        steps_mm = ((np.arange(MATRIX) + 0.5) / MATRIX - 0.5) * field_mm
        bend = waves(self.rng, steps_mm, steps_mm, 4.0)
        width, height = self.rng.uniform(0.90, 1.05), self.rng.uniform(0.90, 1.07)
        self.u = (steps_mm / width + bend[0]).astype(np.float32)
        self.v = (steps_mm[:, None] / height + bend[1]).astype(np.float32)
        self.value = np.full_like(self.u, background)

    def ellipse(self, centre_mm: Sequence[float], axes_mm: Sequence[float], angle: float = 0.0) -> np.ndarray:
        """Depth (H, W) in mm under an ellipse's edge, near enough; negative outside."""
        u, v = self.u - np.float32(centre_mm[0]), self.v - np.float32(centre_mm[1])
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        across, down = (u * cos + v * sin) / np.float32(axes_mm[0]), (v * cos - u * sin) / np.float32(axes_mm[1])
        return np.float32(min(axes_mm)) * (1 - np.sqrt(across * across + down * down))

    def fill(self, depth_mm: np.ndarray, value: float | np.ndarray, edge_mm: float = 2.0) -> None:
        """Overwrite where depth is positive, with a soft edge."""
        self.value += ramp(depth_mm, edge_mm) * (value - self.value)

    def near(self, centre_mm: Sequence[float], reach_mm: float) -> "Canvas":
        """A view of the square around a point, so that a small organ costs little."""
        half_px = int(reach_mm * MATRIX / self.field_mm) + 1
        col, row = (int((x / self.field_mm + 0.5) * MATRIX) for x in centre_mm)
        where = np.s_[max(0, row - half_px) : row + half_px + 1, max(0, col - half_px) : col + half_px + 1]
        part = object.__new__(Canvas)
        part.u, part.v, part.value = self.u[where], self.v[where], self.value[where]
        return part

    def organ(self, centre_mm: Sequence[float], axes_mm: Sequence[float], value: float, angle: float = 0.0) -> None:
        """Fill an ellipse; the patient's warp displaces it by less than the 30 mm of margin."""
        part = self.near(centre_mm, max(axes_mm) + 30)
        part.fill(part.ellipse(centre_mm, axes_mm, angle), value)

    def spot(self, centre_mm: Sequence[float], axes_mm: Sequence[float], angle: float, value: float) -> None:
        """A tiny ellipse around a pixel; being tiny it follows the warp, not the coordinates."""
        part = self.near(centre_mm, max(axes_mm) + 2)
        if part.u.size:
            row, col = part.u.shape[0] // 2, part.u.shape[1] // 2
            part.fill(part.ellipse((part.u[row, col], part.v[row, col]), axes_mm, angle), value)


def window(values: np.ndarray, width: float, level: float) -> np.ndarray:
    """Linear display window to 0..1 (DICOM PS3.3 C.11.2.1.2).

    >>> window(np.float32([0, 40, 80]), 80, 40).tolist()
    [0.0, 0.5, 1.0]
    """
    return np.clip((values - np.float32(level - width / 2)) * np.float32(1 / width), 0, 1)


def to_image(grey: np.ndarray, size_px: int, marker: bool = True) -> Image.Image:
    """8-bit picture of size_px from grey values 0..1, with the "R" at the image's left."""
    pixels = (grey * 255 + 0.5).astype(np.uint8)
    image = Image.fromarray(pixels)
    if image.size != (224, 224):
        image = image.resize((224, 224), Image.Resampling.BICUBIC)
    if marker:
        glyph = Image.fromarray((np.kron(_R, np.ones((2, 2))) * 225).astype(np.uint8))
        image.paste(glyph, (8, 10), glyph)
    if size_px == 224:
        return image
    return image.resize((size_px, size_px), Image.Resampling.BOX if size_px < 224 else Image.Resampling.BICUBIC)
