"""The same phantom with another lesion: what is drawn, what is asked, and what became of the answers."""

from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy import ndimage

from medvlm_r1.data.phantom import sets
from medvlm_r1.errors import DataError, ImageError
from medvlm_r1.evaluation.asking.counterfactual import counterfactual
from medvlm_r1.evaluation.measuring.flips import flips
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.types import Example

# A right-sided tumour, one, medium, frontal, axial PD; and a left-sided consolidation, one, medium, lower.
TUMOUR, CONSOLIDATION, SAGITTAL, NORMAL = "phantom:mri/test/1", "phantom:xray/test/2", "phantom:mri/test/0", "phantom:mri/test/3"


def pixels(reference):
    return np.asarray(sets.open_reference(reference), np.float32)


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("change, fields", [
    ("side=left", {"side": "left"}), ("size=large", {"size": "large"}), ("count=2", {"count": 2}), ("side=right", {}),
    ("finding=ring-enhancing tumour", {"finding": "ring-enhancing tumour"}), ("region=frontal", {}),
    ("finding=none", {"finding": "none", "side": "", "size": "", "count": 0, "region": ""}),
])  # fmt: skip
def test_a_reference_changes_one_fact_of_the_lesion(change, fields):
    assert asdict(sets.scene_of(f"{TUMOUR}?{change}")) == asdict(sets.scene_of(TUMOUR)) | fields


@pytest.mark.parametrize("reference, why", [
    (f"{TUMOUR}?side=above", 'side "above" is unknown; known are left, right, both; change another fact'),
    (f"{TUMOUR}?size=huge", 'size "huge" is unknown'),
    (f"{TUMOUR}?side=both", "needs at least 2 lesions"),
    (f"{TUMOUR}?count=9", "comes as 1 to 3 lesions, not 9"),
    (f"{TUMOUR}?count=many", "comes as 1 to 3 lesions, not many"),
    (f"{TUMOUR}?finding=nodule", 'mri of the head has no finding "nodule"'),
    (f"{TUMOUR}?region=lower", "does not show the region"),
    (f"{TUMOUR}?sides=left", 'unknown fact "sides"; did you mean "side"'),
    (f"{TUMOUR}?plane=axial", 'unknown fact "plane"; known are'),
    (f"{TUMOUR}?", 'unknown fact ""'),
    (f"{SAGITTAL}?side=left", "sagittal slice shows no side"),
    (f"{NORMAL}?side=left", "leaves no lesion"),
    (f"{NORMAL}?finding=tumour", "comes as 1 to 3 lesions, not 0"),
    ("phantom:mri/test/300?side=left", "no phantom picture"),
])  # fmt: skip
def test_a_picture_that_cannot_be_is_refused_with_the_reason(reference, why):
    with pytest.raises(ImageError, match="phantom picture") as caught:
        sets.open_reference(reference)
    assert reference in str(caught.value) and why in str(caught.value)


@pytest.mark.parametrize("reference, to", [
    (TUMOUR, "left"), (CONSOLIDATION, "right"), ("phantom:ct/test/4", "left"), ("phantom:ct/test/11", "left"),
])  # fmt: skip
def test_only_the_lesion_moves_to_the_other_side(reference, to):
    before, after, healthy = pixels(reference), pixels(f"{reference}?side={to}"), pixels(f"{reference}?finding=none")
    was, now = (ndimage.gaussian_filter(np.abs(p - healthy), 1.0) > 10 for p in (before, after))
    columns = np.arange(224) - 111.5  # the patient's left is on the image's right
    was_at, now_at = (mask.sum(0) @ columns / mask.sum() for mask in (was, now))
    assert was_at * now_at < 0 and (now_at > 8 if to == "left" else now_at < -8)
    untouched = (before == healthy) & (after == healthy)
    assert untouched.mean() > 0.5 and (before == after)[untouched].all()
    # Where the old lesion alone was, the new picture is healthy.
    old_alone = ndimage.binary_erosion(was) & ~ndimage.binary_dilation(np.abs(after - healthy) > 0)
    assert old_alone.sum() > 20 and (after[old_alone] == healthy[old_alone]).all()


# ---------------------------------------------------------------- questions

ALL = [example for modality in ("mri", "ct", "xray") for example in sets.load(modality, "test")]


def test_every_counterfactual_is_the_same_question_with_another_true_answer():
    """Held against the scene's own fields, not against the code that answers."""
    field_of = {"side": "side", "size": "size", "region": "region", "count": "count", "finding": "finding", "abnormal": "finding"}
    numbers = {"one": 1, "two": 2, "three": 3}
    seen = Counter()
    for example in ALL:
        changed = counterfactual(example)
        if changed is None:
            continue
        kind, scene = example.question_type, asdict(sets.scene_of(changed.images[0]))
        value = {"normal": "none", "no": "none", **numbers}.get(changed.answer, changed.answer)
        assert scene[field_of[kind]] == value and changed.answer != example.answer and changed.answer in example.options
        first = asdict(sets.scene_of(example.images[0]))
        if value != "none":
            assert {name for name in scene if scene[name] != first[name]} == {field_of[kind]}
        assert changed.reasoning.endswith(f"Hence {changed.answer}.")
        assert replace(changed, images=example.images, answer=example.answer, reasoning=example.reasoning) == example
        seen[kind] += 1
    assert set(seen) == set(field_of)
    sides = [e for e in ALL if e.question_type == "side" and e.answer != "both"]
    assert seen["side"] == len(sides)  # every lesion on one side can move to the other
    assert seen["abnormal"] == sum(e.question_type == "abnormal" and e.answer == "yes" for e in ALL)


