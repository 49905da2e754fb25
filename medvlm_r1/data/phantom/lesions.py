"""Lesions of the head: where they may lie, what shape they take, what they push.

Lesions are shapes in the slice's plane in undeformed MNI millimetres (u, v):
axial (-x, y), coronal (-x, z), sagittal (y, z). The template is symmetric, so
mirroring a lesion changes the sign of u and nothing else.
Legend: H, W rows and columns; L lesions; N candidate points.
"""

from dataclasses import dataclass

import numpy as np

from medvlm_r1.data.phantom.scene import SIZES, Scene, stream
from medvlm_r1.data.phantom.shapes import place_on_sides, ramp, texture

# Radius in mm of small, medium and large; infarct: length of the wedge.
RADIUS_MM = {
    "tumour": (5.2, 9.0, 15.6),
    "ring-enhancing tumour": (6.0, 10.2, 17.0),
    "plaques": (4.2, 7.2, 12.2),
    "haemorrhage": (5.5, 9.5, 16.5),
    "infarct": (19.0, 32.0, 54.0),
}
PUSH = {"tumour": 0.35, "ring-enhancing tumour": 0.35, "haemorrhage": 0.3}
_IN_PLANE = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}


def lobe(x_mm: np.ndarray, y_mm: np.ndarray, z_mm: np.ndarray) -> np.ndarray:
    """The lobe at MNI coordinates, "" for deep and uncertain places; any shape.

    >>> lobe(*np.array([[30, 40, 20], [-45, -20, -15], [20, -80, 5], [30, -40, 45], [5, -10, 0]]).T).tolist()
    ['frontal', 'temporal', 'occipital', 'parietal', '']
    """
    return np.select(
        [
            (y_mm < -62) & (z_mm < 28) & (z_mm > -12),
            (y_mm > 8) & (z_mm > -22) | (y_mm > -15) & (z_mm > 15),
            z_mm > 15,
            (z_mm < 4) & (np.abs(x_mm) > 25) & (y_mm > np.where(z_mm < -14, -44, -58)),
        ],
        ["occipital", "frontal", "parietal", "temporal"],
        "",
    )


def in_plane(plane: str, points_mm: np.ndarray) -> np.ndarray:
    """(u, v) of MNI points (3, H, W): (2, H, W); u grows to the patient's left."""
    first, second = _IN_PLANE[plane]
    return np.stack([points_mm[first] if plane == "sagittal" else -points_mm[first], points_mm[second]])


@dataclass(frozen=True)
class Lesions:
    """All lesions of one slice, e.g. one 9 mm tumour at u 30, v 20 pointing outward."""

    finding: str
    plane: str
    centres_mm: np.ndarray  # (L, 2)
    outward: np.ndarray  # (L, 2) unit vectors away from the middle of the hemisphere
    radius_mm: float
    seed: np.random.Generator

    def pushed(self, points_mm: np.ndarray) -> np.ndarray:
        """Points (3, H, W) from which the anatomy is taken: it is displaced by the mass."""
        strength = PUSH.get(self.finding, 0.0)
        if not strength:
            return points_mm
        points_mm = points_mm.copy()
        flat_mm = in_plane(self.plane, points_mm)
        for centre_mm in self.centres_mm:
            offset = flat_mm - np.asarray(centre_mm, np.float32)[:, None, None]
            pull = np.float32(strength) * np.exp(-np.square(offset).sum(0) / np.float32((1.5 * self.radius_mm) ** 2))
            first, second = _IN_PLANE[self.plane]
            points_mm[first] -= (1 if self.plane == "sagittal" else -1) * offset[0] * pull
            points_mm[second] -= offset[1] * pull
        return points_mm


def place_lesions(scene: Scene, points_mm: np.ndarray, maps: np.ndarray) -> Lesions:
    """Choose centres in the scene's region among coarse slice points (3, h, w) with maps (8, h, w)."""
    rng = stream(scene, "place")
    radius_mm = RADIUS_MM[scene.finding][SIZES.index(scene.size)] * rng.uniform(0.95, 1.05)
    flat_mm = in_plane(scene.plane, points_mm)
    white, depth_mm, ventricle_mm = maps[1] / 255, maps[2] / 2 - 50, maps[6] / 4
    fits = (lobe(*points_mm) == scene.region) & (depth_mm > 3)
    if scene.plane != "sagittal":
        flat_mm[0] = np.abs(flat_mm[0])
        fits &= flat_mm[0] > min(radius_mm, 14) + 3
    if scene.finding == "plaques":
        wanted = fits & (white > 0.75) & (ventricle_mm > 0.8 * radius_mm) & (depth_mm > 0.5 * radius_mm + 6)
        wanted &= (ventricle_mm < 26) | (scene.region == "temporal")
    elif scene.finding == "infarct":
        wanted = fits & (np.abs(depth_mm - 0.36 * radius_mm) < 3)
    else:
        wanted = fits & (depth_mm > 0.75 * radius_mm + 3) & (ventricle_mm > 0.5 * radius_mm)
    if wanted.sum() < 12:  # a thin slice of the lobe: the deepest points that there are
        wanted = fits & (depth_mm >= np.sort(depth_mm[fits])[-min(40, fits.sum())])
    apart_mm = (2.4 if scene.finding == "haemorrhage" else 2.9) * radius_mm + 4
    centres_mm = place_on_sides(rng, flat_mm[:, wanted].T, scene, apart_mm)
    middle_mm = {"axial": (16, -15), "coronal": (16, 12), "sagittal": (-15, 12)}[scene.plane]
    middle_mm = np.array(middle_mm) * np.ones_like(centres_mm)
    if scene.plane != "sagittal":
        middle_mm[:, 0] *= np.sign(centres_mm[:, 0])
    if scene.plane == "axial":
        middle_mm[:, 1] = np.clip(centres_mm[:, 1], -40, 15)
    outward = centres_mm - middle_mm
    outward /= np.linalg.norm(outward, axis=1, keepdims=True) + 1e-6
    return Lesions(scene.finding, scene.plane, centres_mm, outward, radius_mm, rng)


