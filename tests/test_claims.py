"""What free text claims about a phantom, and what the picture confirms."""

from dataclasses import asdict, replace

import pytest

from medvlm_r1.data.phantom import sets
from medvlm_r1.data.phantom.scene import Scene
from medvlm_r1.evaluation.measuring.claims import check, claims, claims_of
from medvlm_r1.evaluation.samples import Sample

PLAQUES = Scene("mri", 7, 42, "head", "axial", "FLAIR", "plaques", "left", "small", 2, "frontal")
HEALTHY = Scene("xray", 7, 42, "chest", "frontal", "", "none", "", "", 0, "")
ALL = [example for modality in ("mri", "ct", "xray") for example in sets.load(modality, "test")]


def said(text):
    """Claims as words: "side left", "not side left"."""
    return [f"{'not ' * c.denied}{c.fact} {c.value}" for c in claims_of(text)]


@pytest.mark.parametrize("text, claimed", [
    # Whole words, the longest first, other spellings, each claim once.
    ("Axial FLAIR MRI of the head.", ["plane axial", "weighting FLAIR", "modality MRI", "body head"]),
    ("A ring-enhancing tumour.", ["finding ring-enhancing tumour"]),
    ("Ring enhancing tumours", ["finding ring-enhancing tumour"]),
    ("tumor, plaque, hemorrhages", ["finding tumour", "finding plaques", "finding haemorrhage"]),
    ("Left. Yes, LEFT, left-sided.", ["side left"]),
    ("T2-weighted, not T1", ["weighting T2", "not weighting T1"]),
    ("leftover brightness, boneless, overhead, abnormality", []),
    ("I can answer this.", []),
    ("", []),
    # A denial reaches three words, within its clause.
    ("It is not on the left.", ["not side left"]),
    ("It isn't left but right.", ["not side left", "side right"]),
    ("Not a lesion that lies left", ["not abnormal yes", "side left"]),
    ("No, left.", ["side left"]),
    ("not only left", ["side left"]),
    ("no left infarct", ["not side left", "not finding infarct"]),
    ("No effusion, nodule or pneumothorax.", ["not finding effusion", "not finding nodule", "not finding pneumothorax"]),
    ("No effusion, one nodule.", ["not finding effusion", "count one", "finding nodule"]),
    ("No effusion. Nodule.", ["not finding effusion", "finding nodule"]),
    ("left and not left", ["side left", "not side left"]),
    # "no" and "yes" answer where a sentence ends; "the lesion" is taken for granted, its denial is not.
    ("Hence no.", ["abnormal no"]),
    ("Hence yes", ["abnormal yes"]),
    ("No lesion – no.", ["not abnormal yes", "abnormal no"]),
    ("The lesion is abnormal.", []),
    ("There is no lesion, nothing is abnormal", ["not abnormal yes"]),
    ("The image is not normal.", ["not finding normal"]),
    # Words with a second meaning.
    ("Finding: normal. A normal image.", ["finding normal"]),
    ("A normal heart size and normal vessels.", []),
    ("nodule, two, small, both, upper.", ["finding nodule", "count two", "size small", "side both", "region upper"]),
    ("Both T1 and T2", ["weighting T1", "weighting T2"]),
    ("in both lungs; bilateral", ["side both"]),
    ("This one has one of the two large nodules", ["count two", "size large", "finding nodule"]),
    ("one can see three small lesions", ["count three", "size small"]),
    ("The right answer is at the middle of the head of the pancreas, beside small bowel left over", []),
    ("Frontal X-ray with a frontal view", ["plane frontal", "modality X-ray"]),
    ("Frontal lobe, frontal.", ["region frontal"]),
])  # fmt: skip
def test_claims_of_free_text(text, claimed):
    assert said(text) == claimed


@pytest.mark.parametrize("text, scene, confirmed", [
    ("Two small plaques, left, frontal lobe", PLAQUES, [True] * 5),
    ("One large infarct on the right in the parietal lobe", PLAQUES, [False] * 5),
    ("no infarct, not the left", PLAQUES, [True, False]),
    ("Hence yes. Finding: normal.", PLAQUES, [True, False]),
    ("No lesion. Hence no. Normal.", HEALTHY, [True, True, True]),
    ("No lesion. Hence no. Normal.", PLAQUES, [False, False, False]),
    ("small nodule on the left", HEALTHY, [False, False, False]),
    ("not left", HEALTHY, [True]),
    ("left", replace(PLAQUES, side="both"), [False]),  # as the option would be wrong
    ("tumour", replace(PLAQUES, finding="ring-enhancing tumour"), [False]),
    ("left", replace(PLAQUES, plane="sagittal", side=""), [False]),
])  # fmt: skip
def test_claims_are_held_against_the_scene(text, scene, confirmed):
    assert [c.confirmed for c in check(text, scene)] == confirmed


