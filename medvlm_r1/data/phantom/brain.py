"""The head: real MNI152 anatomy, cut, deformed, given lesions, and seen by MRI or CT.

Grey and white matter are the ICBM 2009a symmetric maps that ship with nilearn
(Fonov et al., NeuroImage 2011). They are skull-stripped, so skull, scalp, face
and neck are built around them from distances. A slice is a grid of points in
MNI millimetres (x to the right, y forward, z up) that a patient's own smooth
deformation has moved; lesions live in the same coordinates and move along.
Legend: H, W rows and columns of the slice; T tissues; N candidate points.
"""

from functools import cache
from importlib.util import find_spec

import nibabel
import numpy as np
from PIL import Image
from scipy import ndimage

from medvlm_r1.data.phantom.lesions import add_lesions, place_lesions
from medvlm_r1.data.phantom.scene import Scene, slice_mm, stream
from medvlm_r1.data.phantom.shapes import MATRIX, plane_waves, ramp, texture, to_image, waves, window

# Proton density, T1 ms, T2 ms at 1.5 T, and CT number HU. Healthy tissue after
# BrainWeb (Kwan et al., IEEE TMI 1999); lesions within the ranges of the
# literature (e.g. Bottomley et al., Med Phys 1987).
TISSUES = {
    "grey": (0.86, 833, 83, 40),
    "white": (0.77, 500, 70, 27),
    "csf": (1.0, 4200, 1500, 4),
    "bone": (0.05, 600, 20, 1300),
    "marrow": (0.45, 500, 60, 650),
    "fat": (0.9, 350, 70, -90),
    "muscle": (0.8, 950, 45, 52),
    "air": (0.0, 1000, 50, -1000),
    "eye": (1.0, 4000, 1200, 8),
    "tumour": (1.0, 1500, 140, 40),
    "oedema": (0.95, 1100, 120, 18),
    "necrosis": (1.0, 2900, 300, 12),
    "rim": (0.80, 190, 62, 46),
    "infarct": (1.0, 1350, 140, 14),
    "plaque": (1.0, 1450, 150, 24),
    "blood": (0.8, 900, 60, 72),
}
ORIGIN_MM = np.array([-98, -134, -102])
FIELD_MM = {"axial": 222.0, "coronal": 208.0, "sagittal": 226.0}
# In-plane axes: image right, image down, through-plane, as (axis, sign); centre in mm.
AXES = {"axial": ((0, -1), (1, -1), 2), "coronal": ((0, -1), (2, -1), 1), "sagittal": ((1, -1), (2, -1), 0)}
CENTRE_MM = {"axial": (0, -18), "coronal": (0, 14), "sagittal": (-10, 6)}
# Spin echo: TR, TE ms; FLAIR adds the inversion that nulls CSF.
SEQUENCE = {"T1": (520, 12), "T2": (4200, 100), "PD": (3000, 22), "FLAIR": (9000, 115)}
# Signals shown as black and as white: what a radiographer would set.
DISPLAY = {"T1": (0.0, 0.50), "T2": (0.02, 0.62), "PD": (0.28, 0.86), "FLAIR": (0.0, 0.36)}


