"""From questions to scored groups: the half of a step in which the policy acts."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from medvlm_r1.reasoning import render
from medvlm_r1.rollout.engine import Engine, Sampling
from medvlm_r1.types import Completion, Example, Prompt, Rollout, RolloutGroup

Scorer = Callable[[Completion, Prompt], dict[str, float]]


def collect(engine: Engine, examples_P: Sequence[Example], rubric: Scorer, template: str, sampling: Sampling) -> list[RolloutGroup]:
    """``sampling.n`` scored rollouts of every example, in order; of one that comes twice, other ones the second time."""
    asked_P = [replace(render(example, template), max_tokens=sampling.max_tokens) for example in examples_P]
    prompts_P = numbered(asked_P, sampling.n)
    completions_PG = engine.generate(prompts_P, sampling)
    return [
        RolloutGroup(prompt, tuple(Rollout(completion, rubric(completion, prompt)) for completion in completions_G), sampling.min_tokens)
        for prompt, completions_G in zip(prompts_P, completions_PG, strict=True)
    ]


def numbered(prompts_P: Sequence[Prompt], n: int) -> list[Prompt]:
    """The same prompts; where a question comes again, its completions are numbered on from those it has.

    >>> e = Example("q1", (), "Which plane?", ("axial", "coronal"), "axial", "mri")
    >>> [prompt.first for prompt in numbered([Prompt(e, "…"), Prompt(replace(e, id="q2"), "…"), Prompt(e, "…")], n=4)]
    [0, 0, 4]
    """
    seen: Counter[str] = Counter()
    numbered_P = []
    for prompt in prompts_P:
        numbered_P.append(replace(prompt, first=n * seen[prompt.example.id]))
        seen[prompt.example.id] += 1
    return numbered_P
