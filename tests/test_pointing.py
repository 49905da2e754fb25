"""Where a lesion lies on the screen: the cell is the picture's, the text tells nothing, and the sets that were there before do not know of it."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from medvlm_r1.data.phantom import place, sets
from medvlm_r1.data.phantom.questions import MODALITIES, WEIGHTS, WORDINGS, ask
from medvlm_r1.data.phantom.scene import Scene
from medvlm_r1.experiments import nano_lessons as lessons
from medvlm_r1.experiments.nano_base import Classroom, new_policy
from medvlm_r1.experiments.nano_pool import Pool
from medvlm_r1.files import digest

# Drawn and looked at: what is seen where on the screen, and with the lesion on the patient's other side.
SEEN = [
    (Scene("xray", 7, 42, "chest", "frontal", "", "nodule", "left", "small", 1, "upper"), "upper right", "upper left"),
    (Scene("xray", 7, 42, "chest", "frontal", "", "effusion", "right", "small", 1, "lower"), "lower left", "lower right"),
    (Scene("ct", 7, 42, "chest", "axial", "", "nodule", "right", "small", 1, "middle"), "middle left", "middle right"),
    (Scene("mri", 7, 42, "head", "axial", "T2", "tumour", "left", "small", 1, "parietal"), "middle right", "middle left"),
]


@pytest.mark.parametrize("scene, cell, mirrored", SEEN)
def test_the_patients_left_is_on_the_screens_right(scene, cell, mirrored):
    assert place.place_of(scene) == cell
    assert place.place_of(replace(scene, side={"left": "right", "right": "left"}[scene.side])) == mirrored


def test_a_lesion_across_cells_has_no_cell_and_neither_have_two():
    flank = Scene("xray", 7, 42, "chest", "frontal", "", "pneumothorax", "left", "large", 1, "upper")
    assert place.lesion(flank).sum() > 0 and place.place_of(flank) == ""
    assert place.place_of(replace(SEEN[0][0], count=2)) == "" == place.place_of(replace(SEEN[0][0], finding="none", side="", size="", count=0, region=""))


def test_the_other_sets_do_not_know_of_places():
    """Texts and facts of the sets and lessons that were there before, as they were."""
    assert not any("place" in weights for weights in WEIGHTS.values())
    examples = [repr(e) for name in ("mri", "ct", "xray", "text-shortcut", "text-reversed") for e in sets.load(name)]
    assert digest("".join(examples))[:16] == "2af6d9f168400797"
    rng = np.random.default_rng(0)
    scenes = [ask(rng, modality, n).scene for n in range(20) for modality in MODALITIES]
    taught = [repr(lessons.lookup(rng)) for _ in scenes] + [repr(lessons.teacher(rng, a, b, 0)) for a, b in pairwise(scenes)]
    assert digest("".join(taught))[:16] == "38b9676bc557a8b7"


def pool():
    """Three pictures of X-rays that can be asked about, one that cannot (its cell is none of the modality's), and two whose cell is unclear."""
    scene = SEEN[0][0]
    cells = ["upper right", "centre", "centre", "lower middle", "", ""]
    scenes = [replace(scene, modality=modality) for modality in MODALITIES for _ in cells]
    return Pool(np.zeros((18, 84, 84), np.uint8), scenes, cells * 3)


def test_a_pool_knows_whom_it_can_ask_where():
    assert pool().by_cell() == {
        "mri": {"centre": [1, 2], "lower middle": [3]},
        "ct": {"centre": [7, 8], "lower middle": [9]},
        "xray": {"upper right": [12], "centre": [13, 14]},
    }


def test_a_lesson_points():
    room, rng = Classroom(new_policy(0), pool()), np.random.default_rng(0)
    taught = [room.lesson(rng, "point") for _ in range(60)]
    assert {lesson.picture for lesson in taught} == {1, 2, 3, 7, 8, 9, 12, 13, 14}
    for lesson in taught:
        cell = pool().cells[lesson.picture]
        letter = next(line[0] for line in lesson.prompt.splitlines() if line[1:] == f") {cell}")
        assert lesson.completion.endswith(f"On screen: {cell}. Hence {cell}.</think>\n<answer>{letter}</answer>")
        assert any(wording in lesson.prompt for wording in WORDINGS["place"])
    assert any(lesson.completion.startswith("<think>I") for lesson in (room.lesson(rng, "point-teacher") for _ in range(20)))


def test_the_longest_thought_fits_the_demos_completions():
    tokenizer = new_policy(0).encoder.tokenizer
    longest = "<think>Coronal FLAIR MRI of the head. Finding: ring-enhancing tumour, one, medium, right, occipital. On screen: centre. Hence centre.</think>\n"
    assert len(tokenizer(f"{longest}<answer>B</answer><|im_end|>")["input_ids"]) == 44 <= 48
