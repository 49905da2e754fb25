"""The completions under way: every row's next token, until all have ended.

The rows are a grid of P prompts by G completions (models.decoding). Finished
rows are dropped as the grid shrinks; on a GPU, where a step costs what reading
the weights costs, the grid stays and one step is a CUDA graph.

Legend: R rows under way, N = all rows, C most completion tokens, V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from medvlm_r1.models.captured import Captured
from medvlm_r1.models.decoding import Decoding
from medvlm_r1.models.packed import Packed, for_few
from medvlm_r1.models.policy import Policy
from medvlm_r1.models.sent import sent
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.types import PromptBatch

Step = Callable[[], None]

LOOK_EVERY = 16  # steps between two looks at a GPU, which must finish its work to answer
BUCKET = 256  # room for prompts on a GPU grows by this much: a thousand tokens of keys cost a hundredth of a step, a capture ten steps
SHRINK_SHARE = 8  # shrink once this part of the rows has ended
SHARED_FLOPS = 3.2e7  # a product below this many is done before a second core has woken up


def cuda_graph(step: Step) -> Step:
    """One launch instead of hundreds. Capturing runs nothing; meanwhile other threads go on pinning pictures."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        step()
    return graph.replay


class Writing:
    """What is written, and what the next step needs.

    ``capture`` makes a replayable step of one that has run; with it, all
    tensors keep their places, from one ``write`` to the next as well, and prompts have ``room`` tokens.
    """

    uniform_NC: torch.Tensor
    ids_NC: torch.Tensor
    logprobs_NC: torch.Tensor
    rows_R: torch.Tensor  # of all rows, those under way
    ended_R: torch.Tensor
    position_R: torch.Tensor
    written_1: torch.Tensor
    last_R: torch.Tensor
    seen: Callable[[list[int]], None] | None = None  # is told the first row's tokens so far

    def __init__(self, policy: Policy, layers: list[Packed], sampling: Sampling, capture: Callable[[Step], Step] | None = None, room: int = 0) -> None:
        self.policy, self.layers, self.sampling, self.capture, self.room = policy, layers, sampling, capture, room
        self.cache: Captured | Decoding = Captured(layers[0].heads.query, policy.sight.windows) if capture else Decoding(policy.sight.windows)
        self.replay: Step | None = None

    def write(self, batch: PromptBatch, uniform_NC: torch.Tensor) -> Iterator[tuple[list[int], list[float]]]:
        """Every row's tokens and their log-probabilities."""
        self._start(batch, uniform_NC)
        with few_cores(2 * len(uniform_NC) * self.policy.widest):
            self._run()
        for ids, logprobs in zip(self.ids_NC.tolist(), self.logprobs_NC.tolist(), strict=True):
            length = next((n for n, token in enumerate(ids, 1) if token in self.policy.stop_ids), len(ids))
            yield ids[:length], logprobs[:length]

    def _start(self, batch: PromptBatch, uniform_NC: torch.Tensor) -> None:
        """Run the prompts and sample the first tokens."""
        device, group, (count, limit) = self.policy.device, self.sampling.n, uniform_NC.shape
        prefilled = self.policy.prefill(batch, self.room)
        self.cache.fill(prefilled.layers, prefilled.rows, group, limit)
        for layer in self.layers:
            layer.load(count)
        self.head = for_few(self.policy.model.lm_head, count)
        if self.replay is None:
            # Text has equal positions in time, height and width: one table serves all rows and steps.
            self.table = self.policy.rotary(torch.arange(prefilled.rows.longest + limit, device=device).expand(3, -1))
        first = {
            "uniform_NC": sent(uniform_NC, device),
            "ids_NC": torch.zeros(count, limit, dtype=torch.long, device=device),
            "logprobs_NC": torch.zeros(count, limit, device=device),
            "rows_R": torch.arange(count, device=device),
            "ended_R": torch.zeros(count, dtype=torch.bool, device=device),
            "position_R": sent(batch.next_position_P.repeat_interleave(group), device),
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
            if self.seen and not self.ended_R[0]:  # a GPU goes on for a few steps before it looks
                self.seen(self.ids_NC[0, :t].tolist())
            if self.capture is None:
                self._shrink()
            elif self.replay is None and t == 2:  # the first step has warmed up
                self.replay = self.capture(self._step)
            (self.replay or self._step)()

    def _step(self) -> None:
        """One pass and one token for every row; the same tensors are read and written each time."""
        hidden_RH = self.policy.decode(self.last_R, self.table.at(self.position_R), self.layers, self.cache)
        self.cache.advance()
        self.position_R.add_(1)
        self.last_R.copy_(self._pick(hidden_RH))

    def _pick(self, hidden_RH: torch.Tensor) -> torch.Tensor:
        """Sample a token for every row and write it down."""
        greedy = self.sampling.temperature == 0
        early_1 = self.written_1 < self.sampling.min_tokens if self.sampling.min_tokens else None
        logprobs_RV = self.policy.masked(self.head(hidden_RH), self.sampling.temperature or 1.0, early_1)
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
        assert isinstance(self.cache, Decoding)  # nothing of a captured step moves
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


def room_for(batch: PromptBatch) -> int:
    """Tokens that the longest prompt takes, in whole buckets."""
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
    return in_two_levels(logprobs_RV, uniform_R) if logprobs_RV.is_cuda else in_one(logprobs_RV, uniform_R)


def in_one(logprobs_RV: torch.Tensor, uniform_R: torch.Tensor) -> torch.Tensor:
    """By the sum over the whole vocabulary, token by token."""
    cumulative_RV = logprobs_RV.exp().cumsum(-1)
    target_R1 = uniform_R[:, None] * cumulative_RV[:, -1:]  # the sum is 1 up to rounding
    return torch.searchsorted(cumulative_RV, target_R1, right=True)[:, 0].clamp(max=logprobs_RV.shape[1] - 1)


def in_two_levels(logprobs_RV: torch.Tensor, uniform_R: torch.Tensor, width: int = 512) -> torch.Tensor:
    """First the block of ``width`` tokens, then the token in it: a GPU takes long over a sum of 152,000 terms in order.

    The same token but for rounding, at the edge between two: 1 of 768 draws.

    >>> p = torch.tensor([[0.0, 0.5, 0.0, 0.5]]).log()
    >>> [int(in_two_levels(p, torch.tensor([u]), width=2)) for u in (0.0, 0.49, 0.51, 0.9999999)]
    [1, 1, 3, 3]
    """
    rows, vocabulary = logprobs_RV.shape
    p_RBW = F.pad(logprobs_RV.exp(), (0, -vocabulary % width)).view(rows, -1, width)
    block_RB = p_RBW.sum(-1)
    before_RB = block_RB.cumsum(-1)
    target_R1 = uniform_R[:, None] * before_RB[:, -1:]
    b_R1 = torch.searchsorted(before_RB, target_R1, right=True).clamp(max=before_RB.shape[1] - 1)
    rest_R1 = target_R1 - (before_RB.gather(1, b_R1) - block_RB.gather(1, b_R1))
    inner_RW = p_RBW.gather(1, b_R1[..., None].expand(-1, 1, width))[:, 0].cumsum(-1)
    w_R1 = torch.searchsorted(inner_RW, rest_R1.clamp(min=0), right=True).clamp(max=width - 1)
    return (b_R1 * width + w_R1)[:, 0].clamp(max=vocabulary - 1)
