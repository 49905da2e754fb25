"""The chest radiograph: Beer-Lambert attenuation through an analytic thorax.

Every organ is a map of its thickness along the beam, mm of soft tissue or of
bone, on the patient's warped plane (u to the patient's left, v downwards, mm).
Attenuation is the sum of coefficient times thickness; a film's S-shaped curve
turns it into grey. Legend: H, W rows and columns.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from medvlm_r1.data.phantom.scene import SIZES, Scene, stream
from medvlm_r1.data.phantom.shapes import MATRIX, Canvas, place_on_sides, ramp, texture, to_image

FIELD_MM = 390.0
SOFT_PER_MM, BONE_PER_MM = 0.018, 0.045  # near 70 keV (NIST XCOM), water and cortical bone
RADIUS_MM = {"nodule": (9.0, 15.5, 27.0), "consolidation": (15.0, 26.0, 45.0)}
ZONE_MM = {"upper": (-140, -62), "middle": (-52, 12), "lower": (22, 110)}
EFFUSION_MM = (30.0, 70.0, 165.0)  # height of the fluid over the costophrenic angle
PNEUMOTHORAX_MM = (9.5, 25.0, 84.0)  # gap between chest wall and lung at the apex


@dataclass(frozen=True)
class Lungs:
    """Depth maps (H, W), mm: inside the rib cage, inside the lungs; and air thickness."""

    cage: np.ndarray
    depth: np.ndarray
    air_mm: np.ndarray


def chest(scene: Scene, size_px: int) -> Image.Image:
    """A frontal chest radiograph, the heart towards the image's right."""
    body = Canvas(scene, FIELD_MM, background=0.0)
    lungs = _lungs(body)
    soft_mm = _soft_tissue(body, lungs)
    bone_mm = _bones(body, lungs.cage)
    if scene.finding == "effusion":
        soft_mm += _effusion(body, scene, lungs)
    elif scene.finding == "pneumothorax":
        soft_mm = _pneumothorax(body, scene, lungs, soft_mm)
    elif scene.finding != "none":
        soft_mm += _opacities(body, scene, lungs)
    scan = stream(scene, "scan")
    attenuation = SOFT_PER_MM * soft_mm + BONE_PER_MM * bone_mm
    noise = stream(scene, "noise").standard_normal(soft_mm.shape, np.float32)
    attenuation += np.float32(scan.uniform(0.02, 0.045)) * noise * (1 + 0.25 * attenuation)
    middle, softness = scan.uniform(2.3, 2.55), scan.uniform(0.62, 0.74)
    film = 1 / (1 + np.exp((middle - attenuation) / np.float32(softness)))
    return to_image(np.clip(1.06 * film - 0.03, 0, 1), size_px)


def _lungs(body: Canvas) -> Lungs:
    """Two lungs between rib cage, mediastinum and the domes of the diaphragm."""
    u, v, side = body.u, body.v, np.abs(body.u)
    cage = 140 * (1 - ((side / 142) ** 2.4 + (np.abs(v - 45) / 208) ** 2.4) ** np.float32(1 / 2.4))
    dome_mm = 72 + 0.0105 * np.square(side - 62) + 5 * np.sign(u) + body.rng.uniform(-8, 8)
    heart = np.maximum(body.ellipse((30, 42), (62, 50), 0.55), body.ellipse((-14, 38), (30, 46)))
    middle = np.maximum(19 + 5 * np.exp(-np.square((v + 5) / 30)) - side, body.ellipse((20, -72), (22, 22)))
    depth = np.minimum(np.minimum(cage, dome_mm - v), -np.maximum(middle, heart))
    before_heart = np.minimum(np.minimum(cage, dome_mm - v), 14 - middle * (middle > 14))  # lung in front of it
    air_mm = 138 * np.sqrt(np.clip(depth / 60, 0, 1)) * ramp(depth, 3) + 25 * ramp(before_heart, 20)
    return Lungs(cage, depth, air_mm.astype(np.float32))


