"""From a `Scene` to a picture: one renderer for each modality and body."""

from PIL import Image

from medvlm_r1.data.phantom import brain, ct, xray
from medvlm_r1.data.phantom.scene import Scene

RENDERERS = {
    ("mri", "head"): brain.mri,
    ("ct", "head"): brain.ct,
    ("ct", "chest"): ct.chest,
    ("ct", "abdomen"): ct.abdomen,
    ("xray", "chest"): xray.chest,
}


def render(scene: Scene, size_px: int = 224) -> Image.Image:
    """The 8-bit grey picture (mode "L", size_px x size_px) of a scene.

    Deterministic: the same scene gives the same bytes. The patient's left is on
    the image's right. To see the same patient, slice and noise with another
    lesion or none, render ``dataclasses.replace(scene, side="right")`` or
    ``dataclasses.replace(scene, finding="none")``.
    """
    return RENDERERS[scene.modality, scene.body](scene, size_px)
