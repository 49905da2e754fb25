"""Does a run still look at the pictures? Accuracy with the own and with another patient's picture, step by step, and when to stop.

Every number is a function of rows of metrics.jsonl, so that a resumed run stops where an uninterrupted one does, and the report
can say why.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medvlm_r1.data.views import METER, arm_of
from medvlm_r1.rewards.open import right
from medvlm_r1.types import RolloutGroup

OWN, OTHER, CHANCE = "looking/own", "looking/other", "looking/chance"
_ONE_SIDED = 1.645  # standard errors: 95 % on one side


@dataclass(frozen=True)
class Stop:
    """When a run ends before its last step.

    ``kept``: once it keeps more than this share of its lead over chance with another patient's picture, for certain (one-sided 95 %
    over the last ``window`` steps); None: never. ``patience``: once so many tests on held-out questions in a row were no better than the best before.

    >>> Stop(kept=0.5).window
    20
    """

    kept: float | None = None
    window: int = 20
    patience: int | None = None


def looking(groups_P: Sequence[RolloutGroup]) -> dict[str, float]:
    """Share of right answers, as evaluation reads them, with the own picture and with another patient's, of questions shown with both; and chance.

    Each question counts alike. Nothing where none was shown with both.
    """
    own = {group.prompt.example.id: group for group in groups_P if not group.prompt.view}
    others = [group for group in groups_P if arm_of(group.prompt.view) == METER]
    pairs = [(own[group.prompt.example.id.removesuffix(f"/{group.prompt.view}")], group) for group in others]
    if not pairs:
        return {}
    guesses = [1 / len(options) if (options := group.prompt.example.options) else 0.0 for group, _ in pairs]
    sides = ([_right(group) for group, _ in pairs], [_right(group) for _, group in pairs], guesses)
    return {key: sum(values) / len(pairs) for key, values in zip((OWN, OTHER, CHANCE), sides, strict=True)}


def _right(group: RolloutGroup) -> float:
    return sum(right(rollout.completion, group.prompt) for rollout in group.rollouts) / len(group.rollouts)


@dataclass(frozen=True)
class Kept:
    """What remains of the lead over chance with another patient's picture, as a share of it, and what it is at least (one-sided 95 %).

    >>> Kept(0.6, 0.52).least
    0.52
    """

    share: float
    least: float


def kept(rows: Sequence[Mapping[str, Any]]) -> Kept | None:
    """Over these steps; None where there is no lead, or fewer than two steps tell.

    The ratio of two means has its standard error linearised, steps for independent.

    | own, other, chance of two steps      | share | least                |
    >>> rows = [{OWN: 0.8, OTHER: 0.6, CHANCE: 0.4}, {OWN: 0.8, OTHER: 0.4, CHANCE: 0.4}]
    >>> found = kept(rows)                          # leads 0.4, 0.4 and 0.2, 0; residuals +-0.1, their mean's error 0.1
    >>> round(found.share, 3), round(found.least, 3)                    # 0.25 - 1.645 x 0.1 / 0.4
    (0.25, -0.161)
    >>> kept([{OWN: 0.3, OTHER: 0.3, CHANCE: 0.4}] * 2) is None, kept(rows[:1]) is None
    (True, True)
    """
    leads = [(row[OWN] - row[CHANCE], row[OTHER] - row[CHANCE]) for row in rows if row.get(OWN) is not None]
    n, own, other = len(leads), sum(lead for lead, _ in leads), sum(left for _, left in leads)
    if n < 2 or own <= 0:
        return None
    share = other / own
    residuals = sum((left - share * lead) ** 2 for lead, left in leads)
    return Kept(share, share - _ONE_SIDED * math.sqrt(residuals * n / (n - 1)) / own)


def forgets(rows: Sequence[Mapping[str, Any]], stop: Stop) -> Kept | None:
    """What it keeps, if that is too much to go on; rows of all steps so far."""
    recent = rows[-stop.window :]
    found = kept(recent) if stop.kept is not None and len(recent) == stop.window else None
    return found if found and stop.kept is not None and found.least > stop.kept else None
