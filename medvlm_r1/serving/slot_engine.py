"""Continuous batching over the project's own decoder: rows join and leave between two tokens.

One thread owns the model and calls ``step`` again and again. What a request gets is what ``LocalEngine`` gives it alone,
token by token: a row's numbers depend on its own prompt, seed and number, never on its company.

Legend: A rows under way; V vocabulary.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from medvlm_r1.errors import DataError, ImageError
from medvlm_r1.models.decoder import Turns
from medvlm_r1.models.packed import for_few
from medvlm_r1.models.policy import Policy
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.guarded import NOT_FINITE
from medvlm_r1.rollout.local import uniforms
from medvlm_r1.rollout.writing import few_cores, sample
from medvlm_r1.serving.slots import Slots
from medvlm_r1.types import Prompt

JOIN_AT_ONCE = 16  # prompts that are run between two tokens of the rows under way
FULL = "error: the memory is full; try again later"
LAST_STATES = 16  # kept of each row: a letter, the tag behind it and the end are a few tokens


@dataclass(frozen=True)
class Token:
    """One token of row ``k`` of a request. ``end``: "" while the row goes on, else "stop", "length", "error: …",
    or "refused: …" of what cannot be put to the model.

    ``states``: of a row that has ended, what each of its last tokens was picked from, (H,).

    >>> Token(0, 7, -0.1, "").end
    ''
    """

    k: int
    id: int
    logprob: float
    end: str
    states: Sequence[torch.Tensor] = field(default=(), repr=False)


Emit = Callable[[Token], None]


@dataclass(eq=False)
class _Row:
    """One completion under way."""

    request: int
    k: int
    sampling: Sampling
    emit: Emit
    uniform_C: np.ndarray
    position: int  # of the token to come
    ids: list[int] = field(default_factory=list)
    states: deque[torch.Tensor] = field(default_factory=lambda: deque(maxlen=LAST_STATES))
    ended: bool = False


@dataclass
class SlotEngine:
    """``submit`` and ``cancel`` are for the thread that calls ``step``; nothing here locks.

    ``slots``: most rows at a time; a request of more waits for none, and is refused by whoever takes requests.
    """

    policy: Policy
    slots: int = 64
    _numbers: Iterator[int] = field(default_factory=itertools.count, init=False)
    _waiting: deque[tuple[int, Prompt, Sampling, Emit]] = field(default_factory=deque, init=False)
    _rows: list[_Row] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.cache, self.layers = Slots(self.policy.sight.windows), self.policy.packed()
        for layer in self.layers:
            layer.load(self.slots)
        self.head = for_few(self.policy.model.lm_head, self.slots)
        self._table = self._rotary(512)

    @property
    def rows(self) -> int:
        """Rows under way."""
        return len(self._rows)

    @property
    def waiting(self) -> int:
        """Rows that wait for a slot."""
        return sum(sampling.n for _, _, sampling, _ in self._waiting)

    def submit(self, prompt: Prompt, sampling: Sampling, emit: Emit) -> int:
        """Queue a request of ``sampling.n`` rows; ``emit`` is called for every token. Returns its number, for ``cancel``."""
        number = next(self._numbers)
        self._waiting.append((number, prompt, sampling, emit))
        return number

    def cancel(self, number: int) -> None:
        """Drop a request, queued or under way; harmless for one that has ended. Nothing more is emitted for it."""
        self._waiting = deque(request for request in self._waiting if request[0] != number)
        for row in reversed(range(len(self._rows))):
            if self._rows[row].request == number:
                self._drop(row)

    @torch.no_grad()
    def step(self) -> bool:
        """Let waiting requests join, then one token more for every row. False where there was nothing to do."""
        joined = self._admit()
        if not self._rows:
            if not joined:
                self.cache.clear()
            return joined
        try:
            self._write()
        except torch.OutOfMemoryError:
            self._end_all()
        return True

    def _write(self) -> None:
        """A token more for every row."""
        self.cache.step()
        longest = max(row.position for row in self._rows)
        if longest >= len(self._table):
            self._table = self._rotary(2 * longest)
        device = self.policy.device
        last_A = torch.tensor([row.ids[-1] for row in self._rows], device=device)
        position_A = torch.tensor([row.position for row in self._rows], device=device)
        with few_cores(2 * len(self._rows) * self.policy.widest):
            hidden_AH = self.policy.decode(last_A, self._table.at(position_A), self.layers, self.cache)
            for row in self._rows:
                row.position += 1
            self._pick(hidden_AH, self._rows)

    def _end_all(self) -> None:
        """Every request under way fails, and what they held is free: half a step cannot be taken back."""
        rows, self._rows = self._rows, []
        self.cache.clear()
        for row in rows:
            row.emit(Token(row.k, -1, 0.0, FULL))

    def _rotary(self, count: int) -> Turns:
        return self.policy.rotary(torch.arange(count, device=self.policy.device).expand(3, -1))

    def _admit(self) -> bool:
        """Run the prompts of the requests that fit, and pick their first tokens."""
        new: list[tuple[int, Prompt, Sampling, Emit]] = []
        free = self.slots - len(self._rows)
        while self._waiting and len(new) < JOIN_AT_ONCE and self._waiting[0][2].n <= free:
            request = self._waiting.popleft()
            if why := self._refusal(request[1], request[2]):
                _fail(request, f"refused: {why}")
                continue
            free -= request[2].n
            new.append(request)
        if not new:
            return False
        try:
            self._join(new)
        except torch.OutOfMemoryError:
            for request in new:
                self.cancel(request[0])
                _fail(request, FULL)
        return True

    def _join(self, new: Sequence[tuple[int, Prompt, Sampling, Emit]]) -> None:
        batch = self.policy.encoder.prompts([prompt for _, prompt, _, _ in new])
        first = self.policy.prefill(batch)
        sizes, starts = batch.lengths_P.tolist(), batch.next_position_P.tolist()
        parts = [[(k, v) for k, v in zip(keys.split(sizes), values.split(sizes), strict=True)] for keys, values in first.layers]
        at = len(self._rows)
        for p, (number, prompt, sampling, emit) in enumerate(new):
            self.cache.join([layer[p] for layer in parts], sampling.n)
            for k in range(sampling.n):
                noise = uniforms(sampling.seed, prompt.example.id, prompt.first + k, sampling.max_tokens)
                self._rows.append(_Row(number, k, sampling, emit, noise, starts[p]))
        copies = torch.tensor([sampling.n for _, _, sampling, _ in new], device=first.last_PH.device)
        self._pick(first.last_PH.repeat_interleave(copies, 0), self._rows[at:])

    def _refusal(self, prompt: Prompt, sampling: Sampling) -> str:
        try:
            self.policy.encoder.prompt_ids(prompt, sampling.max_tokens)
        except (DataError, ImageError) as error:
            return str(error)
        return ""

    def _pick(self, hidden_AH: torch.Tensor, rows: Sequence[_Row]) -> None:
        """Sample a token for each of these rows, tell of it, and drop those that have ended. Rows of one temperature are one product."""
        rows = list(rows)  # whoever hears of a fault may cancel the request, and with it rows under way
        for temperature in {row.sampling.temperature for row in rows}:
            places = [n for n, row in enumerate(rows) if row.sampling.temperature == temperature]
            self._pick_at(temperature, hidden_AH[places], [rows[n] for n in places])
        for place in reversed(range(len(self._rows))):  # from the back: a row that moves is one that stays
            if self._rows[place].ended:
                self._drop(place)

    def _pick_at(self, temperature: float, hidden_AH: torch.Tensor, rows: Sequence[_Row]) -> None:
        device = hidden_AH.device
        early_A = torch.tensor([len(row.ids) < row.sampling.min_tokens for row in rows], device=device)
        logprobs_AV = self.policy.masked(self.head(hidden_AH), temperature or 1.0, early_A if early_A.any() else None)
        uniform_A = torch.tensor(np.array([row.uniform_C[len(row.ids)] for row in rows]), device=device)
        token_A = sample(logprobs_AV, uniform_A, greedy=temperature == 0)
        chosen_A = logprobs_AV.gather(1, token_A[:, None])[:, 0]
        for row, id, logprob, state_H in zip(rows, token_A.tolist(), chosen_A.tolist(), hidden_AH, strict=True):
            row.ids.append(id)
            row.states.append(state_H)
            end = self._end(row, logprob)
            row.ended = bool(end)
            row.emit(Token(row.k, id, logprob, end, tuple(row.states) if end else ()))

    def _end(self, row: _Row, logprob: float) -> str:
        if not math.isfinite(logprob):
            return f"error: {NOT_FINITE}"
        if row.ids[-1] in self.policy.stop_ids:
            return "stop"
        return "length" if len(row.ids) >= row.sampling.max_tokens else ""

    def _drop(self, place: int) -> None:
        self.cache.leave(place)
        self._rows[place] = self._rows[-1]
        self._rows.pop()


def _fail(request: tuple[int, Prompt, Sampling, Emit], why: str) -> None:
    _, _, sampling, emit = request
    for k in range(sampling.n):
        emit(Token(k, -1, 0.0, why))
