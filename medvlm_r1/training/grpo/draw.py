"""A step's groups, drawn anew where all rewards of a question are equal (dynamic sampling, DAPO 2503.14476).

Legend: P questions, V views of a question, each with a group.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from medvlm_r1.types import Example, RolloutGroup

Ask = Callable[[Sequence[Example]], list[list[RolloutGroup]]]


def draw(
    ask: Ask, examples_P: Sequence[Example], spare: Iterable[Example], redraws: int, is_flat: Callable[[RolloutGroup], bool]
) -> tuple[list[RolloutGroup], dict[str, float]]:
    """The groups of these questions; where all of one are flat they give way to those of a ``spare`` question, at most ``redraws`` times.

    What is flat after that stays, so that a step always has as many groups. The metrics count all groups that were asked
    for, with the reward and the share of flat ones among them: those of the groups that stayed flatter.
    """
    groups_PV, left = ask(examples_P), iter(spare)
    drawn = list(groups_PV)
    for _ in range(redraws):
        flat_P = [p for p, groups_V in enumerate(groups_PV) if all(is_flat(group) for group in groups_V if group.weight)]
        others = list(islice(left, len(flat_P)))
        if not others:
            break
        anew = ask(others)
        drawn += anew
        for p, groups_V in zip(flat_P, anew, strict=False):  # fewer where the questions have run out
            groups_PV[p] = groups_V
    groups = [group for groups_V in drawn for group in groups_V if group.weight]
    rewards = [reward for group in groups for reward in group.rewards_G]
    flat = sum(map(is_flat, groups))
    told = {"drawn_groups": float(len(groups)), "drawn_reward": sum(rewards) / len(rewards), "drawn_flat": flat / len(groups)}
    return [group for groups_V in groups_PV for group in groups_V], told if redraws else {}


def spare(examples: Sequence[Example], examples_P: Sequence[Example], step: int, seed: int) -> Iterator[Example]:
    """All other questions in an order that belongs to (seed, step): what a step may ask beside its own, each once.

    >>> def named(*names):
    ...     return [Example(name, (), "Which plane?", ("axial", "coronal"), "axial", "mri") for name in names]
    >>> [[e.id for e in spare(named(*"abcde"), named("c"), step, seed=0)] for step in (0, 0, 1)]
    [['b', 'd', 'e', 'a'], ['b', 'd', 'e', 'a'], ['a', 'e', 'd', 'b']]
    """
    mine = {example.id for example in examples_P}
    order = np.random.default_rng([seed, step, 1]).permutation(len(examples))
    return (examples[row] for row in order if examples[row].id not in mine)
