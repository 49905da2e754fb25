"""CT of chest and abdomen: analytic organs in Hounsfield units, axial, supine.

Coordinates are mm: u to the image's right (the patient's left), v down (back).
A patient's smooth waves and proportions move them, so organs, ribs and lesions
bend together. Organs overwrite one another in the order they are painted.
Legend: H, W rows and columns.
"""

import numpy as np
from PIL import Image

from medvlm_r1.data.phantom.scene import SIZES, Scene, stream
from medvlm_r1.data.phantom.shapes import Canvas, place_on_sides, ramp, texture, to_image, window

FIELD_MM = 360.0
RADIUS_MM = {
    "nodule": (7.0, 12.0, 20.5),
    "cyst": (8.0, 14.0, 24.0),
    "calcification": (5.0, 8.7, 15.0),
    "effusion": (17.0, 36.0, 74.0),
}  # effusion: greatest thickness
REGION_MM = {"anterior": (-200, -24), "middle": (-20, 20), "posterior": (24, 200)}


def chest(scene: Scene, size_px: int) -> Image.Image:
    """A slice through the thorax in the lung window, W 1500 L -600 HU."""
    body, level = Canvas(scene, FIELD_MM), stream(scene, "slice").uniform()
    cage = _trunk(body, fat_mm=body.rng.uniform(9, 20), half_mm=(168, 116), cavity_mm=(130, 88))
    _ribs(body, cage)
    heart = body.ellipse((20 + 6 * level, -22), (44 + 18 * level, 38 + 9 * level), 0.4)
    middle = np.maximum.reduce([heart, body.ellipse((4, -46), (30, 30)), body.ellipse((0, 52), (27, 40)), body.ellipse((0, 5), (30 + 8 * level, 34))])
    lung = np.minimum(cage, -middle)
    body.fill(lung, -870 + 0.5 * body.v + 18 * texture(body.rng, body.u.shape, 9))
    lung_hu = ramp(lung)
    _vessels(body, lung, level)
    _spine(body, 60)
    body.fill(heart, 42)
    body.organ((22, 46), (12, 12), 48)
    if level < 0.45:
        body.organ((0, 10), (9, 9), -990)
        body.organ((5, -22), (19, 16), 50)
    else:
        body.organ((26, 8), (6, 5), -980)
        body.organ((-26, 8), (6, 5), -980)
    if scene.finding == "effusion":
        _effusion(body, scene, lung_hu)
    elif scene.finding == "nodule":
        deep = np.minimum(lung, lung[:, ::-1])
        _foci(body, scene, deep, 35, 0.07)
    return _finish(body, scene, size_px, (1500, -600))


