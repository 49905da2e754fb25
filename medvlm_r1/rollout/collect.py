"""From questions to scored groups: the half of a step in which the policy acts."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol, TypeVar

from medvlm_r1.data.views import Shown
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.engine import Engine, Sampling
from medvlm_r1.types import Completion, Example, Prompt, Rollout, RolloutGroup

Scorer = Callable[[Completion, Prompt], dict[str, float]]
T = TypeVar("T")


class Sharing(Protocol):
    """How many processes share one step's questions (training.distributed.World)."""

    def mine(self, items: Sequence[T]) -> list[T]:
        """What this process does."""
        ...

    def together(self, mine: Sequence[T], pack: Callable[[T], Any], unpack: Callable[[Any], T]) -> list[T]:
        """What all of them did, in order."""
        ...


class Alone:
    """A process that shares with nobody."""

    def mine(self, items: Sequence[T]) -> list[T]:
        """All of them."""
        return list(items)

    def together(self, mine: Sequence[T], pack: Callable[[T], Any], unpack: Callable[[Any], T]) -> list[T]:
        """The same."""
        return list(mine)


ALONE = Alone()


def collect(engine: Engine, shown_P: Sequence[Shown], rubric: Scorer, template: str, sampling: Sampling, world: Sharing = ALONE) -> list[RolloutGroup]:
    """The scored rollouts of everything shown, as many of each as it says, in order; of one that comes twice, other ones the second time.

    Each process of ``world`` writes and scores its share, and gets the others'.
    """
    asked_P = [replace(render(shown.example, template), max_tokens=sampling.max_tokens, view=shown.view) for shown in shown_P]
    sizes_P = [shown.n for shown in shown_P]
    prompts_P = numbered(asked_P, sizes_P)
    written = _generated(engine, prompts_P, sizes_P, sampling, world.mine(range(len(prompts_P))))
    scored_PG = [[Rollout(c, rubric(c, prompts_P[p])) for c in completions_G] for p, completions_G in written.items()]
    return [
        RolloutGroup(prompt, tuple(rollouts_G), sampling.min_tokens, shown.weight)
        for prompt, rollouts_G, shown in zip(prompts_P, world.together(scored_PG, _packed, _unpacked), shown_P, strict=True)
    ]


def _generated(engine: Engine, prompts_P: Sequence[Prompt], sizes_P: Sequence[int], sampling: Sampling, mine: Sequence[int]) -> dict[int, list[Completion]]:
    """The completions of ``mine``, by place. An engine writes as many for each prompt of a call: one call a size, also of one that others alone have."""
    found: dict[int, list[Completion]] = {}
    for n in dict.fromkeys(sizes_P):
        places = [p for p in mine if sizes_P[p] == n]
        found |= zip(places, engine.generate([prompts_P[p] for p in places], replace(sampling, n=n)), strict=True)
    return {p: found[p] for p in mine}


def _packed(rollouts_G: Sequence[Rollout]) -> Any:
    return [vars(rollout) | {"completion": vars(rollout.completion)} for rollout in rollouts_G]


def _unpacked(rows: Any) -> list[Rollout]:
    return [Rollout(Completion(**_plain(row["completion"])), row["rewards"]) for row in rows]


def packed(groups_P: Sequence[RolloutGroup]) -> Any:
    """Groups as JSON, prompts and all."""
    return [{**asdict(replace(group, rollouts=())), "rollouts": _packed(group.rollouts)} for group in groups_P]


def unpacked(rows: Any) -> list[RolloutGroup]:
    """What ``packed`` made JSON of."""
    return [RolloutGroup(_prompt(row["prompt"]), tuple(_unpacked(row["rollouts"])), row["min_tokens"], row["weight"]) for row in rows]


def _prompt(row: Any) -> Prompt:
    return Prompt(**row | {"example": Example(**_plain(row["example"]))})


def _plain(row: Any) -> dict[str, Any]:
    """JSON has no tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}


def numbered(prompts_P: Sequence[Prompt], sizes_P: Sequence[int]) -> list[Prompt]:
    """The same prompts; where a question comes again, its completions are numbered on from those it has.

    >>> from medvlm_r1.types import Example
    >>> e = Example("q1", (), "Which plane?", ("axial", "coronal"), "axial", "mri")
    >>> [prompt.first for prompt in numbered([Prompt(e, "…"), Prompt(replace(e, id="q2"), "…"), Prompt(e, "…")], [4, 4, 4])]
    [0, 0, 4]
    """
    seen: Counter[str] = Counter()
    numbered_P = []
    for prompt, n in zip(prompts_P, sizes_P, strict=True):
        numbered_P.append(replace(prompt, first=seen[prompt.example.id]))
        seen[prompt.example.id] += n
    return numbered_P
