"""The completions under way: every row's next token, until all have ended.

The rows are a grid of P prompts by G completions (models.decoding). Finished
rows are dropped as the grid shrinks; on a GPU, where a step costs what reading
the weights costs, the grid stays and one step is a CUDA graph.

Legend: R rows under way, N = all rows, C most completion tokens, V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from medvlm_r1.models.decoding import Decoding
from medvlm_r1.models.policy import Policy
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.types import PromptBatch

Step = Callable[[], None]

LOOK_EVERY = 16  # steps between two looks at a GPU, which must finish its work to answer
BUCKET = 64  # prompts on a GPU are padded to a multiple of this, so that a graph serves many batches
SHRINK_SHARE = 8  # shrink once this part of the rows has ended
SHARED_FLOPS = 3.2e7  # a product below this many is done before a second core has woken up


def cuda_graph(step: Step) -> Step:
    """One launch instead of hundreds. Capturing runs nothing."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


class Writing:
    """What is written, and what the next step needs.

    ``capture`` makes a replayable step of one that has run; with it, all
    tensors keep their places, from one ``write`` to the next as well.
    """

    uniform_NC: torch.Tensor
    ids_NC: torch.Tensor
    logprobs_NC: torch.Tensor
    rows_R: torch.Tensor  # of all rows, those under way
    ended_R: torch.Tensor
    position_R: torch.Tensor
    written_1: torch.Tensor
    last_R: torch.Tensor

    def __init__(self, policy: Policy, sampling: Sampling, capture: Callable[[Step], Step] | None) -> None:
        self.policy, self.sampling, self.capture = policy, sampling, capture
        self.cache, self.layers = Decoding(static=capture is not None), policy.packed()
        self.replay: Step | None = None

    @staticmethod
    def key(policy: Policy, batch: PromptBatch, sampling: Sampling) -> tuple[Any, ...]:
        """Batches with equal keys can be written one after another by one Writing that keeps its places."""
        return id(policy.model), len(batch.lengths_P), _bucketed(batch), replace(sampling, seed=0)

    def write(self, batch: PromptBatch, uniform_NC: torch.Tensor) -> Iterator[tuple[list[int], list[float]]]:
        """Every row's tokens and their log-probabilities."""
        self._start(batch, uniform_NC)
        with few_cores(2 * len(uniform_NC) * self.policy.widest):
            self._run()
        ends_N = torch.isin(self.ids_NC, self.policy.stop)
        lengths_N = torch.where(ends_N.any(1), ends_N.int().argmax(1) + 1, self.ids_NC.shape[1])
        for ids, logprobs, length in zip(self.ids_NC.tolist(), self.logprobs_NC.tolist(), lengths_N.tolist(), strict=True):
            yield ids[:length], logprobs[:length]

    def _start(self, batch: PromptBatch, uniform_NC: torch.Tensor) -> None:
        """Run the prompts and sample the first tokens."""
        device, group, (count, limit) = self.policy.device, self.sampling.n, uniform_NC.shape
        prefilled = self.policy.prefill(batch, _bucketed(batch) if self.capture else 0)
        self.cache.fill(prefilled.layers, prefilled.rows, group, limit)
        for layer in self.layers:
            layer.load(count)
        if self.replay is None:
            # Text has equal positions in time, height and width: one table serves all rows and steps.
            self.table = self.policy.rotary(torch.arange(prefilled.rows.longest + limit, device=device).expand(3, -1))
        first = {
            "uniform_NC": uniform_NC.to(device),
            "ids_NC": torch.zeros(count, limit, dtype=torch.long, device=device),
            "logprobs_NC": torch.zeros(count, limit, device=device),
            "rows_R": torch.arange(count, device=device),
            "ended_R": torch.zeros(count, dtype=torch.bool, device=device),
            "position_R": prefilled.next_position_P.repeat_interleave(group),
            "written_1": torch.zeros(1, dtype=torch.long, device=device),
            "last_R": torch.zeros(count, dtype=torch.long, device=device),
        }
        for name, value in first.items():
            if self.replay:
                getattr(self, name).copy_(value)
            else:
                setattr(self, name, value)
        self.last_R.copy_(self._pick(prefilled.last_PH.repeat_interleave(group, 0)))

    def _run(self) -> None:
        for t in range(1, self.uniform_NC.shape[1]):
            if (self.capture is None or t % LOOK_EVERY == 0) and bool(self.ended_R.all()):
                return
            if self.capture is None:
                self._shrink()
            elif self.replay is None and t == 2:  # the first step has warmed up
                self.replay = self.capture(self._step)
            (self.replay or self._step)()
            self.cache.t += 1

    def _step(self) -> None:
        """One pass and one token for every row; the same tensors are read and written each time."""
        hidden_RH = self.policy.decode(self.last_R, self.table.at(self.position_R), self.layers, self.cache)
        self.cache.at.add_(1)
        self.position_R.add_(1)
        self.last_R.copy_(self._pick(hidden_RH))

    def _pick(self, hidden_RH: torch.Tensor) -> torch.Tensor:
        """Sample a token for every row and write it down."""
        greedy = self.sampling.temperature == 0
        early_1 = self.written_1 < self.sampling.min_tokens if self.sampling.min_tokens else None
        logprobs_RV = self.policy.log_softmax(hidden_RH, self.sampling.temperature or 1.0, early_1)
        token_R = sample(logprobs_RV, self.uniform_NC[self.rows_R, self.written_1], greedy)
        self.ids_NC.index_put_((self.rows_R, self.written_1), token_R)
        self.logprobs_NC.index_put_((self.rows_R, self.written_1), logprobs_RV.gather(1, token_R[:, None])[:, 0])
        self.ended_R.logical_or_(torch.isin(token_R, self.policy.stop))
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


def _bucketed(batch: PromptBatch) -> int:
    return -(-int(batch.lengths_P.max()) // BUCKET) * BUCKET


@contextmanager
def few_cores(flops: float) -> Iterator[None]:
    """One core for products this small: two threads would wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if flops >= SHARED_FLOPS else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def sample(logprobs_RV: torch.Tensor, uniform_R: torch.Tensor, greedy: bool) -> torch.Tensor:
    """One token per row by inverting the cumulative distribution at ``uniform_R``.

    >>> p = torch.tensor([[0.0, 0.5, 0.0, 0.5]]).log()
    >>> [int(sample(p, torch.tensor([u]), greedy=False)) for u in (0.0, 0.49, 0.51, 0.9999999)]
    [1, 1, 3, 3]
    """
    if greedy:
        return logprobs_RV.argmax(-1)
    cumulative_RV = logprobs_RV.exp().cumsum(-1)
    target_R1 = uniform_R[:, None] * cumulative_RV[:, -1:]  # the sum is 1 up to rounding
    return torch.searchsorted(cumulative_RV, target_R1, right=True)[:, 0].clamp(max=logprobs_RV.shape[1] - 1)
