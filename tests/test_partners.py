"""The partner of a question: the rule by hand, and that evaluation and training follow the same one."""

from collections import Counter

import numpy as np
import pytest

from medvlm_r1.data.partners import alike, contraries, drawn, is_contrary, rows
from medvlm_r1.data.phantom import sets
from medvlm_r1.types import Example


def question(name, answer="left", modality="mri", kind="side", group="", images=1):
    return Example(name, tuple(f"{name}-{n}.png" for n in range(images)), "Which side?", ("left", "right"), answer, modality, kind, group)


HERE = question("q", group="p1")


@pytest.mark.parametrize(("other", "fits"), [
    (question("a", "right", group="p2"), True),
    (question("a", "right"), True),  # no patient is named
    (question("a", "left", group="p2"), False),  # the same answer
    (question("a", "LEFT.", group="p2"), False),  # in another spelling
    (question("a", "right", "ct", group="p2"), False),
    (question("a", "right", kind="plane", group="p2"), False),
    (question("a", "right", group="p1"), False),  # the same patient
    (question("q", "right", group="p2"), False),  # the same picture
    (question("a", "right", group="p2", images=2), False),
])  # fmt: skip
def test_the_rule(other, fits):
    assert is_contrary(other, HERE) == fits
    assert ("q" in contraries([HERE, other])) == fits
    assert (drawn([other], HERE, is_contrary, np.random.default_rng(0)) is other) == fits


def test_evaluation_and_training_find_a_partner_for_the_same_questions_by_the_same_rule():
    examples = [e for name in ("mri", "text-shortcut") for e in sets.load(name, "test")]
    fixed, by_kind = contraries(examples), rows(examples, alike)
    for e in examples:
        other = drawn(by_kind[alike(e)], e, is_contrary, np.random.default_rng(1))
        assert (other is None) == (e.id not in fixed)
        assert other is None or (is_contrary(other, e) and is_contrary(fixed[e.id], e))
    assert {e.question_type for e in examples if e.id not in fixed} == {"modality"}  # all of them are answered "MRI"


def test_every_partner_is_drawn_as_often_as_any_other():
    """2,000 draws from four that fit, among 400 that mostly do not: 500 each, give or take 39 (two deviations)."""
    row = [question(f"s{n}") for n in range(396)] + [question(f"o{n}", "right") for n in range(4)]
    rng = np.random.default_rng(0)
    counts = Counter(drawn(row, HERE, is_contrary, rng).id for _ in range(2000))
    assert len(counts) == 4 and all(abs(n - 500) < 80 for n in counts.values())
    assert drawn(row[:396], HERE, is_contrary, rng) is None and drawn([], HERE, is_contrary, rng) is None