def _soft_tissue(body: Canvas, lungs: Lungs) -> np.ndarray:
    """Thickness (H, W) in mm of all soft tissue along the beam."""
    u, v, side, rng = body.u, body.v, np.abs(body.u), body.rng
    shoulder = 56 + 130 / (1 + np.exp(-(v + 150) / 9)) - 22 / (1 + np.exp(-(v + 70) / 14))
    wall_mm = np.minimum(shoulder - side, 400)
    outline = np.sqrt(np.clip(wall_mm / 55, 0, 1))
    soft = (205 + 0.10 * v) * outline
    breasts = np.maximum(body.ellipse((-82, 62), (50, 52)), body.ellipse((82, 62), (50, 52)))
    soft += rng.uniform(0, 30) * ramp(breasts, 30)
    soft -= lungs.air_mm
    soft += 22 * np.sqrt(np.clip(body.ellipse((30, 42), (60, 48), 0.55) / 40, 0, 1))
    soft -= 16 * ramp(np.minimum(9 - np.abs(u - 3), -52 - v), 4)  # trachea
    gas = body.ellipse((62, 116), (30, 15), -0.1)
    soft -= 60 * np.sqrt(np.clip(gas / 12, 0, 1))
    soft += _vessels(rng) * ramp(lungs.depth - 1, 8)
    return soft + 2.5 * texture(rng, soft.shape, 8) * outline


def _vessels(rng: np.random.Generator) -> np.ndarray:
    """Thickness (H, W) in mm of the hila and of vessels that fan out and taper, drawn at 1 mm."""
    side_px = 2 * MATRIX
    drawing = Image.new("L", (side_px, side_px))
    pen = ImageDraw.Draw(drawing)
    for sign, hilum_mm in ((-1, (-34, -10)), (1, (34, -18))):
        for angle in rng.uniform(-1.4, 1.4, 17):
            at = np.array(hilum_mm, float)
            for step in range(5):
                angle += rng.uniform(-0.28, 0.28)
                to = at + np.array([sign * np.cos(angle), 1.2 * np.sin(angle)]) * (16 - step)
                ends = [tuple((point / FIELD_MM + 0.5) * side_px) for point in (at, to)]
                pen.line(ends, fill=int(210 - 34 * step), width=max(2, 7 - 2 * step))
                at = to
    small = drawing.resize((MATRIX, MATRIX), Image.Resampling.BILINEAR)
    return np.asarray(small, np.float32) * np.float32(20 / 255)


def _bones(body: Canvas, cage: np.ndarray) -> np.ndarray:
    """Thickness (H, W) in mm of bone: ribs behind and in front, collar bones, spine, shoulders."""
    _u, v, side = body.u, body.v, np.abs(body.u)
    start = body.rng.uniform(-6, 6)
    out = side / 140
    behind = _bands(v - 62 * out**3 + 14 * out + start, 23.5, 4.4)
    front = _bands(v + 62 * out - 20 * out**2 + start, 27.0, 5.2) * ramp(side - 42, 20) * ramp(30 - v, 40)
    in_cage = ramp(cage + 5, 5) * ramp(118 - v, 30)
    bone = 8.0 * behind * in_cage * ramp(side - 12, 8) + 4.5 * front * in_cage
    bone += 3.0 * ramp(4 - np.abs(cage + 1), 4) * ramp(110 - v, 20)
    collar_mm = 5.5 - np.abs(v + 134 + 0.20 * (side - 15) - 7 * np.sin(side / 24))
    bone += 11 * ramp(np.minimum(collar_mm, np.minimum(side - 12, 150 - side)), 4)
    vertebrae = 0.75 + 0.25 * np.cos(v * np.float32(2 * np.pi / 24))
    bone += 9 * ramp(17 - side, 6) * vertebrae + 6 * ramp(4 - side, 3) * (vertebrae > 0.85)
    for sign in (-1, 1):
        bone += 16 * ramp(body.ellipse((sign * 178, -112), (24, 26)), 6)
        blade = body.ellipse((sign * 142, -62), (20, 62), sign * 0.22)
        bone += 3.5 * ramp(blade, 4) + 3.5 * ramp(2.5 - np.abs(blade), 3)
    return bone