@cache
def template() -> np.ndarray:
    """The head as eight 8-bit maps in one uint64 a voxel, 1 mm, (197, 233, 219).

    Bytes: grey, white, depth in the brain's hull (100 + 2/mm), depth under the
    skin (2/mm), air, eye, distance from the ventricles (4/mm), 0.
    """
    maps = [np.asarray(nibabel.Nifti1Image.from_filename(_map_file(kind)).dataobj) for kind in ("gm", "wm")]
    maps = [np.pad(volume, ((0, 0), (0, 0), (30, 0))) for volume in maps]
    coarse = (maps[0][::2, ::2, ::2] / 255 + maps[1][::2, ::2, ::2] / 255).astype(np.float32)
    brain = ndimage.gaussian_filter(coarse, 0.7) > 0.3
    # Closing by 14 mm. Within it, depth is measured from the closing's outer face.
    near = ndimage.distance_transform_edt(~brain) <= 7
    depth_mm = 2 * ndimage.gaussian_filter(ndimage.distance_transform_edt(near).astype(np.float32) - 7, 0.8)
    x, y, z = (
        axis.astype(np.float32) for axis in np.meshgrid(*(ORIGIN_MM[i] + 2.0 * np.arange(n) for i, n in enumerate(near.shape)), indexing="ij", sparse=True)
    )
    outline = (
        near
        | (ball(x / 62, (y - 40) / 56, (z + 62) / 60) < 1)
        | ((ball(x / 62, (y + 26) / 62, 0) < 1) & (z < -30))
        | (ball(x / 13, (y - 98) / 14, (z + 45) / 20) < 1)
    )
    outline = ndimage.gaussian_filter(outline.astype(np.float32), 3) > 0.45
    under_skin_mm = ndimage.gaussian_filter(2 * ndimage.distance_transform_edt(outline).astype(np.float32), 0.7)
    side = np.abs(x)
    sinuses = [
        ball(side / 13, (y - 62) / 26, (z + 46) / 17),
        ball((side - 28) / 12, (y - 50) / 16, (z + 48) / 15),
        ball(side / 11, (y - 22) / 10, (z + 26) / 8),
        ball(side / 16, (y - 12) / 9, (z + 72) / 30),
    ]
    air = ramp(1 - np.minimum.reduce(np.broadcast_arrays(*sinuses)), 0.3)
    eye = ramp(1 - ball((side - 32) / 12, (y - 64) / 12, (z + 32) / 12), 0.3)
    core = (slice(30, 68), slice(30, 92), slice(36, 74))  # holds the lateral ventricles
    inner = ndimage.binary_opening((depth_mm[core] > 16) & (coarse[core] < 0.35))
    ventricle_mm = np.full_like(depth_mm, 60)
    ventricle_mm[core] = 2 * ndimage.distance_transform_edt(~inner)
    smooth = [100 + 2 * depth_mm, 2 * under_skin_mm, 255 * air, 255 * eye, 4 * ventricle_mm]
    maps += [_double(np.clip(volume, 0, 255), maps[0].shape) for volume in smooth]
    return np.stack([*maps, np.zeros_like(maps[0])], -1).view(np.uint64)[..., 0]


def _map_file(kind: str) -> str:
    """A map's file beside nilearn's code, which is not run: importing its datasets takes seconds."""
    found = find_spec("nilearn")
    assert found is not None and found.submodule_search_locations, "nilearn is a dependency"
    return f"{found.submodule_search_locations[0]}/datasets/data/mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"


def ball(*scaled: np.ndarray | float) -> np.ndarray:
    """Distance from the origin of coordinates already divided by the semi-axes: 1 on the surface."""
    return np.sqrt(np.asarray(sum(axis * axis for axis in scaled)))


