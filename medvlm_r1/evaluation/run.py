"""Ask a model every question and keep what it said."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.reasoning import Reasoned, parse, render
from medvlm_r1.rollout.engine import Engine, Sampling
from medvlm_r1.types import Completion, Example

CHUNK = 100


@dataclass(frozen=True)
class EvalConfig:
    """One greedy answer and ``samples`` more at temperature 1, per question."""

    template: str = "paper-eval"
    samples: int = 0
    max_tokens: int = 512
    seed: int = 0
    arm: str = "image"


def evaluate(
    engine: Engine, examples: Sequence[Example], config: EvalConfig, progress: Callable[[int], None] = lambda done: None
) -> list[Sample]:
    """A sample per example, in order; ``progress`` hears how many are done."""
    samples: list[Sample] = []
    for at in range(0, len(examples), CHUNK):
        part = examples[at : at + CHUNK]
        prompts = [render(example, config.template) for example in part]
        greedy = engine.generate(prompts, Sampling(1, 0.0, config.max_tokens, seed=config.seed))
        drawn = engine.generate(prompts, Sampling(config.samples, 1.0, config.max_tokens, seed=config.seed)) if config.samples else [[]] * len(part)
        samples += [score(example, g[0], d, config.arm) for example, g, d in zip(part, greedy, drawn, strict=True)]
        progress(len(samples))
    return samples


def _status(completion: Completion, read: Reasoned) -> str:
    if completion.error:
        return "failed"
    return read.status if completion.finished or read.answer else "truncated"


def score(example: Example, greedy: Completion, drawn: Sequence[Completion], arm: str) -> Sample:
    """Read the completions by the one rule."""
    count = len(example.options)
    read = parse(greedy.text, count)
    return Sample(
        id=example.id,
        modality=example.modality,
        question_type=example.question_type,
        group=example.group,
        question=example.question,
        options=example.options,
        gold=example.letter,
        images=example.images,
        arm=arm,
        text=greedy.text or greedy.error,
        answer=read.answer,
        status=_status(greedy, read),
        correct=read.answer == example.letter,
        n_tokens=len(greedy.token_ids),
        sampled_correct=tuple(parse(completion.text, count).answer == example.letter for completion in drawn),
        sampled_texts=tuple(completion.text for completion in drawn),
    )
