"""Generation by a model's own ``generate``, for models without a family: our draws, our stops, our log-probabilities.

Legend: R rows of one prompt, C most completion tokens, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from medvlm_r1.models.general import GeneralPolicy
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.local import uniforms, written
from medvlm_r1.rollout.writing import sample
from medvlm_r1.types import Completion, Prompt


class Drawn(LogitsProcessor):
    """Leaves one token to each row: the one that our draw, or the greatest probability, chooses. ``ids_RC``, ``logprobs_RC``: what was chosen."""

    def __init__(self, policy: GeneralPolicy, sampling: Sampling, uniform_RC: torch.Tensor, seen: Callable[[list[int]], None] | None) -> None:
        self._policy, self._sampling, self._uniform_RC, self._seen = policy, sampling, uniform_RC, seen
        self._ids: list[torch.Tensor] = []
        self._read: list[int] = []  # of the first row, for ``seen``
        self._logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """One step further."""
        t, rows = len(self._ids), len(scores)
        early_R = torch.ones(rows, dtype=torch.bool, device=scores.device) if t < self._sampling.min_tokens else None
        logprobs_RV = self._policy.masked(scores.clone(), self._sampling.temperature or 1.0, early_R)
        token_R = sample(logprobs_RV, self._uniform_RC[:, t], self._sampling.temperature == 0)
        self._ids.append(token_R)
        self._logprobs.append(logprobs_RV.gather(1, token_R[:, None])[:, 0])
        if self._seen and t:
            self._read.append(int(self._ids[-2][0]))
            self._seen(list(self._read))
        only = torch.full_like(scores, -torch.inf)
        return only.scatter_(1, token_R[:, None], 0.0)  # type: ignore[return-value]

    def rows(self) -> Iterator[tuple[list[int], list[float]]]:
        """Each row's tokens, the one that ends it included, and their log-probabilities."""
        ids_RC, logprobs_RC = torch.stack(self._ids, 1).tolist(), torch.stack(self._logprobs, 1).tolist()
        for ids, logprobs in zip(ids_RC, logprobs_RC, strict=True):
            length = next((n for n, token in enumerate(ids, 1) if token in self._policy.stop_ids), len(ids))
            yield ids[:length], logprobs[:length]


@dataclass
class GeneralEngine:
    """Samples from a model without a family, a prompt at a time: its n completions together. ``seen``: see LocalEngine."""

    policy: GeneralPolicy
    seen: Callable[[list[int]], None] | None = None

    def sync(self, policy: Any) -> None:
        """See Engine.sync."""
        self.policy = policy

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """See Engine.generate."""
        return [self._complete(prompt, sampling) for prompt in prompts]

    @torch.no_grad()
    def _complete(self, prompt: Prompt, sampling: Sampling) -> list[Completion]:
        policy = self.policy
        noise = np.stack([uniforms(sampling.seed, prompt.example.id, prompt.first + k, sampling.max_tokens) for k in range(sampling.n)])
        drawn = Drawn(policy, sampling, torch.from_numpy(noise).to(policy.device), self.seen)
        placed = policy.placed(policy.encoder.rows(prompt, sampling.n))
        settings = GenerationConfig(
            max_new_tokens=sampling.max_tokens, do_sample=False, eos_token_id=list(policy.stop_ids), pad_token_id=policy.encoder.pad_id, use_cache=True
        )
        with _nothing_of_its_own(policy.model):
            policy.model.generate(**placed, generation_config=settings, logits_processor=LogitsProcessorList([drawn]))
        return [written(policy.encoder, prompt, policy.stop_ids, *row, policy.version) for row in drawn.rows()]


@contextmanager
def _nothing_of_its_own(model: Any) -> Iterator[None]:
    """transformers fills what a call leaves out with what the checkpoint ships: repetition penalties, top-k of 1. None of it is ever read."""
    shipped, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = shipped