def sample(name, text, reference="phantom:xray/test/2", **changes):
    base = Sample(name, "xray", "side", name, "Which side?", ("left", "right"), "A", (reference,), "image",
                  f"<think>{text}</think><answer>A</answer>", "A", "answered", True, 9)  # fmt: skip
    return replace(base, **changes)


def test_samples_by_hand():
    """The picture is a frontal X-ray: one medium consolidation in the left lower field, then moved to the right."""
    out = claims(
        [
            sample("a", "Consolidation, left. Hence left."),  # 2 of 2
            sample("b", "Consolidation, left.", "phantom:xray/test/2?side=right"),  # 1 of 2
            sample("c", "Two nodules."),  # 0 of 2
            sample("d", "I think so."),
            replace(sample("e", ""), text="left"),  # no thought: an answer alone claims nothing here
            sample("f", "Nodule.", "a.png"),  # no phantom
        ]
    )
    assert (out["n_samples"], out["without_claims"], out["n_claims"], out["confirmed"]) == (5, 2, 6, 0.5)
    # Two places on, which is half of five: a beside c's picture, b beside d's, c beside e's. All show the lesion on the left: 2 + 2 + 0.
    assert out["elsewhere"] == pytest.approx(4 / 6)
    low, high = out["ci95"]  # three patients with 2 of 2, 1 of 2 and 0 of 2
    assert low == pytest.approx(1 - high) and low < 0.05
    assert out["by_fact"] == {
        "finding": {"n": 3, "confirmed": pytest.approx(2 / 3)},
        "side": {"n": 2, "confirmed": 0.5},
        "count": {"n": 1, "confirmed": 0.0},
    }


def test_without_a_phantom_or_a_claim():
    assert claims([]) is None and claims([sample("a", "Nodule.", "a.png"), sample("b", "Nodule.", images=())]) is None
    assert claims([sample("a", "Nodule.", images=("phantom:xray/test/2", "phantom:xray/test/3"))]) is None  # which of the two is meant?
    assert claims([sample("a", "Nodule.")])["elsewhere"] is None  # no other picture
    silent = claims([sample("a", "I think so.")])
    assert (silent["n_claims"], silent["by_fact"]) == (0, {})
    assert silent["confirmed"] is silent["ci95"] is silent["elsewhere"] is None


def test_every_gold_reasoning_is_confirmed():
    """Nine hundred reports, and every fact of each is found in it."""
    for example in ALL:
        scene = sets.scene_of(example.images[0])
        found = check(example.reasoning, scene)
        assert found and all(c.confirmed for c in found), example.reasoning
        facts = {"modality", "plane", "body", "finding"} | ({"weighting"} if scene.modality == "mri" else set())
        facts |= {"count", "size", "region"} | ({"side"} if scene.side else set()) if scene.count else set()
        facts |= {"abnormal"} if example.question_type == "abnormal" else set()
        assert {c.claim.fact for c in found} == facts and len(found) == len(facts), example.reasoning


def agreeing(shown, told):
    """(facts that the report of ``told`` names, those in which the two pictures agree), from the scenes' own fields."""
    here, there = (asdict(sets.scene_of(e.images[0])) for e in (shown, told))
    names = ["modality", "plane", "body", "finding"] + ["weighting"] * (there["modality"] == "mri")
    names += ["count", "size", "region"] * (there["count"] > 0) + ["side"] * bool(there["side"])
    same = [here[name] == there[name] for name in names]
    if told.question_type == "abnormal":
        same.append((here["count"] > 0) == (there["count"] > 0))
    return len(same), sum(same)


def test_the_reasoning_about_another_picture_is_confirmed_as_often_as_the_scenes_agree():
    pairs = list(zip(ALL, ALL[7:] + ALL[:7], strict=True))
    n, right = (sum(part) for part in zip(*[agreeing(*pair) for pair in pairs], strict=True))
    out = claims([sample(f"{i}", told.reasoning, shown.images[0]) for i, (shown, told) in enumerate(pairs)])
    assert (out["n_claims"], out["confirmed"]) == (n, pytest.approx(right / n))
    # Four weightings, drawn alike: a quarter of 300 agree, give or take three standard errors of 2.5 %.
    assert abs(out["by_fact"]["weighting"]["confirmed"] - 0.25) < 0.075


def test_elsewhere_is_the_same_thoughts_beside_pictures_of_their_modality():
    out = claims([sample(e.id, e.reasoning, e.images[0], modality=e.modality) for e in ALL])
    pairs = [(ALL[300 * m + (i + 150) % 300], ALL[300 * m + i]) for m in range(3) for i in range(300)]
    n, right = (sum(part) for part in zip(*[agreeing(*pair) for pair in pairs], strict=True))
    assert out["confirmed"] == 1.0 and (out["n_claims"], out["elsewhere"]) == (n, pytest.approx(right / n))
