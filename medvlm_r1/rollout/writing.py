"""The completions under way: every row's next token, until all have ended.

The rows are a grid of P prompts by G completions (models.decoding). Finished
rows are dropped as the grid shrinks; on a GPU, where a pass costs what reading
the weights costs, the grid stays and one step is a CUDA graph.

Legend: R rows under way, N = all rows, C most completion tokens, V vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from medvlm_r1.models.decoding import Decoding
from medvlm_r1.models.policy import Policy
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.types import PromptBatch

LOOK_EVERY = 16  # steps between two looks at a GPU, which must finish its work to answer
SHRINK_SHARE = 8  # shrink once this part of the rows has ended
SHARED_FLOPS = 3.2e7  # a product below this many is done before a second core has woken up


class Writing:
    """What is written and what the next step needs. ``finish`` runs it to the end."""

    def __init__(self, policy: Policy, batch: PromptBatch, uniform_NC: torch.Tensor, sampling: Sampling) -> None:
        self.policy, self.sampling, self.device = policy, sampling, policy.device
        count, limit = uniform_NC.shape
        prefilled = policy.prefill(batch)
        self.cache = Decoding(prefilled.layers, prefilled.rows, sampling.n, limit)
        self.layers = policy.packed(count)
        self.uniform_NC = uniform_NC.to(self.device)
        self.ids_NC = torch.zeros(count, limit, dtype=torch.long, device=self.device)
        self.logprobs_NC = torch.zeros(count, limit, device=self.device)
        self.stop = torch.tensor(policy.stop_ids, device=self.device)
        self.rows_R = torch.arange(count, device=self.device)  # of all rows, those under way
        self.ended_R = torch.zeros(count, dtype=torch.bool, device=self.device)
        self.position_R = prefilled.next_position_P.repeat_interleave(sampling.n)
        # Text has equal positions in time, height and width: one table serves all rows and steps.
        self.table = policy.rotary(torch.arange(int(batch.next_position_P.max()) + limit, device=self.device).expand(3, -1))
        self.written_1 = torch.zeros(1, dtype=torch.long, device=self.device)
        self.last_R = self._pick(prefilled.last_PH.repeat_interleave(sampling.n, 0))

    def finish(self) -> Iterator[tuple[list[int], list[float]]]:
        """Every row's tokens and their log-probabilities."""
        with _cores(2 * len(self.rows_R) * self.policy.widest):
            self._write()
        ends_N = torch.isin(self.ids_NC, self.stop)
        lengths_N = torch.where(ends_N.any(1), ends_N.int().argmax(1) + 1, self.ids_NC.shape[1])
        for ids, logprobs, length in zip(self.ids_NC.tolist(), self.logprobs_NC.tolist(), lengths_N.tolist(), strict=True):
            yield ids[:length], logprobs[:length]

    def _write(self) -> None:
        step = self._step
        for t in range(1, self.uniform_NC.shape[1]):
            if self._shall_look(t) and bool(self.ended_R.all()):
                return
            if self.cache.static and t == 2:  # the first step has warmed up
                step = self._captured()
            if not self.cache.static:
                self._shrink()
            step()
            self.cache.advance()

    def _shall_look(self, t: int) -> bool:
        return not self.cache.static or t % LOOK_EVERY == 0

    def _step(self) -> None:
        """One pass and one token for every row; the same tensors are read and written each time."""
        hidden_RH = self.policy.decode(self.last_R, self.table.at(self.position_R), self.layers, self.cache)
        self.cache.at.add_(1)
        self.position_R.add_(1)
        self.last_R.copy_(self._pick(hidden_RH))

    def _captured(self) -> "torch.cuda.CUDAGraph.replay":
        """The step as a CUDA graph: one launch instead of hundreds. Capturing runs nothing."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        return graph.replay

    def _pick(self, hidden_RH: torch.Tensor) -> torch.Tensor:
        """Sample a token for every row and write it down."""
        greedy = self.sampling.temperature == 0
        logprobs_RV = self.policy.log_softmax(hidden_RH, self.sampling.temperature or 1.0)
        if self.sampling.min_tokens:
            early = self.written_1 < self.sampling.min_tokens
            logprobs_RV[:, self.stop] = torch.where(early, -torch.inf, logprobs_RV[:, self.stop])
            logprobs_RV = logprobs_RV.log_softmax(-1)
        token_R = sample(logprobs_RV, self.uniform_NC[self.rows_R, self.written_1], greedy)
        self.ids_NC.index_put_((self.rows_R, self.written_1), token_R)
        self.logprobs_NC.index_put_((self.rows_R, self.written_1), logprobs_RV.gather(1, token_R[:, None])[:, 0])
        self.ended_R.logical_or_(torch.isin(token_R, self.stop))
        self.written_1.add_(1)
        return token_R

    def _shrink(self) -> None:
        """Drop what has ended, once it is an eighth of the rows and the grid gets smaller by it."""
        if self.ended_R.sum() * SHRINK_SHARE < len(self.ended_R):
            return
        ended_PG = self.ended_R.view(self.cache.grid[:2])
        prompts_P = (~ended_PG.all(1)).nonzero()[:, 0]
        most = int((~ended_PG).sum(1).max())
        if (len(prompts_P), most) == ended_PG.shape:
            return
        completions_PG = ended_PG[prompts_P].int().argsort(dim=1, stable=True)[:, :most]  # those under way first
        self.cache.keep(prompts_P, completions_PG)
        kept_R = (prompts_P[:, None] * ended_PG.shape[1] + completions_PG).flatten()
        self.rows_R, self.ended_R = self.rows_R[kept_R], self.ended_R[kept_R]
        self.position_R, self.last_R = self.position_R[kept_R], self.last_R[kept_R]


@contextmanager
def _cores(flops: float) -> Iterator[None]:
    """One core for products this small: two threads would wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if flops >= SHARED_FLOPS else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def sample(logprobs_RV: torch.Tensor, uniform_R: torch.Tensor, greedy: bool) -> torch.Tensor:
    """One token per row by inverting the cumulative distribution at ``uniform_R``.

    >>> p = torch.tensor([[0.5, 0.0, 0.5]]).log()
    >>> [int(sample(p, torch.tensor([u]), greedy=False)) for u in (0.0, 0.49, 0.51, 0.9999999)]
    [0, 0, 2, 2]
    """
    if greedy:
        return logprobs_RV.argmax(-1)
    cumulative_RV = logprobs_RV.exp().cumsum(-1)
    target_R1 = uniform_R[:, None] * cumulative_RV[:, -1:]  # the sum is 1 up to rounding
    return torch.searchsorted(cumulative_RV, target_R1, right=True)[:, 0].clamp(max=logprobs_RV.shape[1] - 1)
