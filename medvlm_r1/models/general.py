"""Any vision-language model of transformers, by its own forward: the same contracts, without a shared prefix.

Every completion runs its prompt and its pictures again. What that costs: benchmarks and docs/models.md.

Legend: P prompts, R completion rows, C completion tokens, L tokens of a prompt, V vocabulary.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from medvlm_r1.models import adapt
from medvlm_r1.models.general_encoder import GeneralEncoder, Inputs, continued
from medvlm_r1.models.policy import Policy
from medvlm_r1.models.sent import sent
from medvlm_r1.types import Example, Prompt, PromptBatch, RolloutGroup, TokenBatch


class InForward:
    """In the place of models.images: the model encodes its pictures in its own forward, and nothing is kept."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @property
    def learn(self) -> bool:
        """Is there anything between a picture and the decoder that learns?"""
        return any(p.requires_grad for name, p in self._model.named_parameters() if adapt.part_of(name) == "vision")

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """Nothing is cut off: a backward pass goes through the tower."""
        yield

    def backward(self) -> None:
        """It has been gone through."""

    def keep_at_most(self, n_bytes: int) -> None:
        """Nothing is kept."""

    def clear(self) -> None:
        """Nothing is kept."""


@dataclass
class GeneralPolicy(Policy):
    """A Policy over a model that has no family: trained, asked and evaluated as any, and slower."""

    encoder: GeneralEncoder

    def __post_init__(self) -> None:
        self.images: Any = InForward(self.model)

    @property
    def shares_prompts(self) -> bool:
        """No: every completion runs its prompt again."""
        return False

    @property
    def text(self) -> Any:
        """The text decoder's module, as far as transformers tells."""
        return self.model.get_decoder()

    @cached_property
    def banned_ids(self) -> list[int]:
        """Tokens no completion may contain: a sampled placeholder would ask for an image."""
        return [id for id in self.encoder.placeholders if id not in self.stop_ids]

    @cached_property
    def _takes(self) -> frozenset[str]:
        return frozenset(inspect.signature(self.model.forward).parameters)

    def frozen_copy(self) -> "GeneralPolicy":
        """See Policy.frozen_copy."""
        return GeneralPolicy(adapt.reference(self.model), self.encoder)

    def aside(self) -> "GeneralPolicy":
        """See Policy.aside; nothing of what it is asked is kept here."""
        return GeneralPolicy(self.model, self.encoder, self.version)

    def let_go(self, prompt: Prompt, references: Sequence[str]) -> None:
        """See Policy.let_go."""
        self.encoder.let_go(prompt, references)

    def read_ahead(self, examples: Sequence[Example]) -> None:
        """Nothing is prepared before it is needed."""

    def remember(self, batch: PromptBatch) -> None:
        """Nothing is encoded before it is needed."""

    def tokens_of(self, group: RolloutGroup) -> int:
        """Tokens of a pass over one group: the prompt anew for each completion, all as long as the longest."""
        return len(group.rollouts) * (len(self.encoder.prompt_ids(group.prompt)) + max(len(rollout.completion.token_ids) for rollout in group.rollouts))

    def logprobs(self, batch: TokenBatch, temperature: float = 1.0) -> torch.Tensor:
        """See Policy.logprobs; the rows of a prompt go through the model together."""
        found, width = [], batch.ids_RC.shape[1]
        for p, prompt in enumerate(batch.prompts.whole):
            rows_G = (batch.prompt_of_R == p).nonzero()[:, 0]
            if not len(rows_G):
                continue
            ids_GC, mask_GC = batch.ids_RC[rows_G], batch.mask_RC[rows_G]
            longest = int(mask_GC.sum(1).max())
            early_GC = None if batch.early_RC is None else batch.early_RC[rows_G, :longest]
            logprob_GC = self._score(self.encoder.rows(prompt, len(rows_G)), ids_GC[:, :longest], mask_GC[:, :longest], early_GC, temperature)
            found.append(torch.nn.functional.pad(logprob_GC, (0, width - longest)))
        return torch.cat(found)

    def _score(self, rows: Inputs, ids_GC: torch.Tensor, mask_GC: torch.Tensor, early_GC: torch.Tensor | None, temperature: float) -> torch.Tensor:
        """Log-probabilities (G, C) of completions of one prompt, zero at padding."""
        count, length = ids_GC.shape
        logits_GCV = self.forward(continued(rows, ids_GC, mask_GC), keep=length + 1)[:, -length - 1 : -1]
        early_T = None if early_GC is None else sent(early_GC.flatten(), self.device)
        logits_TV = logits_GCV.reshape(count * length, -1).to(torch.float32, copy=True)  # the model's own may be wanted by its backward pass
        logprob_TV = self.masked(logits_TV, temperature, early_T)
        chosen_T = logprob_TV.gather(1, sent(ids_GC.flatten(), self.device)[:, None])[:, 0]
        return chosen_T.view(count, length).masked_fill(~sent(mask_GC, self.device).bool(), 0.0)

    def forward(self, inputs: Inputs, keep: int) -> torch.Tensor:
        """The model's own logits (R, at least ``keep``, V), of the last tokens where it can leave out the others."""
        placed = self.placed(inputs) | ({"logits_to_keep": keep} if "logits_to_keep" in self._takes else {})
        logits: torch.Tensor = self.model(**placed, **({"use_cache": False} if "use_cache" in self._takes else {})).logits
        return logits

    def placed(self, inputs: Inputs) -> Inputs:
        """On the model's device, pictures in its own numbers."""
        device, dtype = self.device, self.model.dtype

        def place(value: Any) -> Any:
            if not torch.is_tensor(value):
                return [place(each) for each in value] if isinstance(value, list) else value
            return value.to(device, dtype) if value.is_floating_point() else value.to(device)

        return {name: place(value) for name, value in inputs.items()}
