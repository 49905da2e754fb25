"""How much better a rollout did than its group. Pure functions of rewards: of one group, or of all groups of a step.

Legend: P prompts of a step, G rollouts of a prompt.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from medvlm_r1.types import RolloutGroup


def is_flat(rewards_G: Sequence[float]) -> bool:
    """Are all rewards the same? Then nobody did better than the group, and an advantage is exactly zero.

    Sums of parts that differ by rounding alone count as the same: the mean of equal numbers may miss them by a
    last bit, which the division by a deviation of nearly zero would blow up.

    >>> is_flat([0.1] * 3), is_flat([0.3, 0.1 + 0.2]), is_flat([0.3, 0.31])
    (True, True, False)
    """
    return not rewards_G or math.isclose(min(rewards_G), max(rewards_G), rel_tol=1e-12)


def grpo(rewards_G: Sequence[float]) -> list[float]:
    """(r - mean) / (std + 1e-4), unbiased std (DeepSeekMath 2402.03300; the paper's recipe).

    | rewards    | advantages            |
    |------------|-----------------------|
    | 2, 2, 2, 2 | 0, 0, 0, 0            |
    | 0.1 thrice | 0, 0, 0               |
    | 2, 1, 0, 1 | 1.22, 0, -1.22, 0     |
    | 2 alone    | 0                     |

    >>> [round(a, 2) for a in grpo([2.0, 1.0, 0.0, 1.0])]
    [1.22, 0.0, -1.22, 0.0]
    """
    if is_flat(rewards_G):
        return [0.0] * len(rewards_G)
    mean, std = statistics.fmean(rewards_G), statistics.stdev(rewards_G)
    return [(reward - mean) / (std + 1e-4) for reward in rewards_G]


def dr_grpo(rewards_G: Sequence[float]) -> list[float]:
    """r - mean: no division, so that easy and hard questions weigh alike (Dr. GRPO 2503.20783).

    >>> dr_grpo([2.0, 1.0, 0.0, 1.0])
    [1.0, 0.0, -1.0, 0.0]
    """
    if is_flat(rewards_G):
        return [0.0] * len(rewards_G)
    mean = statistics.fmean(rewards_G)
    return [reward - mean for reward in rewards_G]


def gdpo(parts_PG: Sequence[Sequence[Mapping[str, float]]], weights: Mapping[str, float]) -> list[list[float]]:
    """Each reward as ``grpo`` has it, weighted, summed, and divided by the deviation over the step (GDPO 2601.05242).

    ``parts_PG``: a rollout's rewards by name, each with its weight already, as a Rubric gives them; what ``weights`` does not name
    weighs 1. A right form and a right answer count apart here: (1, 1) against (0, 0) is worth twice (1, 0) against (0, 0), and
    ``grpo`` gives +-0.71 for both. The mean over the step needs no subtraction: it is zero, as it is in each group.

    >>> one = [{"format": 1.0, "accuracy": 1.0}, {"format": 0.0, "accuracy": 0.0}]
    >>> two = [{"format": 1.0, "accuracy": 0.0}, {"format": 0.0, "accuracy": 0.0}]
    >>> [[round(a, 2) for a in advantages_G] for advantages_G in gdpo([one, two], {})]
    [[1.1, -1.1], [0.55, -0.55]]
    """
    summed_PG = [_summed(parts_G, weights) for parts_G in parts_PG]
    flat = [value for summed_G in summed_PG for value in summed_G]
    scale = statistics.stdev(flat) + 1e-4 if len(flat) > 1 else 1.0
    return [[value / scale for value in summed_G] for summed_G in summed_PG]


def _summed(parts_G: Sequence[Mapping[str, float]], weights: Mapping[str, float]) -> list[float]:
    """The weighted sum of a group's rewards, each normalised within the group without its weight."""
    columns = {name: weights.get(name, 1.0) for name in parts_G[0]}
    normal = {name: grpo([parts[name] / weight for parts in parts_G]) for name, weight in columns.items() if weight}
    return [sum(columns[name] * values_G[g] for name, values_G in normal.items()) for g in range(len(parts_G))]


ROUNDING = 1e-9  # what is left of unequal rewards that cancel
Advantage = Callable[[Sequence[RolloutGroup], Mapping[str, float]], list[list[float]]]


def _within(of_group: Callable[[Sequence[float]], list[float]]) -> Advantage:
    return lambda groups_P, weights: [of_group(group.rewards_G) for group in groups_P]


def _gdpo(groups_P: Sequence[RolloutGroup], weights: Mapping[str, float]) -> list[list[float]]:
    return gdpo([[rollout.rewards for rollout in group.rollouts] for group in groups_P], weights)


def advantages(name: str, groups_P: Sequence[RolloutGroup], weights: Mapping[str, float]) -> list[list[float]]:
    """Of every rollout, times its group's weight; zeros where a group is only measured.

    The weight comes after the division by a deviation, which would take out a factor of all rewards again.
    """
    teaching = iter(ADVANTAGES[name]([group for group in groups_P if group.weight], weights))
    return [[group.weight * a for a in next(teaching)] if group.weight else [0.0] * len(group.rollouts) for group in groups_P]


# Of all groups of a step, and the weights of their rewards.
ADVANTAGES: dict[str, Advantage] = {"grpo": _within(grpo), "dr_grpo": _within(dr_grpo), "gdpo": _gdpo}


def teaches_nothing(name: str, weights: Mapping[str, float], group: RolloutGroup) -> bool:
    """Are the group's advantages all zero, whatever the others of its step earn? Under ``gdpo`` equal sums of unequal rewards may teach.

    >>> from medvlm_r1.types import Completion, Example, Prompt, Rollout
    >>> c, asked = Completion((7,), (-0.1,), "B)", finished=True), Prompt(Example("q1", ("a.png",), "Which?", ("a", "b"), "b", "mri"), "…")
    >>> same_sum = RolloutGroup(asked, (Rollout(c, {"format": 1.0, "accuracy": 0.0}), Rollout(c, {"format": 0.0, "accuracy": 1.0})))
    >>> teaches_nothing("grpo", {}, same_sum), teaches_nothing("gdpo", {"accuracy": 2.0}, same_sum), teaches_nothing("gdpo", {}, same_sum)
    (True, False, True)
    """
    [advantages_G] = ADVANTAGES[name]([group], weights)
    return all(abs(advantage) < ROUNDING for advantage in advantages_G)
