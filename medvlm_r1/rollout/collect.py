"""From questions to scored groups: the half of a step in which the policy acts."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from medvlm_r1.data.views import Shown
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.engine import Engine, Sampling
from medvlm_r1.types import Completion, Prompt, Rollout, RolloutGroup

Scorer = Callable[[Completion, Prompt], dict[str, float]]


def collect(engine: Engine, shown_P: Sequence[Shown], rubric: Scorer, template: str, sampling: Sampling) -> list[RolloutGroup]:
    """The scored rollouts of everything shown, as many of each as it says, in order; of one that comes twice, other ones the second time."""
    asked_P = [replace(render(shown.example, template), max_tokens=sampling.max_tokens, view=shown.view) for shown in shown_P]
    sizes_P = [shown.n for shown in shown_P]
    prompts_P = numbered(asked_P, sizes_P)
    completions_PG = _generated(engine, prompts_P, sizes_P, sampling)
    return [
        RolloutGroup(prompt, tuple(Rollout(completion, rubric(completion, prompt)) for completion in completions_G), sampling.min_tokens, shown.weight)
        for prompt, completions_G, shown in zip(prompts_P, completions_PG, shown_P, strict=True)
    ]


def _generated(engine: Engine, prompts_P: Sequence[Prompt], sizes_P: Sequence[int], sampling: Sampling) -> list[list[Completion]]:
    """An engine writes as many completions for each prompt of a call: one call a size."""
    found: dict[int, list[Completion]] = {}
    for n in dict.fromkeys(sizes_P):
        places = [p for p, size in enumerate(sizes_P) if size == n]
        found |= zip(places, engine.generate([prompts_P[p] for p in places], replace(sampling, n=n)), strict=True)
    return [found[p] for p in range(len(prompts_P))]


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
