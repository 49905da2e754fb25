"""One question costs one question: what a model in this process cannot be asked, or cannot answer, is said and the rest goes on.

A picture that is missing, a prompt longer than the model's context, a memory that is full, numbers that are not
finite: each becomes a completion with an ``error``, as an endpoint's failures do.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from medvlm_r1.errors import DataError, ImageError
from medvlm_r1.models.encode import Encoder
from medvlm_r1.rollout.engine import Engine, Sampling
from medvlm_r1.types import Completion, Prompt

T = TypeVar("T")
TOKENS_AT_ONCE = 2**17  # of prompts: a hundred of the paper's, or eight pictures of 12 megapixels
FULL = "the memory is too small for it; lower --max-pixels or --max-tokens"
NOT_FINITE = "the model computed numbers that are not finite; ask it with --dtype float32, or take another checkpoint"


@dataclass
class Guarded:
    """Wraps an engine of this process, and the ``encoder`` of its policy."""

    engine: Engine
    encoder: Encoder

    def sync(self, policy: Any) -> None:
        """See Engine.sync."""
        self.engine.sync(policy)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """See Engine.generate. Each prompt has ``sampling.n`` completions, those of a fault with an ``error``."""
        lengths = [self._length(prompt, sampling.max_tokens) for prompt in prompts]
        askable = [(prompt, length) for prompt, length in zip(prompts, lengths, strict=True) if isinstance(length, int)]
        answers = (group for part in parts(askable, TOKENS_AT_ONCE) for group in self._answer(part, sampling))
        return [next(answers) if isinstance(length, int) else failed(length, sampling.n) for length in lengths]

    def _length(self, prompt: Prompt, room: int) -> int | str:
        """The prompt's tokens, or why it cannot be put."""
        try:
            return len(self.encoder.prompt_ids(prompt, room))
        except (DataError, ImageError) as error:
            return str(error)

    def _answer(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """All at once, or where they are too many for the memory by halves."""
        try:
            return [[checked(completion) for completion in group] for group in self.engine.generate(prompts, sampling)]
        except torch.OutOfMemoryError as error:
            reason = f"{FULL} ({str(error).splitlines()[0]})"
        if len(prompts) == 1:
            return [failed(reason, sampling.n)]
        half = len(prompts) // 2
        return self._answer(prompts[:half], sampling) + self._answer(prompts[half:], sampling)


def failed(why: str, n: int = 1) -> list[Completion]:
    """No answers, and the reason.

    >>> failed("the picture is missing")[0].error
    'the picture is missing'
    """
    return [Completion((), (), "", False, why)] * n


def checked(completion: Completion) -> Completion:
    """A completion whose tokens were chosen by numbers that are none is no answer.

    >>> checked(Completion((7,), (math.nan,), "A", True)).error[:40], checked(Completion((7,), (-0.1,), "A", True)).text
    ('the model computed numbers that are not ', 'A')
    """
    return completion if all(map(math.isfinite, completion.logprobs)) else failed(NOT_FINITE)[0]


def parts(sized: Sequence[tuple[T, int]], most: int) -> Iterator[list[T]]:
    """Prompts, or groups, in runs of at most ``most`` tokens; one that has more runs alone.

    >>> list(parts([("a", 3), ("b", 4), ("c", 9)], most=8))
    [['a', 'b'], ['c']]
    """
    part: list[T] = []
    held = 0
    for item, length in sized:
        if part and held + length > most:
            yield part
            part, held = [], 0
        part.append(item)
        held += length
    if part:
        yield part
