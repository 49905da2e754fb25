"""Generation in this process, on the policy's own weights: image once, prompt once per group."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from medvlm_r1.files import utf8
from medvlm_r1.models.encode import Encoder
from medvlm_r1.models.kept import Kept
from medvlm_r1.models.packed import Packed
from medvlm_r1.models.policy import Policy
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.writing import Step, Writing, cuda_graph, room_for
from medvlm_r1.types import Completion, Prompt, PromptBatch

CAPTURED = 4  # steps kept: greedy and drawn answers of a whole batch and of a last one


@dataclass
class LocalEngine:
    """Samples from a policy held in memory.

    ``max_rows`` bounds the completions decoded at once, ``max_prompt_tokens`` the prompts that a GPU runs at once. ``learning``:
    an update of this policy on these prompts follows, and shares their encoded images. ``capture`` makes a replayable step;
    ``cuda_graph`` does of a policy on a GPU alone. ``seen`` is called with the first row's tokens so far, after each but the last: for one who waits.
    """

    policy: Policy
    max_rows: int = 512
    learning: bool = False
    capture: Callable[[Step], Step] | None = cuda_graph
    max_prompt_tokens: int = 2**15
    seen: Callable[[list[int]], None] | None = None
    _captured: Kept[Writing] = field(default_factory=lambda: Kept(CAPTURED), init=False)
    _packed: Kept[list[Packed]] = field(default_factory=lambda: Kept(1), init=False)

    def sync(self, policy: Policy) -> None:
        self.policy = policy

    def forget(self) -> None:
        """Let go of what was captured: its buffers, and the places of the weights that it reads."""
        self._captured.clear()
        self._packed.clear()

    @property
    def _captures(self) -> Callable[[Step], Step] | None:
        """A GPU may be there, and the policy elsewhere."""
        return None if self.capture is cuda_graph and self.policy.device.type != "cuda" else self.capture

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """See Engine.generate."""
        if not prompts:
            return []
        size = max(1, self.max_rows // sampling.n)
        if self.learning:
            self.policy.remember(self.policy.encoder.prompts(prompts))
        if self._captures:
            longest = max((len(self.policy.encoder.prompt_ids(prompt)) for prompt in prompts), default=1)
            size = max(1, min(size, self.max_prompt_tokens // longest))
        return [group for at in range(0, len(prompts), size) for group in self._groups(prompts[at : at + size], sampling)]

    def _groups(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[list[Completion]]:
        noise = [uniforms(sampling.seed, p.example.id, p.first + k, sampling.max_tokens) for p in prompts for k in range(sampling.n)]
        writing = self._writing(batch := self.policy.encoder.prompts(prompts), sampling)
        writing.seen = self.seen
        try:
            rows = list(writing.write(batch, torch.from_numpy(np.stack(noise))))
        except torch.OutOfMemoryError:
            self.forget()  # fewer may fit, if what these took is free
            raise
        asked = (prompt for prompt in prompts for _ in range(sampling.n))
        completions = [written(self.policy.encoder, prompt, self.policy.stop_ids, *row, self.policy.version) for prompt, row in zip(asked, rows, strict=True)]
        return (completions[at : at + sampling.n] for at in range(0, len(completions), sampling.n))

    def _writing(self, batch: PromptBatch, sampling: Sampling) -> Writing:
        """A new one; or, where steps are captured, that of the last batch of as many prompts, whose room for prompts only grows."""
        if self._captures is None:
            return Writing(self.policy, self.policy.packed(), sampling)
        key, room = (id(self.policy.model), len(batch.lengths_P), replace(sampling, seed=0)), room_for(batch)
        writing = self._captured.get(key)
        if writing is None or writing.room < room:
            self._captured.put(key, writing := Writing(self.policy, self._layers(), sampling, self._captures, room), 1)
        return writing

    def _layers(self) -> list[Packed]:
        """The weights as decoding reads them, once for all that is captured."""
        layers = self._packed.get(id(self.policy.model))
        if layers is None:
            self._packed.put(id(self.policy.model), layers := self.policy.packed(), 1)
        return layers


def written(encoder: Encoder, prompt: Prompt, stop_ids: Sequence[int], ids: Sequence[int], logprobs: Sequence[float], version: int) -> Completion:
    """A completion of these tokens; what stopped it is no part of its text."""
    finished = ids[-1] in stop_ids
    text = encoder.thoughts.said(ids[:-1] if finished else ids, prompt)
    return Completion(tuple(ids), tuple(logprobs), text, finished, version=version)


def uniforms(seed: int, example_id: str, k: int, count: int) -> np.ndarray:
    """Random numbers that belong to one completion of one question, whatever the batch.

    >>> bool((uniforms(0, "q1", 0, 3) == uniforms(0, "q1", 0, 5)[:3]).all())
    True
    """
    return np.random.default_rng([seed, zlib.crc32(utf8(example_id)), k]).random(count, dtype=np.float32)
