"""From questions to scored groups: the half of a step in which the policy acts."""

from collections.abc import Callable, Sequence

from medvlm_r1.reasoning import render
from medvlm_r1.rollout.engine import Engine, Sampling
from medvlm_r1.types import Completion, Example, Rollout, RolloutGroup

Scorer = Callable[[Completion, Example], dict[str, float]]


def collect(engine: Engine, examples_P: Sequence[Example], rubric: Scorer, template: str, sampling: Sampling) -> list[RolloutGroup]:
    """``sampling.n`` scored rollouts of every example, in order."""
    prompts_P = [render(example, template) for example in examples_P]
    completions_PG = engine.generate(prompts_P, sampling)
    return [
        RolloutGroup(prompt, tuple(Rollout(completion, rubric(completion, prompt.example)) for completion in completions_G), sampling.min_tokens)
        for prompt, completions_G in zip(prompts_P, completions_PG, strict=True)
    ]