def test_a_lesion_moves_to_the_opposite_side_and_never_to_both():
    for example in ALL:
        changed = counterfactual(example)
        if example.question_type == "side" and changed:
            assert {example.answer, changed.answer} == {"left", "right"}


def test_the_next_option_that_can_be_true_comes_round():
    """One medium frontal tumour in the right hemisphere of an axial slice: of three options, the one after the answer."""
    ask = Example("q", (TUMOUR,), "How many?", ("two", "one", "three"), "one", "mri", "count")
    assert counterfactual(ask).answer == "three"
    assert counterfactual(replace(ask, options=("two", "one"))).answer == "two"
    finding = Example("q", (TUMOUR,), "What?", ("tumour", "nodule", "infarct", "normal"), "tumour", "mri", "finding")
    assert counterfactual(finding).answer == "infarct"  # no nodule in a head
    assert counterfactual(replace(finding, options=("normal", "tumour"))).images == (f"{TUMOUR}?finding=none",)


@pytest.mark.parametrize("change", [
    {"question_type": "plane", "answer": "axial", "options": ("axial", "coronal")},
    {"images": ("a.png",)},
    {"images": ()},
    {"images": (TUMOUR, TUMOUR)},
    {"images": (f"{TUMOUR}?side=left",), "answer": "left"},  # changed already
    {"options": ("right", "both")},  # the opposite is no option
    {"answer": "left"},  # not what the picture shows: another's question
    {"images": (NORMAL,), "question_type": "abnormal", "options": ("yes", "no"), "answer": "no"},
    {"options": (), "answer": "right", "question_type": ""},
])  # fmt: skip
def test_what_has_no_counterfactual(change):
    side = Example("q", (TUMOUR,), "Which side?", ("left", "right"), "right", "mri", "side")
    assert counterfactual(side).answer == "left"
    assert counterfactual(replace(side, **change)) is None


# ---------------------------------------------------------------- outcome


def pair(name, was, then, thoughts=("Finding: left.", "Finding: left.")):
    """The consolidation's side, asked before and after it moved from left to right."""
    base = Sample(name, "xray", "side", name, "Which side?", ("left", "right", "both"), "A", (CONSOLIDATION,), "image",
                  f"<think>{thoughts[0]}</think><answer>{was}</answer>", was, "answered", was == "A", 9)  # fmt: skip
    after = replace(base, gold="B", images=(f"{CONSOLIDATION}?side=right",), arm="counterfactual", answer=then, correct=then == "B",
                    text=f"<think>{thoughts[1]}</think><answer>{then}</answer>")  # fmt: skip
    return base, after


PAIRS = [
    pair("a", "A", "B", ("Finding: left.", "Finding: right.")),  # looked again
    pair("b", "A", "A"),  # did not notice
    pair("c", "A", "B", ("Consolidation, left.",) * 2),  # the answer goes along, the thought does not; what both pictures show is no news
    pair("d", "A", "C", ("Finding: left.", "Left and right.")),
    pair("e", "A", None, ("Finding: left.", "Not left.")),  # unread; denies the old fact
    pair("f", "C", "B", ("Finding: both.", "Finding: right.")),  # was wrong before
]


def test_flips_by_hand():
    before, after = ([p[i] for p in PAIRS] for i in (0, 1))
    other = replace(before[0], id="not changed")
    out = flips([other, *before], after)
    assert (out["n"], out["n_right_before"]) == (6, 5)
    shares = {name: out[name]["share"] for name in ("follows", "sticks", "other")}
    assert shares == pytest.approx({"follows": 2 / 5, "sticks": 1 / 5, "other": 2 / 5})
    assert out["chance"] == pytest.approx(1 / 3)
    thought = {name: cell["share"] for name, cell in out["thought"].items()}
    assert thought == pytest.approx({"changes": 3 / 5, "names_new": 3 / 5, "names_old": 3 / 5})  # a, d, e; b, c, d
    assert out["by_question_type"]["side"]["share"] == pytest.approx(2 / 5)
    low, high = out["follows"]["ci95"]
    assert low < 0.4 < high


def test_what_could_not_be_had_is_no_other_answer():
    (before, after), (same, lost) = PAIRS[:2]
    out = flips([before, same], [after, replace(lost, status="failed", answer=None, correct=False)])
    assert (out["n"], out["n_right_before"], out["follows"]["share"], out["other"]["share"]) == (1, 1, 1.0, 0.0)


def test_guessing_and_following_are_told_by_question():
    """Of two and of three options: 1/2 and 1/3."""
    of_two = [replace(s, options=("left", "right"), question_type="finding") for s in pair("a", "A", "B")]
    out = flips([of_two[0], PAIRS[1][0]], [of_two[1], PAIRS[1][1]])
    assert out["chance"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert {kind: cell["share"] for kind, cell in out["by_question_type"].items()} == {"finding": 1.0, "side": 0.0}


def test_nothing_right_before_has_no_share():
    before, after = PAIRS[-1]
    out = flips([before], [after])
    assert (out["n"], out["n_right_before"], out["by_question_type"]) == (1, 0, {})
    assert out["follows"]["share"] is out["chance"] is None


def test_pairs_that_do_not_fit_are_named():
    before, after = PAIRS[0]
    with pytest.raises(DataError, match='"a" was asked about the changed picture only'):
        flips([], [after])
    with pytest.raises(DataError, match='"a" has other options, or the same answer'):
        flips([before], [replace(after, gold="A")])
    with pytest.raises(DataError, match='"a" has other options, or the same answer'):
        flips([before], [replace(after, options=after.options[::-1])])