def _bands(phase_mm: np.ndarray, spacing_mm: float, half_mm: float) -> np.ndarray:
    """Repeated tubes seen from the side, 0..1: dense edges, thinner middle."""
    turns = phase_mm * np.float32(1 / spacing_mm)
    from_axis = np.abs(turns - np.rint(turns)) * np.float32(spacing_mm)
    return ramp(half_mm - from_axis, 2) * (0.65 + 0.35 * np.square(from_axis / np.float32(half_mm)))


def _one_side(body: Canvas, side: str) -> np.ndarray | float:
    return {"left": body.u > 0, "right": body.u < 0, "both": 1.0}[side]


def _effusion(body: Canvas, scene: Scene, lungs: Lungs) -> np.ndarray:
    """Fluid (H, W) mm that fills the angle and climbs the lateral wall: the meniscus."""
    place = stream(scene, "place")
    height_mm = EFFUSION_MM[SIZES.index(scene.size)] * place.uniform(0.95, 1.05)
    lateral = np.clip((np.abs(body.u) - 20) / 110, 0, 1.1)
    surface_mm = 112 - height_mm * (0.62 + 0.38 * lateral**2) - 14 * lateral**3
    return 1.05 * lungs.air_mm * ramp(body.v - surface_mm, 10) * _one_side(body, scene.side)


def _pneumothorax(body: Canvas, scene: Scene, lungs: Lungs, soft_mm: np.ndarray) -> np.ndarray:
    """Soft tissue (H, W) mm with free air at apex and flank, and a lung that shrank within its pleural line."""
    gap_mm = PNEUMOTHORAX_MM[SIZES.index(scene.size)] * stream(scene, "place").uniform(0.95, 1.05)
    into_lung = lungs.cage - 2 - gap_mm * np.clip((105 - body.v) / 230, 0, 1) ** np.float32(0.8)
    where = ramp(lungs.depth, 4) * _one_side(body, scene.side)
    free_air = where * ramp(-into_lung, 2)
    line = where * ramp(1.6 - np.abs(into_lung), 1.5)
    collapsed = where * ramp(into_lung, 2)
    return soft_mm * (1 - free_air) + (52 + 0.12 * soft_mm) * free_air + 34 * line + (6 + 0.35 * gap_mm) * collapsed


def _opacities(body: Canvas, scene: Scene, lungs: Lungs) -> np.ndarray:
    """Nodules, round and sharp, or consolidations, ragged clouds: mm of tissue (H, W)."""
    place = stream(scene, "place")
    radius_mm = RADIUS_MM[scene.finding][SIZES.index(scene.size)] * place.uniform(0.95, 1.05)
    low, high = ZONE_MM[scene.region]
    coarse = np.s_[::3, ::3]
    depth_mm = np.minimum(lungs.depth, lungs.depth[:, ::-1])[coarse]
    in_zone = (body.v[coarse] > low) & (body.v[coarse] < high) & (np.abs(body.u[coarse]) > 30)
    depth_mm = np.where(in_zone, depth_mm, -999)
    wanted = depth_mm > 0.7 * radius_mm + 4
    if wanted.sum() < 12:
        wanted = depth_mm >= np.sort(depth_mm.ravel())[-25]
    candidates = np.stack([np.abs(body.u[coarse][wanted]), body.v[coarse][wanted]], 1)
    cloud, fine = texture(place, body.u.shape, 16), texture(place, body.u.shape, 4)
    added = np.zeros_like(body.u)
    for centre_mm in place_on_sides(place, candidates, scene, 2.3 * radius_mm + 8):
        depth = body.ellipse(tuple(centre_mm), (radius_mm, radius_mm))
        if scene.finding == "nodule":
            sphere = np.sqrt(np.clip(0.45 + depth / radius_mm, 0, 1))
            added = np.maximum(added, (56 + 0.5 * radius_mm) * ramp(depth, 3) * sphere)
        else:
            shape = ramp(depth + 0.16 * radius_mm * cloud, 8 + 0.35 * radius_mm)
            added = np.maximum(added, 88 * shape * np.clip(0.95 + 0.06 * (fine + cloud), 0.4, 1.2))
    return added * ramp(lungs.depth, 6)
