"""The pictures show the facts: measured on pixels, against the same scene without the lesion."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy import ndimage

from medvlm_r1.data.phantom import brain, lesions
from medvlm_r1.data.phantom.render import render
from medvlm_r1.data.phantom.scene import BODIES, COUNTS, FINDINGS, PLANES, REGIONS, SIDES, SIZES, WEIGHTINGS, draw_scene
from medvlm_r1.errors import DataError

WITH_LESION = [(modality, body, finding) for (modality, body), findings in FINDINGS.items() for finding in findings[1:]]
SINGLE = ("infarct", "effusion", "pneumothorax")


def pixels(scene, size_px=224):
    return np.asarray(render(scene, size_px), np.float32)


def lesion_mask(scene, at_least=14.0):
    """Pixels (224, 224) that the lesion changed visibly; noise is the same in both pictures."""
    difference = pixels(scene) - pixels(replace(scene, finding="none"))
    # free air darkens; the lung that collapses under it brightens and is not the lesion
    difference = -difference if scene.finding == "pneumothorax" else np.abs(difference)
    return ndimage.gaussian_filter(difference, 1.0) > at_least


def draw(seed, modality, **fixed):
    return draw_scene(np.random.default_rng(seed), modality, **fixed)


def drawable(seed, modality, body, finding, **fixed):
    """A scene whose lesion is easy to measure: one plane and one contrast for MRI."""
    if modality == "mri":
        fixed = {"weighting": "T1" if finding.startswith("ring") else "FLAIR", "plane": "axial", **fixed}
    return draw(seed, modality, body=body, finding=finding, **fixed)


@pytest.mark.parametrize("modality", BODIES)
def test_the_same_scene_gives_the_same_bytes_and_another_patient_does_not(modality):
    scene = draw(3, modality)
    again = draw(3, modality)
    assert scene == again and render(scene).tobytes() == render(again).tobytes()
    assert render(scene).size == (224, 224) and render(scene).mode == "L" and render(scene, 84).size == (84, 84)
    other = pixels(replace(scene, patient=scene.patient + 1))
    assert np.abs(other - pixels(scene)).mean() > 4


@pytest.mark.parametrize("modality, body, finding", WITH_LESION)
def test_the_patients_left_is_on_the_images_right(modality, body, finding):
    for seed in range(2):
        scene = drawable(seed, modality, body, finding, side="left")
        left, right = lesion_mask(scene), lesion_mask(replace(scene, side="right"))
        columns = np.arange(224) - 111.5
        assert (left.sum(0) @ columns) / left.sum() > 8, scene
        assert (right.sum(0) @ columns) / right.sum() < -8, scene


@pytest.mark.parametrize("modality, body, finding", WITH_LESION)
def test_changing_the_side_leaves_everything_else_as_it_was(modality, body, finding):
    scene = drawable(5, modality, body, finding, side="left", size="small")
    mirrored = replace(scene, side="right")
    changed = np.abs(pixels(scene) - pixels(mirrored)) > 3
    healthy = pixels(replace(scene, finding="none"))
    touched = (np.abs(pixels(scene) - healthy) > 1) | (np.abs(pixels(mirrored) - healthy) > 1)
    near = ndimage.binary_dilation(touched, iterations=3)
    assert (pixels(replace(mirrored, finding="none")) == healthy).all() and touched.mean() < 0.4
    assert not (changed & ~near).any()


@pytest.mark.parametrize("modality, body, finding", WITH_LESION)
def test_the_area_grows_with_the_size_class(modality, body, finding):
    seeds = range(3)
    count = 1
    areas = {size: np.mean([lesion_mask(drawable(seed, modality, body, finding, size=size, count=count)).sum() for seed in seeds]) for size in SIZES}
    assert areas["medium"] > 1.7 * areas["small"] and areas["large"] > 1.7 * areas["medium"], areas


@pytest.mark.parametrize("modality, body, finding", [case for case in WITH_LESION if case[2] not in SINGLE])
def test_as_many_separate_lesions_as_counted(modality, body, finding, monkeypatch):
    monkeypatch.setattr(lesions, "PUSH", {})  # displaced sulci would count as lesions
    right = []
    for count, seed in product(COUNTS, range(4)):
        scene = drawable(seed, modality, body, finding, count=count, size="small")
        labels, found = ndimage.label(lesion_mask(scene))
        big = sum(ndimage.sum_labels(np.ones_like(labels), labels, range(1, found + 1)) > 8)
        right.append(big == count)
    assert np.mean(right) > 0.75


def test_both_sides_show_a_lesion_each():
    for modality, body, finding in WITH_LESION:
        mask = lesion_mask(drawable(1, modality, body, finding, side="both"))
        assert mask[:, :104].sum() > 8 and mask[:, 120:].sum() > 8, finding


@pytest.mark.parametrize("modality, body, finding", WITH_LESION)
def test_small_lesions_stand_out_at_84_px(modality, body, finding):
    for seed, weighting in enumerate(WEIGHTINGS if modality == "mri" else [""]):
        fixed = {"weighting": weighting} if weighting else {}
        scene = drawable(seed, modality, body, finding, size="small", **fixed)
        difference = np.abs(pixels(scene, 84) - pixels(replace(scene, finding="none"), 84))
        assert difference.max() > 24, scene


def test_mr_contrast_follows_the_weighting():
    scene = draw(0, "mri", plane="axial", finding="none")
    tissues = brain.head(scene)
    grey = {}
    for weighting in WEIGHTINGS:
        # CSF, white and grey matter where a pixel holds little else
        image = np.asarray(render(replace(scene, weighting=weighting)).resize((brain.MATRIX, brain.MATRIX)), np.float32)
        core = {name: ndimage.minimum_filter(tissues[name], 3) > 0.6 for name in ("white", "grey", "csf")}
        grey[weighting] = {name: np.median(image[mask]) for name, mask in core.items() if mask.any()}
    assert grey["T2"]["csf"] > 1.5 * grey["T2"]["grey"] > 1.5 * grey["T2"]["white"] * 0.8
    assert grey["T1"]["csf"] < grey["T1"]["grey"] < grey["T1"]["white"]
    assert grey["FLAIR"]["csf"] < 0.5 * grey["FLAIR"]["white"]
    assert grey["PD"]["grey"] > grey["PD"]["white"]


def test_a_lesion_lies_in_its_lobe():
    for seed in range(20):
        scene = draw(seed, "mri", finding="plaques")
        points_mm = brain.slice_points(scene)[:, ::3, ::3]
        found = lesions.place_lesions(scene, points_mm, brain.sample(points_mm))
        flat_mm = lesions.in_plane(scene.plane, points_mm).reshape(2, -1)
        for centre_mm in found.centres_mm:
            near = np.square(flat_mm - centre_mm[:, None]).sum(0) < 5**2
            assert scene.region in lesions.lobe(*points_mm.reshape(3, -1)[:, near])


def test_draw_scene_honours_every_single_fact():
    for (modality, body), findings in FINDINGS.items():
        facts = {"side": SIDES, "size": SIZES, "region": REGIONS[modality, body], "plane": PLANES[modality]}
        for finding, (name, values) in product(findings[1:], facts.items()):
            for value in values:
                if name == "region" and finding in ("effusion", "pneumothorax"):
                    continue
                for seed in range(2):
                    scene = draw(seed, modality, body=body, finding=finding, **{name: value})
                    assert (scene.finding, getattr(scene, name)) == (finding, value)
                    assert scene.region in REGIONS[modality, body] and scene.count in COUNTS
                    assert (scene.side == "") == (scene.plane == "sagittal")
        healthy = draw(0, modality, body=body, finding="none")
        assert (healthy.side, healthy.size, healthy.count, healthy.region) == ("", "", 0, "")


def test_open_facts_are_drawn_about_evenly():
    scenes = [draw(seed, "mri") for seed in range(500)]
    for name, values in {"finding": FINDINGS["mri", "head"], "plane": PLANES["mri"], "weighting": WEIGHTINGS}.items():
        shares = [np.mean([getattr(scene, name) == value for scene in scenes]) for value in values]
        assert max(shares) < 1.6 * min(shares), name


@pytest.mark.parametrize(
    "modality, fixed",
    [
        ("mri", {"plane": "sagittal", "side": "left"}),
        ("mri", {"finding": "none", "size": "small"}),
        ("mri", {"finding": "infarct", "count": 3}),
        ("mri", {"finding": "tumour", "side": "both", "count": 1}),
        ("xray", {"finding": "effusion", "region": "upper"}),
        ("xray", {"finding": "nodule", "side": "left", "size": "large", "count": 3}),
        ("ct", {"body": "head", "finding": "cyst"}),
        ("ct", {"finding": "gout"}),
        ("pet", {}),
        ("mri", {"colour": "red"}),
    ],
)
def test_contradictions_are_one_clear_sentence(modality, fixed):
    with pytest.raises(DataError) as caught:
        draw(0, modality, **fixed)
    assert "\n" not in str(caught.value) and len(str(caught.value)) > 30
