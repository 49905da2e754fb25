"""A vision-language model as the trainers and the local engine see it.

Every pass encodes each image once and each prompt once, however many
completions continue it, and runs the LM head on completion positions only.

Legend: P prompts, R completion rows, L prompt tokens, C completion tokens,
T = all real completion tokens, H hidden size, V vocabulary.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch.utils.checkpoint import checkpoint

from medvlm_r1.models import vision
from medvlm_r1.models.encode import Encoder
from medvlm_r1.models.prefix import Continue, Decode, Prefill
from medvlm_r1.reasoning import EVALUATED_AS
from medvlm_r1.types import PromptBatch, TokenBatch

HEAD_CHUNK_ELEMENTS = 2**26  # logits held at a time: 256 MB in float32


@dataclass(frozen=True)
class Prefilled:
    """What the prompts left behind: each layer's keys and values, and all hidden states (P, L, H)."""

    cache: Prefill
    hidden_PLH: torch.Tensor
    lengths_P: torch.Tensor

    @property
    def last_PH(self) -> torch.Tensor:
        """The state from which a completion's first token is predicted."""
        return self.hidden_PLH[torch.arange(len(self.lengths_P), device=self.lengths_P.device), self.lengths_P - 1]


@dataclass
class Policy:
    """A model with its encoder.

    ``version`` counts optimiser steps.
    ``frozen`` models keep image embeddings for the whole run.
    """

    model: Any
    encoder: Encoder
    version: int = 0
    frozen: bool = False
    _images: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @cached_property
    def banned_ids(self) -> list[int]:
        """Tokens no completion may contain: a sampled image placeholder would ask for an image."""
        names = ("<|image_pad|>", "<|video_pad|>", "<|vision_pad|>", "<|vision_start|>", "<|vision_end|>")
        ids = self.encoder.tokenizer.convert_tokens_to_ids(list(names))
        return [i for i in ids if i is not None]

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        eos = self.model.generation_config.eos_token_id
        return tuple(eos) if isinstance(eos, list) else (eos,)

    @property
    def template(self) -> str:
        """How this model is asked: what its training wrote into its configuration, else the paper's prompt."""
        return getattr(self.model.config, "reasoning_template", "paper-eval")

    @template.setter
    def template(self, name: str) -> None:
        self.model.config.reasoning_template = EVALUATED_AS.get(name, name)

    def frozen_copy(self) -> "Policy":
        """The reference policy: same weights, no gradients, never updated."""
        model = copy.deepcopy(self.model).eval().requires_grad_(False)
        vision.patch_embed_as_matmul(model.model.visual)
        return Policy(model, self.encoder, frozen=True)

    def viewing(self, view: Callable[[Image.Image], Image.Image] | None) -> "Policy":
        """The same model, with every image changed by ``view`` first."""
        encoder = Encoder(
            self.encoder.tokenizer, self.encoder.image_processor, self.encoder.load_image, self.encoder.max_prompt_tokens, view
        )
        return Policy(self.model, encoder)

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Take over weights by the names of a checkpoint; tied ones may be absent."""
        fresh = type(self.model).from_pretrained(
            None, config=self.model.config, state_dict=weights, dtype=next(self.model.parameters()).dtype
        )
        self.model.load_state_dict(fresh.state_dict())

    def image_embeds(self, batch: PromptBatch) -> torch.Tensor:
        """Embeddings of all image slots in order, (image tokens, H); equal images are encoded once."""
        keys = [key for key in batch.pixel_keys if key not in self._images] if self.frozen else list(batch.pixel_keys)
        # What is kept for the run must not depend, not even in the last bit, on the company it was first met in.
        parts = [[key] for key in keys] if self.frozen else [keys]
        fresh = {key: embeds for part in parts if part for key, embeds in self._encode(batch, part).items()}
        if self.frozen:
            self._images |= fresh
        known = self._images if self.frozen else fresh
        return torch.cat([known[batch.pixel_keys[n]] for n in batch.slots])

    def _encode(self, batch: PromptBatch, keys: list[str]) -> dict[str, torch.Tensor]:
        wanted = [batch.pixel_keys.index(key) for key in keys]
        patches = batch.pixels.split(batch.grid_N3.prod(1).tolist())
        grid = batch.grid_N3[wanted]
        visual = self.model.model.visual
        out = visual(
            torch.cat([patches[n] for n in wanted]).to(self.device, visual.dtype),
            grid_thw=grid.to(self.device),
            cu_seqlens=torch.tensor([0, int(grid.prod(1).sum())], dtype=torch.int32, device=self.device),
            image_runs=vision.runs(grid),
        ).pooler_output
        return dict(zip(keys, out.split((grid.prod(1) // self.encoder.merge**2).tolist()), strict=True))

    def prefill(self, batch: PromptBatch) -> Prefilled:
        """Run the prompts, each once."""
        ids_PL = batch.ids_PL.to(self.device)
        embeds = self.model.get_input_embeddings()(ids_PL)
        if batch.slots:
            images = self.image_embeds(batch).to(embeds.dtype)
            embeds = embeds.masked_scatter((ids_PL == self.encoder.image_id)[..., None], images)
        cache = Prefill()
        # Padding is on the right: causal attention alone, which is what no mask means, keeps it from real tokens.
        hidden = self._decoder(embeds, batch.position_ids_3PL, None, cache)
        return Prefilled(cache, hidden, batch.lengths_P.to(self.device))

    def _decoder(self, embeds: torch.Tensor, position_ids: torch.Tensor, mask: torch.Tensor | None, cache: Any) -> torch.Tensor:
        out = self.model.model.language_model(
            inputs_embeds=embeds,
            position_ids=position_ids.to(self.device),
            attention_mask={"full_attention": mask, "sliding_attention": mask},
            past_key_values=cache,
            use_cache=True,
        )
        return out.last_hidden_state

    def hidden(self, batch: TokenBatch) -> torch.Tensor:
        """Hidden states (T, H) from which each real completion token is predicted, row by row."""
        prefilled = self.prefill(batch.prompts)
        prompt_of_R, mask_RC = batch.prompt_of_R.to(self.device), batch.mask_RC.to(self.device).bool()
        first = prefilled.last_PH[prompt_of_R]
        width = batch.ids_RC.shape[1] - 1  # the last token of a completion predicts nothing
        if width == 0:
            return first[mask_RC[:, 0]]
        embeds = self.model.get_input_embeddings()(batch.ids_RC[:, :-1].to(self.device))
        steps = torch.arange(width, device=self.device)
        positions = batch.prompts.next_position_P.to(self.device)[prompt_of_R, None] + steps
        own = (steps[:, None] >= steps).expand(len(embeds), 1, -1, -1)
        prompt = batch.prompts.mask_PL.to(self.device).bool()[prompt_of_R, None, None].expand(-1, -1, width, -1)
        mask = torch.cat([prompt, own], 3)
        rest = self._decoder(embeds, positions.expand(3, -1, -1), mask, Continue(prefilled.cache, prompt_of_R))
        return torch.cat([first[:, None], rest], 1)[mask_RC]

    def logprobs(self, batch: TokenBatch, temperature: float = 1.0) -> torch.Tensor:
        """Log-probability (R, C) of every completion token, zero at padding; natural logarithm."""
        hidden_TH = self.hidden(batch)
        mask_RC = batch.mask_RC.to(self.device).bool()
        ids_T = batch.ids_RC.to(self.device)[mask_RC]
        chunk = max(1, HEAD_CHUNK_ELEMENTS // self.model.lm_head.out_features)
        logprob_T = torch.cat([
            checkpoint(self._head, h, i, temperature, use_reentrant=False) if torch.is_grad_enabled() and len(hidden_TH) > chunk
            else self._head(h, i, temperature)
            for h, i in zip(hidden_TH.split(chunk), ids_T.split(chunk), strict=True)
        ])
        return torch.zeros(mask_RC.shape, device=self.device).masked_scatter(mask_RC, logprob_T)

    def _head(self, hidden_TH: torch.Tensor, ids_T: torch.Tensor, temperature: float) -> torch.Tensor:
        return self.log_softmax(hidden_TH, temperature).gather(1, ids_T[:, None])[:, 0]

    def log_softmax(self, hidden_TH: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """Next-token log-probabilities (T, V) in float32, banned tokens at minus infinity."""
        logits = self.model.lm_head(hidden_TH).float()
        logits[:, self.banned_ids] = -torch.inf
        return (logits / temperature).log_softmax(-1)

    def decode(self, ids_R: torch.Tensor, position_R: torch.Tensor, mask_R1L: torch.Tensor, cache: Decode) -> torch.Tensor:
        """One token further for every row: hidden state (R, H)."""
        embeds = self.model.get_input_embeddings()(ids_R[:, None])
        hidden = self._decoder(embeds, position_R.expand(3, -1)[..., None], mask_R1L[:, None], cache)
        cache.advance()
        return hidden[:, 0]
