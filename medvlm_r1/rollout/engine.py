"""What an engine is: prompts in, completions out. Nobody above needs to know more."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from medvlm_r1.types import Completion, Prompt


@dataclass(frozen=True)
class Sampling:
    """How to sample. Temperature 0 is greedy; there is no top-k and no top-p.

    Checkpoints ship generation defaults (Qwen's: top_k = 1, which makes every
    group identical); none of them is ever read. No completion ends before
    ``min_tokens``.
    """

    n: int = 4
    temperature: float = 1.0
    max_tokens: int = 512
    seed: int = 0
    min_tokens: int = 0


class Engine(Protocol):
    """Anything that completes prompts."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """``sampling.n`` completions of every prompt, in the prompts' order.

        The same prompt, seed and weights give the same completions, whatever
        else is in the call.
        """
        ...

    def sync(self, policy: Any) -> None:
        """Take over the policy's weights."""
        ...


@runtime_checkable
class Apart(Engine, Protocol):
    """An engine with weights of its own, that writes while the policy learns; ``generate`` and ``sync`` may be called by several threads at once.

    Each completion carries the ``version`` of the policy that wrote it.
    """

    def close(self) -> None:
        """Give up what is under way, and ask nothing more."""
        ...


@runtime_checkable
class Streaming(Engine, Protocol):
    """An engine whose prompts are done one after another, so that what is done can be kept before the rest is."""

    def stream(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[list[Completion]]:
        """What ``generate`` returns, each prompt's completions as soon as they and all before them are there."""
        ...
