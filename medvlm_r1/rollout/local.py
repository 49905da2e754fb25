"""Generation in this process, on the policy's own weights: image once, prompt once per group."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from medvlm_r1.files import utf8
from medvlm_r1.models.policy import Policy
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.writing import Step, Writing, cuda_graph
from medvlm_r1.types import Completion, Prompt, PromptBatch


@dataclass
class LocalEngine:
    """Samples from a policy held in memory.

    ``max_rows`` bounds the completions decoded at once. ``learning``: an update
    of this policy on these prompts follows, and shares their encoded images.
    ``capture`` makes a replayable step where a device can replay one. ``seen`` is
    called with the first row's tokens so far, after each but the last: for one who waits.
    """

    policy: Policy
    max_rows: int = 512
    learning: bool = False
    capture: Callable[[Step], Step] | None = cuda_graph if torch.cuda.is_available() else None
    seen: Callable[[list[int]], None] | None = None
    _last: tuple[tuple[Any, ...], Writing] | None = None

    def sync(self, policy: Policy) -> None:
        self.policy = policy

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """See Engine.generate."""
        size = max(1, self.max_rows // sampling.n)
        if self.learning:
            self.policy.remember(self.policy.encoder.prompts(prompts))
        return [group for at in range(0, len(prompts), size) for group in self._groups(prompts[at : at + size], sampling)]

    def _groups(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[list[Completion]]:
        noise = [uniforms(sampling.seed, p.example.id, p.first + k, sampling.max_tokens) for p in prompts for k in range(sampling.n)]
        writing = self._writing(batch := self.policy.encoder.prompts(prompts), sampling)
        writing.seen = self.seen
        rows = writing.write(batch, torch.from_numpy(np.stack(noise)))
        completions = [self._completion(*row) for row in rows]
        return (completions[at : at + sampling.n] for at in range(0, len(completions), sampling.n))

    def _writing(self, batch: PromptBatch, sampling: Sampling) -> Writing:
        """A new one, or the last one again where what it captured fits."""
        if self.capture is None:
            return Writing(self.policy, sampling, None)
        key = Writing.key(self.policy, batch, sampling)
        if self._last is None or self._last[0] != key:
            self._last = (key, Writing(self.policy, sampling, self.capture))
        return self._last[1]

    def _completion(self, ids: list[int], logprobs: list[float]) -> Completion:
        finished = ids[-1] in self.policy.stop_ids
        text = self.policy.encoder.tokenizer.decode(ids[:-1] if finished else ids, skip_special_tokens=False)
        return Completion(tuple(ids), tuple(logprobs), text, finished)


def uniforms(seed: int, example_id: str, k: int, count: int) -> np.ndarray:
    """Random numbers that belong to one completion of one question, whatever the batch.

    >>> bool((uniforms(0, "q1", 0, 3) == uniforms(0, "q1", 0, 5)[:3]).all())
    True
    """
    return np.random.default_rng([seed, zlib.crc32(utf8(example_id)), k]).random(count, dtype=np.float32)