def abdomen(scene: Scene, size_px: int) -> Image.Image:
    """A slice through the upper abdomen in the soft-tissue window, W 400 L 40 HU."""
    body, level = Canvas(scene, FIELD_MM), stream(scene, "slice").uniform()
    rng = body.rng
    cavity = _trunk(body, fat_mm=rng.uniform(8, 24), half_mm=(166, 112), cavity_mm=(134, 86))
    body.fill(cavity, -98 + 8 * texture(rng, body.u.shape, 8))
    _ribs(body, cavity)
    inner = cavity - 2
    for sign in (-1, 1):
        body.organ((sign * 34, 62), (17, 22), 58)  # psoas
    _spine(body, 58)
    liver = np.maximum(body.ellipse((-72, -4), (70 - 10 * level, 84 - 14 * level), 0.12), body.ellipse((-18, -46), (62 - 22 * level, 28), -0.15))
    liver = np.minimum(liver, -body.ellipse((-34, 66), (42, 46)))
    tissue = texture(rng, body.u.shape, 5)
    body.fill(np.minimum(inner, liver), 108 + 4 * tissue)
    for _ in range(7):
        body.spot((rng.uniform(-110, -35), rng.uniform(-50, 35)), (rng.uniform(2, 4), rng.uniform(3, 8)), rng.uniform(0, 3), 140)
    body.fill(np.minimum(inner, body.ellipse((103, 22), (26 - 6 * level, 52 - 12 * level), -0.25)), 122)
    stomach = np.minimum(inner, body.ellipse((62, -36), (42 - 8 * level, 36 - 6 * level), 0.3))
    body.fill(stomach, 92)
    body.fill(stomach - 5, 64 + 6 * tissue)  # a meal
    body.fill(np.minimum(stomach - 5, -58 - body.v + 6 * level), -900)  # gas rises to the front
    body.fill(body.ellipse((22, -2), (40, 10), -0.25), 88 + 6 * tissue)  # pancreas
    for sign in (-1, 1):
        at_mm, axes_mm = (sign * 66, 48 + 3 * sign), np.array((24 + 4 * level, 30 + 4 * level))
        body.organ(at_mm, tuple(axes_mm + 4), -98, sign * 0.5)
        body.organ(at_mm, tuple(axes_mm), 165, sign * 0.5)
        body.organ((sign * 55, 46 + 3 * sign), (8, 12), -40, sign * 0.5)
    body.organ((9, 32), (11, 11), 170)
    body.organ((-17, 32), (13, 10), 140)
    for _ in range(int(2 + 5 * level)):  # small bowel, in the fat between stomach and kidney
        centre_mm, radius_mm = (rng.uniform(5, 85), rng.uniform(-22, 14)), rng.uniform(8, 11)
        body.spot(centre_mm, (radius_mm, radius_mm * 1.3), rng.uniform(0, 3), 85)
        body.spot(centre_mm, (radius_mm - 3, radius_mm * 1.3 - 3), 0, 62)
    if scene.finding != "none":
        empty = body.value < 50  # fat or gas: lesions shun it, on either side, where they can
        inside_mm = inner - np.float32(40) * (empty | empty[:, ::-1])
        _foci(body, scene, inside_mm, *((2, 0.03) if scene.finding == "cyst" else (750, 0.18)))
    return _finish(body, scene, size_px, (400, 40))


def _trunk(body: Canvas, fat_mm: float, half_mm: tuple[float, float], cavity_mm: tuple[float, float]) -> np.ndarray:
    """Skin, fat, muscle and table; returns the depth (H, W) in the body cavity."""
    u, v = np.abs(body.u / half_mm[0]), np.abs(body.v / half_mm[1])
    depth_mm = half_mm[1] * (1 - (u**2.5 + v**2.5) ** np.float32(0.4))
    body.fill(depth_mm, 20)
    body.fill(depth_mm - 2.5, -105 + 6 * texture(body.rng, u.shape, 7))
    cavity = body.ellipse((0, -2), cavity_mm)
    muscle = np.maximum(np.minimum(depth_mm - fat_mm, cavity + 20), np.maximum(body.ellipse((-38, 86), (36, 20), 0.2), body.ellipse((38, 86), (36, 20), -0.2)))
    body.fill(np.minimum(depth_mm - 4, muscle), 50 + 12 * texture(body.rng, u.shape, 4))
    return cavity


def _ribs(body: Canvas, cage: np.ndarray) -> None:
    """Arcs of bone in the wall, cut obliquely by the slice, and the breast bone."""
    angle = np.arctan2(body.v / 88, body.u / 130)
    phase = body.rng.uniform(0, 2 * np.pi)
    along = np.cos(11 * angle + phase + 0.5 * np.sin(2 * angle))
    arc = np.minimum(4.5 - np.abs(cage + 7), 16 * (along - 0.15))
    body.fill(arc, 650)
    body.fill(arc - 2.2, 220)
    body.organ((0, -97), (20, 6.5), 350)


