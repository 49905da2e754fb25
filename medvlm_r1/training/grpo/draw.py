"""A step's groups, drawn anew where all rewards of one are equal (dynamic sampling, DAPO 2503.14476)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from medvlm_r1.training.grpo.advantage import is_flat
from medvlm_r1.types import Example, RolloutGroup

Ask = Callable[[Sequence[Example]], list[RolloutGroup]]


def draw(ask: Ask, examples_P: Sequence[Example], spare: Iterable[Example], redraws: int) -> tuple[list[RolloutGroup], dict[str, float]]:
    """The groups of these questions; those that are flat give way to groups of ``spare`` questions, at most ``redraws`` times.

    What is flat after that stays, so that a step always has as many groups. The metrics count all groups that were asked
    for, with the reward and the share of flat ones among them: those of the groups that stayed flatter.
    """
    groups_P, left = ask(examples_P), iter(spare)
    drawn = list(groups_P)
    for _ in range(redraws):
        flat_P = [p for p, group in enumerate(groups_P) if is_flat(group.rewards_G)]
        others = list(islice(left, len(flat_P)))
        if not others:
            break
        anew = ask(others)
        drawn += anew
        for p, group in zip(flat_P, anew, strict=False):  # fewer where the questions have run out
            groups_P[p] = group
    rewards = [reward for group in drawn for reward in group.rewards_G]
    flat = sum(is_flat(group.rewards_G) for group in drawn)
    told = {"drawn_groups": float(len(drawn)), "drawn_reward": sum(rewards) / len(rewards), "drawn_flat": flat / len(drawn)}
    return groups_P, told if redraws else {}


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
