"""Accuracy where the option texts point to the right option, and where they point to a wrong one.

A model that leans on the texts is good at the former and bad at the latter; the mean over both hides it.
"""

from collections.abc import Mapping
from typing import Any

from medvlm_r1.evaluation.measuring.metrics import Arms, cell

SIDES = ("right", "wrong")


def by_prior(arms: Arms, points: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Arm -> "right" or "wrong" -> cell, over questions whatever their modality; ``points`` is ``audit.prior.TextPrior.points``. A side without questions is left out."""
    return {
        arm: {side: cell(few) for side in SIDES if (few := [s for s in samples if points.get(s.id) == side])}
        for arm, samples in arms.items()
        if any(s.id in points for s in samples)
    }