def _spine(body: Canvas, back_mm: float) -> None:
    """A vertebra with cortex, canal and processes."""
    for sign in (-1, 1):
        body.organ((sign * 20, back_mm + 23), (22, 5), 420, sign * 0.45)
    body.organ((0, back_mm + 36), (5, 18), 450)
    body.organ((0, back_mm), (22, 18), 480)
    body.organ((0, back_mm), (19, 15), 190)
    body.organ((0, back_mm + 23), (11, 9), 480)
    body.organ((0, back_mm + 23), (8.5, 7), 25)


def _vessels(body: Canvas, lung: np.ndarray, level: float) -> None:
    """Vessels from both hila, thinner outwards, within the lung (H, W)."""
    before = body.value.copy()
    for sign in (-1, 1):
        for angle in body.rng.uniform(-1.9, 1.9, 26):
            out_mm = 75 * body.rng.uniform() ** 0.8
            centre_mm = (sign * (36 + out_mm * np.cos(angle)), 8 + 0.9 * out_mm * np.sin(angle))
            thick_mm = 3.4 - 2.2 * out_mm / 75
            length_mm = thick_mm * body.rng.choice((1, 1.3, 3.5))
            body.spot(centre_mm, (length_mm, thick_mm), sign * angle, -60 - 3.5 * out_mm)
        body.spot((sign * 34, 6), (14, 10 + 4 * level), sign * 0.4, 30)
    keep = ramp(lung - 3, 3)
    body.value = body.value * keep + before * (1 - keep)


def _effusion(body: Canvas, scene: Scene, lung: np.ndarray) -> None:
    """Fluid that gathers behind, a crescent; lung (H, W) 0..1 is where it can be."""
    place = stream(scene, "place")
    thick_mm = RADIUS_MM["effusion"][SIZES.index(scene.size)] * place.uniform(0.95, 1.05)
    crescent = 84 - thick_mm - 62 * (1 - np.sqrt(np.clip(1 - np.square(np.abs(body.u) - 20) / 120**2, 0, 1)))
    fluid = ramp(body.v - np.maximum(crescent, 82 - thick_mm * 1.6) + 2 * texture(place, body.u.shape, 25), 4) * lung
    side = {"left": body.u > 0, "right": body.u < 0, "both": True}[scene.side]
    body.value += fluid * side * (12 - body.value)


def _foci(body: Canvas, scene: Scene, inside_mm: np.ndarray, hu: float, rough: float) -> None:
    """Round lesions whose centres lie inside_mm (H, W) deep, on the stated sides."""
    place = stream(scene, "place")
    radius_mm = RADIUS_MM[scene.finding][SIZES.index(scene.size)] * place.uniform(0.95, 1.05)
    low, high = REGION_MM[scene.region]
    fits = (body.v > low) & (body.v < high) & (np.abs(body.u) > radius_mm + 14) & (np.abs(body.u) < 118)
    depth_mm = np.where(fits, inside_mm, -999)[::3, ::3]
    wanted = depth_mm > 0.7 * radius_mm + 3
    if wanted.sum() < 12:
        wanted = depth_mm >= max(-900, np.sort(depth_mm.ravel())[-25])
    candidates = np.stack([np.abs(body.u[::3, ::3][wanted]), body.v[::3, ::3][wanted]], 1)
    grain = texture(place, body.u.shape, 6)
    for centre_mm in place_on_sides(place, candidates, scene, 2.2 * radius_mm + 6):
        focus = body.ellipse(tuple(centre_mm), (radius_mm * 1.05, radius_mm * 0.95), place.uniform(0, 3))
        body.fill(focus + rough * radius_mm * grain, hu + 3 * grain)


def _finish(body: Canvas, scene: Scene, size_px: int, display: tuple[float, float]) -> Image.Image:
    """Noise that reconstruction has correlated, then the display window (width, level)."""
    noise = stream(scene, "noise").standard_normal(body.value.shape, np.float32)
    noise = noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1)
    image = body.value + np.float32(stream(scene, "scan").uniform(0.008, 0.016) * display[0]) * noise
    return to_image(window(image, *display), size_px)
