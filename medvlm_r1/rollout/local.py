"""Generation in this process, on the policy's own weights: image once, prompt once per group."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from medvlm_r1.models.policy import Policy
from medvlm_r1.models.prefix import Decode
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.types import Completion, Prompt


@dataclass
class LocalEngine:
    """Samples from a policy held in memory. ``max_rows`` bounds the completions decoded at once."""

    policy: Policy
    max_rows: int = 512

    def sync(self, policy: Policy) -> None:
        self.policy = policy

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """See Engine.generate."""
        size = max(1, self.max_rows // sampling.n)
        return [group for at in range(0, len(prompts), size) for group in self._groups(prompts[at : at + size], sampling)]

    def _groups(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[list[Completion]]:
        batch = self.policy.encoder.prompts(prompts)
        prefilled = self.policy.prefill(batch)
        prompt_of_R = torch.arange(len(prompts)).repeat_interleave(sampling.n)
        noise = [uniforms(sampling.seed, prompt.example.id, k, sampling.max_tokens) for prompt in prompts for k in range(sampling.n)]
        rows = _Rows(self.policy, prefilled.last_PH[prompt_of_R], torch.from_numpy(np.stack(noise)), sampling.temperature)
        cache = Decode(prefilled.cache, prompt_of_R, sampling.max_tokens)
        seen_RL = torch.cat([batch.mask_PL.bool()[prompt_of_R], torch.ones(len(prompt_of_R), sampling.max_tokens, dtype=torch.bool)], 1)
        position_R = batch.next_position_P[prompt_of_R]
        seen_RL, position_R = seen_RL.to(self.policy.device), position_R.to(self.policy.device)
        while rows.step():
            if (keep := rows.compact()) is not None:
                cache.keep(keep)
                seen_RL, position_R = seen_RL[keep], position_R[keep]
            mask_R1L = seen_RL[:, None, : cache.length + 1]
            rows.hidden_RH = self.policy.decode(rows.last_R, position_R, mask_R1L, cache)
            position_R = position_R + 1
        completions = [self._completion(*row) for row in rows.result()]
        return (completions[at : at + sampling.n] for at in range(0, len(completions), sampling.n))

    def _completion(self, ids: list[int], logprobs: list[float]) -> Completion:
        finished = ids[-1] in self.policy.stop_ids
        text = self.policy.encoder.tokenizer.decode(ids[:-1] if finished else ids, skip_special_tokens=False)
        return Completion(tuple(ids), tuple(logprobs), text, finished)


class _Rows:
    """The completions under way: samples their next tokens and drops those that ended."""

    def __init__(self, policy: Policy, hidden_RH: torch.Tensor, uniform_RC: torch.Tensor, temperature: float) -> None:
        self.policy, self.hidden_RH, self.uniform_RC, self.temperature = policy, hidden_RH, uniform_RC, temperature
        count, self.limit = uniform_RC.shape
        self.ids_RC = torch.zeros(count, self.limit, dtype=torch.long)
        self.logprobs_RC = torch.zeros(count, self.limit)
        self.length_R = torch.zeros(count, dtype=torch.long)
        self.live = torch.arange(count)  # rows still decoded, in the order of hidden_RH
        self.done_live = torch.zeros(count, dtype=torch.bool)
        self.last_R = torch.zeros(count, dtype=torch.long)
        self.stop = torch.tensor(policy.stop_ids)
        self.t = 0

    def step(self) -> bool:
        """Sample one token for every live row; False when all have ended."""
        logprobs_RV = self.policy.log_softmax(self.hidden_RH, self.temperature or 1.0)
        token_R = sample(logprobs_RV, self.uniform_RC[self.live, self.t].to(logprobs_RV.device), greedy=self.temperature == 0)
        logprob_R = logprobs_RV.gather(1, token_R[:, None])[:, 0].cpu()
        self.last_R = token_R
        token_R = token_R.cpu()
        going = self.live[~self.done_live]
        self.ids_RC[going, self.t] = token_R[~self.done_live]
        self.logprobs_RC[going, self.t] = logprob_R[~self.done_live]
        self.length_R[going] += 1
        self.done_live |= torch.isin(token_R, self.stop)
        self.t += 1
        return self.t < self.limit and not bool(self.done_live.all())

    def compact(self) -> torch.Tensor | None:
        """The live rows to keep once an eighth has ended, else None."""
        if self.done_live.sum() * 8 < len(self.live):
            return None
        keep = (~self.done_live).nonzero()[:, 0]
        self.live, self.last_R = self.live[keep], self.last_R[keep.to(self.last_R.device)]
        self.done_live = self.done_live[keep]
        return keep.to(self.last_R.device)

    def result(self) -> Iterator[tuple[list[int], list[float]]]:
        for ids, logprobs, length in zip(self.ids_RC.tolist(), self.logprobs_RC.tolist(), self.length_R.tolist(), strict=True):
            yield ids[:length], logprobs[:length]


def uniforms(seed: int, example_id: str, k: int, count: int) -> np.ndarray:
    """Random numbers that belong to one completion of one question, whatever the batch.

    >>> bool((uniforms(0, "q1", 0, 3) == uniforms(0, "q1", 0, 5)[:3]).all())
    True
    """
    return np.random.default_rng([seed, zlib.crc32(example_id.encode()), k]).random(count, dtype=np.float32)


def sample(logprobs_RV: torch.Tensor, uniform_R: torch.Tensor, greedy: bool) -> torch.Tensor:
    """One token per row by inverting the cumulative distribution at ``uniform_R``.

    >>> p = torch.tensor([[0.5, 0.0, 0.5]]).log()
    >>> [int(sample(p, torch.tensor([u]), greedy=False)) for u in (0.0, 0.49, 0.51, 0.9999999)]
    [0, 0, 2, 2]
    """
    if greedy:
        return logprobs_RV.argmax(-1)
    cumulative_RV = logprobs_RV.exp().cumsum(-1)
    target_R1 = uniform_R[:, None] * cumulative_RV[:, -1:] # the sum is 1 up to rounding
    return torch.searchsorted(cumulative_RV, target_R1, right=True)[:, 0].clamp(max=logprobs_RV.shape[1] - 1)