def add_lesions(tissues: dict[str, np.ndarray], lesions: Lesions, points_mm: np.ndarray) -> dict[str, np.ndarray]:
    """The tissues (H, W) with every lesion mixed in; fractions still sum to one."""
    flat_mm = in_plane(lesions.plane, points_mm)
    brain = tissues["grey"] + tissues["white"]
    white = tissues["white"]
    inside = np.clip(brain + tissues["csf"], 0, 1)
    where = {"oedema": 0.25 * brain + 0.75 * white, "infarct": brain, "plaque": brain}
    kept: np.ndarray | np.float32 = np.float32(1)
    added: dict[str, np.ndarray] = {}
    rough = texture(lesions.seed, brain.shape, 9)
    fine = texture(lesions.seed, brain.shape, 4)
    for centre_mm, outward in zip(lesions.centres_mm, lesions.outward, strict=False):
        offset = flat_mm - np.asarray(centre_mm, np.float32)[:, None, None]
        along = offset[0] * np.float32(outward[0]) + offset[1] * np.float32(outward[1])
        across = offset[1] * np.float32(outward[0]) - offset[0] * np.float32(outward[1])
        mixed = _SHAPES[lesions.finding](along, across, lesions.radius_mm, rough, fine)
        for name, weight in mixed.items():
            weight = weight * where.get(name, inside)
            kept = kept * (1 - weight)
            added = {key: fraction * (1 - weight) for key, fraction in added.items()}
            added[name] = added.get(name, 0) + weight
    return {key: fraction * kept for key, fraction in tissues.items()} | added


def _tumour(along: np.ndarray, across: np.ndarray, radius_mm: float, rough: np.ndarray, fine: np.ndarray) -> dict[str, np.ndarray]:
    """A lobulated, uneven mass with fingers of oedema in the white matter."""
    from_rim = radius_mm * (1 + 0.10 * rough) - np.hypot(along, across)
    core = ramp(from_rim, 1.8)
    return {"oedema": 0.8 * ramp(from_rim + radius_mm * (0.45 + 0.30 * rough), 4), "tumour": core, "necrosis": core * np.clip(0.20 + 0.25 * fine, 0, 0.6)}


def _ring(along: np.ndarray, across: np.ndarray, radius_mm: float, rough: np.ndarray, fine: np.ndarray) -> dict[str, np.ndarray]:
    """A necrotic core in an enhancing wall, and oedema around."""
    from_rim = radius_mm * (1 + 0.06 * rough) - np.hypot(along, across)
    wall_mm = 2.4 + 0.09 * radius_mm
    return {
        "oedema": 0.9 * ramp(from_rim + radius_mm * (0.5 + 0.25 * rough), 4),
        "rim": ramp(from_rim, 1.5),
        "necrosis": ramp(from_rim - wall_mm * (1 + 0.15 * fine), 1.5),
    }


def _infarct(along: np.ndarray, across: np.ndarray, length_mm: float, rough: np.ndarray, fine: np.ndarray) -> dict[str, np.ndarray]:
    """A wedge with its tip in the depth, widening to the cortex it supplied."""
    from_tip = along + 0.6 * length_mm
    width = 0.42 * from_tip + 0.08 * length_mm - np.abs(across) + 0.07 * length_mm * rough
    return {"infarct": 0.92 * ramp(width, 3) * ramp(from_tip, 3) * ramp(1.2 * length_mm - from_tip, 3) + 0 * fine}


def _plaque(along: np.ndarray, across: np.ndarray, radius_mm: float, rough: np.ndarray, fine: np.ndarray) -> dict[str, np.ndarray]:
    """An ovoid at right angles to the ventricle (Dawson's finger)."""
    from_rim = radius_mm * (1 + 0.05 * rough) - np.hypot(along / 1.25, across * 1.25)
    return {"plaque": ramp(from_rim, 2) * (0.93 + 0.03 * np.clip(fine, -2, 2))}


def _blood(along: np.ndarray, across: np.ndarray, radius_mm: float, rough: np.ndarray, fine: np.ndarray) -> dict[str, np.ndarray]:
    """A clot, denser than brain, with a thin dark border."""
    from_rim = radius_mm * (1 + 0.15 * rough) - np.hypot(along / 1.1, across * 1.1)
    return {"oedema": 0.8 * ramp(from_rim + 2.5 + 0.15 * radius_mm, 3), "blood": ramp(from_rim, 1.8) * (0.95 + 0.03 * np.clip(fine, -1, 1))}


_SHAPES = {"tumour": _tumour, "ring-enhancing tumour": _ring, "infarct": _infarct, "plaques": _plaque, "haemorrhage": _blood}
