"""Questions that ask where on the screen the lesion lies: options first, gold one of them with equal chance, then a picture in which it is true.

The last takes some ten pictures to find, so which draw it was is kept in ``pointing.txt``: the sets are drawn at once, and are the
same on every machine. ``sets.find_draw`` finds one anew.
"""

from collections.abc import Callable
from functools import cache
from itertools import count
from pathlib import Path

import numpy as np

from medvlm_r1.data.phantom.place import place_of
from medvlm_r1.data.phantom.questions import WORDINGS, Question, draw_options, vocabulary
from medvlm_r1.data.phantom.scene import Scene, draw_scene

KEPT = Path(__file__).with_name("pointing.txt")


def ask_place(key: tuple[int, int], modality: str, patient: int, draw: int) -> Question:
    """The question of a key, about the scene of one draw, which may show the lesion elsewhere: ``first_draw`` says which does not."""
    rng = np.random.default_rng(key)
    options = draw_options(rng, modality, "place")
    gold, text = str(rng.choice(options)), str(rng.choice(WORDINGS["place"]))
    rng = np.random.default_rng([*key, draw])
    finding = str(rng.choice(vocabulary(modality, "finding")[1:]))
    return Question("place", text, options, gold, draw_scene(rng, modality, patient=patient, finding=finding, count=1))


def first_draw(asked: Callable[[int], Question]) -> int:
    """The first draw whose lesion lies in the gold cell."""
    return next(draw for draw in count() if _may_lie(asked(draw).scene, asked(draw).answer) and place_of(asked(draw).scene) == asked(draw).answer)


def _may_lie(scene: Scene, cell: str) -> bool:
    """False where the facts rule a cell out, which saves two pictures: the patient's left is on the screen's right, free air follows the whole flank."""
    is_other_side = bool(scene.side) and cell.endswith(scene.side)
    is_other_zone = scene.modality == "xray" and cell.startswith(("upper", "lower")) and not cell.startswith(scene.region)
    return not (is_other_side or is_other_zone or scene.finding == "pneumothorax")


@cache
def kept_draws() -> dict[tuple[str, str], list[int]]:
    """For every question of a set's split the draw that shows its answer."""
    rows = (line.split() for line in KEPT.read_text(encoding="utf-8").splitlines())
    return {(name, split): [int(draw) for draw in draws] for name, split, *draws in rows}
