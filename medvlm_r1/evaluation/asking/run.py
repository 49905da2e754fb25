"""Ask a model every question under one arm, and keep what it said."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from medvlm_r1.evaluation.asking.arms import Asked, prompts_of
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.reasoning import Reasoned, read
from medvlm_r1.rewards.text import is_right
from medvlm_r1.rollout.engine import Engine, Sampling
from medvlm_r1.rollout.guarded import NOT_FINITE
from medvlm_r1.types import Completion, Example, Prompt

CHUNK = 100
Probe = Callable[[Sequence[Prompt], Sequence[str]], Sequence[tuple[float, ...]]]
"""Prompts, and what was written after each, to the probability of each option."""


@dataclass(frozen=True)
class EvalConfig:
    """One greedy answer and ``samples`` more at temperature 1, per question."""

    template: str = "paper-eval"
    samples: int = 0
    max_tokens: int = 512
    seed: int = 0
    arm: str = "image"


def answers(
    engine: Engine,
    examples: Sequence[Example],
    config: EvalConfig,
    progress: Callable[[int], None] = lambda done: None,
    answered: Mapping[str, Sample] = MappingProxyType({}),
    probe: Probe | None = None,
) -> list[Sample]:
    """The samples of an arm, in order; ``progress`` hears how many are done.

    ``answered``: the "image" arm's samples by id, for the arms that build on them.
    """
    prompts = prompts_of(config.arm, Asked(examples, config.template, answered))
    samples: list[Sample] = []
    for at in range(0, len(prompts), CHUNK):
        part = prompts[at : at + CHUNK]
        greedy = [group[0] for group in engine.generate(part, Sampling(1, 0.0, config.max_tokens, seed=config.seed))]
        drawn = engine.generate(part, Sampling(config.samples, 1.0, config.max_tokens, seed=config.seed)) if config.samples else [[]] * len(part)
        probs = _option_probs(probe, part, greedy) if probe else [()] * len(part)
        samples += [score(prompt, c, d, config.arm, p) for prompt, c, d, p in zip(part, greedy, drawn, probs, strict=True)]
        progress(len(samples))
    return samples


def _option_probs(probe: Probe, prompts: Sequence[Prompt], greedy: Sequence[Completion]) -> list[tuple[float, ...]]:
    """None where there is no answer: a picture that cannot be opened cannot be probed either."""
    there = [(prompt, c.text) for prompt, c in zip(prompts, greedy, strict=True) if not c.error]
    probs = iter(probe([prompt for prompt, _ in there], [text for _, text in there]) if there else ())
    return [() if c.error else next(probs) for c in greedy]


def score(prompt: Prompt, greedy: Completion, drawn: Sequence[Completion], arm: str, option_probs: tuple[float, ...] = ()) -> Sample:
    """Read the completions by the one rule. Where one of them, greedy or drawn, could not be had, the question has failed."""
    example = prompt.example
    error = next((c.error for c in (greedy, *drawn) if c.error), "" if all(map(math.isfinite, option_probs)) else NOT_FINITE)
    text = prompt.opening + greedy.text
    found = Reasoned("", None, "failed") if error else read(text, prompt, greedy.finished)
    is_cut_off = not (error or greedy.finished or found.answer)
    return Sample(
        id=example.id,
        modality=example.modality,
        question_type=example.question_type,
        group=example.group,
        question=example.question,
        options=example.options,
        gold=example.letter or example.answer,
        images=example.images,
        arm=arm,
        text=error or text,
        answer=found.answer,
        status="truncated" if is_cut_off else found.status,
        correct=found.answer == example.letter if example.options else is_right(found.answer, example.answer),
        n_tokens=len(greedy.token_ids),
        sampled_answers=tuple(read(prompt.opening + c.text, prompt, c.finished).answer for c in drawn),
        sampled_texts=tuple(prompt.opening + completion.text for completion in drawn),
        option_probs=() if error else option_probs,
    )