def _double(volume: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A 2 mm volume interpolated to 1 mm, cropped to shape, uint8."""
    for axis in range(3):
        following = np.concatenate([volume.take(range(1, volume.shape[axis]), axis), volume.take([-1], axis)], axis)
        volume = np.stack([volume, (volume + following) / 2], axis + 1)
        volume = volume.reshape(*volume.shape[:axis], -1, *volume.shape[axis + 2 :])
    return volume[: shape[0], : shape[1], : shape[2]].astype(np.uint8)


def slice_points(scene: Scene) -> np.ndarray:
    """MNI coordinates in mm (3, H, W) of the pixels of the scene's slice.

    The patient's affine (scale, tilt), six 3-D waves and a wider or narrower
    ventricle region move the points by some millimetres, through the slice too.
    """
    rng = stream(scene, "anatomy")
    (right, sign_u), (down, sign_v), through = AXES[scene.plane]
    centre_mm = CENTRE_MM[scene.plane]
    steps_mm = ((np.arange(MATRIX) + 0.5) / MATRIX - 0.5) * FIELD_MM[scene.plane]
    u_mm, v_mm = sign_u * steps_mm, sign_v * steps_mm
    base = np.zeros((3, MATRIX, MATRIX), np.float32)
    base[right] = centre_mm[0] + u_mm
    base[down] = (centre_mm[1] + v_mm)[:, None]
    base[through] = slice_mm(scene.plane, scene.seed)
    tilt = rng.uniform(-0.06, 0.06, (3, 3))
    matrix = np.diag(1 / rng.uniform(0.93, 1.05, 3)) + (tilt - tilt.T) / 2
    wave_vectors = rng.standard_normal((6, 3))
    wave_vectors *= (2 * np.pi / rng.uniform(70, 180, 6) / np.linalg.norm(wave_vectors, axis=1))[:, None]
    phase, pull = rng.uniform(0, 2 * np.pi, 6), rng.uniform(-0.35, 0.25)
    along_u = np.exp(1j * wave_vectors[:, right, None] * (centre_mm[0] + u_mm))
    start = wave_vectors[:, through] * base[through, 0, 0] + phase
    along_v = np.exp(1j * (wave_vectors[:, down, None] * (centre_mm[1] + v_mm) + start[:, None]))
    # The slice plane stays where its name says: tilt and scale act about its centre.
    pivot = np.array([0.0, -18.0, 14.0])
    pivot[through] = base[through, 0, 0]
    offset = base - pivot[:, None, None].astype(np.float32)
    points = (matrix.astype(np.float32) @ offset.reshape(3, -1)).reshape(base.shape) + (base - offset)
    points += plane_waves(along_v, along_u, 1.1 * rng.standard_normal((3, 6)))
    from_ventricle = points - np.array([0, -12, 14], np.float32)[:, None, None]
    near = np.exp(-np.square(from_ventricle).sum(0) / np.float32(30**2)) * np.float32(pull)
    return points + from_ventricle * near


def sample(points_mm: np.ndarray) -> np.ndarray:
    """The template's eight maps at points (3, H, W), trilinear: float32 (8, H, W), 0..255."""
    volume = template()
    flat = points_mm.reshape(3, -1) - ORIGIN_MM[:, None].astype(np.float32)
    limit = np.array(volume.shape, np.float32)[:, None] - np.float32(1.01)
    flat = np.clip(flat, 0, limit)
    whole = flat.astype(np.intp)
    part = flat - whole.astype(np.float32)
    strides = (volume.shape[1] * volume.shape[2], volume.shape[2], 1)
    first = whole[0] * strides[0] + whole[1] * strides[1] + whole[2]
    voxels = volume.reshape(-1)
    head = np.flatnonzero(voxels.take(first) & np.uint64(0xFF000000))  # depth under the skin > 0
    first, share = first[head], (part[:, head] * 256).astype(np.uint64)
    # Eight 8-bit maps are weighted at once in 16-bit lanes of two 64-bit words;
    # the eight corner weights sum to exactly 256, so that no lane overflows.
    lanes = np.uint64(0x00FF00FF00FF00FF)
    even, odd = np.zeros(first.shape, np.uint64), np.zeros(first.shape, np.uint64)
    corners = [(0, np.full(first.shape, 256, np.uint64))]
    for axis, stride in enumerate(strides):
        upper = [(shift + stride, weight * share[axis] >> np.uint64(8)) for shift, weight in corners]
        corners = [(shift, weight - high) for (shift, weight), (_, high) in zip(corners, upper, strict=False)] + upper
    for shift, weight in corners:
        values = voxels.take(first + shift)
        even = even + (values & lanes) * weight
        odd = odd + (values >> np.uint64(8) & lanes) * weight
    maps = np.zeros((8, flat.shape[1]), np.float32)
    for lane in range(4):
        maps[2 * lane, head] = even.view(np.uint16)[lane::4] * np.float32(1 / 256)
        maps[2 * lane + 1, head] = odd.view(np.uint16)[lane::4] * np.float32(1 / 256)
    return maps.reshape(8, *points_mm.shape[1:])


def tissues_of(maps: np.ndarray) -> dict[str, np.ndarray]:
    """Tissue fractions, each (H, W) in 0..1, from the sampled maps (8, H, W)."""
    inside_mm, skin_mm = maps[2] / 2 - 50, maps[3] / 2
    brain = ramp(inside_mm)
    grey, white = maps[0] / 255 * brain, maps[1] / 255 * brain
    out_mm = -inside_mm
    head = ramp(skin_mm - 0.7)
    skull = ramp(out_mm - 1.5) * ramp(8.2 - out_mm) * head
    diploe = ramp(out_mm - 3.6) * ramp(6.2 - out_mm) * head
    soft = np.clip(head - brain - ramp(out_mm - 0.5) * ramp(8.2 - out_mm), 0, 1)
    air = maps[4] / 255 * soft
    eye = maps[5] / 255 * soft
    soft = soft - np.maximum(air, eye)
    fat = ramp(skin_mm - 2.6) * ramp(7.5 - skin_mm) * soft
    csf = np.clip(brain + ramp(inside_mm + 1.5) * ramp(out_mm + 0.5) - grey - white, 0, 1) * head
    return {
        "grey": grey,
        "white": white,
        "csf": csf,
        "bone": skull - diploe,
        "marrow": diploe,
        "fat": fat,
        "muscle": soft - fat,
        "eye": eye,
        "air": 1 - head + air,
    }


def head(scene: Scene) -> dict[str, np.ndarray]:
    """Tissue fractions (H, W) of the scene's slice, lesions included; keys of TISSUES."""
    points_mm = slice_points(scene)
    if scene.finding == "none":
        return tissues_of(sample(points_mm))
    lesions = place_lesions(scene, points_mm[:, ::3, ::3], sample(points_mm[:, ::3, ::3]))
    tissues = tissues_of(sample(lesions.pushed(points_mm)))
    return add_lesions(tissues, lesions, points_mm)


def signal(weighting: str, stretch: float = 1.0) -> dict[str, float]:
    """MR signal of each tissue, proton density 1 fully relaxed being 1.

    Spin echo: PD (1 - exp(-TR/T1)) exp(-TE/T2). FLAIR: inversion recovery,
    PD |1 - 2 exp(-TI/T1) + exp(-TR/T1)| exp(-TE/T2) with TI nulling CSF.
    stretch multiplies TR and TE, as scanners differ.

    >>> t1, flair = signal("T1"), signal("FLAIR")
    >>> t1["white"] > t1["grey"] > t1["csf"], flair["csf"] < 0.01 < flair["white"]
    (True, True)
    """
    tr_ms, te_ms = (stretch * time for time in SEQUENCE[weighting])
    csf_t1_ms = TISSUES["csf"][1]
    ti_ms = csf_t1_ms * (np.log(2) - np.log1p(np.exp(-tr_ms / csf_t1_ms)))
    inversion = 2 * np.exp(-ti_ms / csf_t1_ms) if weighting == "FLAIR" else 0
    values = {}
    for name, (density, t1_ms, t2_ms, _) in TISSUES.items():
        inverted = inversion and 2 * np.exp(-ti_ms / t1_ms)
        recovered = abs(1 - inverted + (1 if inversion else -1) * np.exp(-tr_ms / t1_ms))
        values[name] = float(density * recovered * np.exp(-te_ms / t2_ms))
    return values


def mri(scene: Scene, size_px: int) -> Image.Image:
    """An MR slice: tissue signal, bias field, Rician noise, display window."""
    tissues, scan = head(scene), stream(scene, "scan")
    values = signal(scene.weighting, scan.uniform(0.92, 1.08))
    image = np.asarray(sum(np.float32(values[name]) * fraction for name, fraction in tissues.items() if name != "air"))
    grain = texture(scan, image.shape, 6)
    image *= 1 + 0.10 * grain * (tissues["muscle"] + tissues["marrow"]) + 0.015 * grain
    at_mm = (np.arange(MATRIX) / MATRIX - 0.5) * 300
    image *= 1 + waves(scan, at_mm, at_mm, scan.uniform(0.04, 0.12))[0]
    black, white = DISPLAY[scene.weighting]
    sigma = np.float32(scan.uniform(0.015, 0.035) * (white - black))
    real, imaginary = stream(scene, "noise").standard_normal((2, *image.shape), np.float32) * sigma
    image = np.sqrt(np.square(image + real) + np.square(imaginary))
    image = (image - black) * np.float32(scan.uniform(0.92, 1.08) / (white - black))
    return to_image(np.clip(image, 0, 1), size_px, marker=scene.plane != "sagittal")


def ct(scene: Scene, size_px: int) -> Image.Image:
    """A CT slice of the head in the brain window, W 80 L 40 HU."""
    tissues, scan = head(scene), stream(scene, "scan")
    image = np.asarray(sum(np.float32(TISSUES[name][3]) * fraction for name, fraction in tissues.items()))
    image += 2.0 * texture(scan, image.shape, 10)
    noise = stream(scene, "noise").standard_normal(image.shape, np.float32)
    noise = noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1)  # reconstruction correlates neighbours
    image += np.float32(scan.uniform(1.8, 3.2)) * noise
    return to_image(window(image, 80, 40 + scan.uniform(-2, 2)), size_px)
