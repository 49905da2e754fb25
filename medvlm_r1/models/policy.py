"""A vision-language model as the trainers and the local engine see it.

Every pass encodes each image once and each prompt once, however many
completions continue it, pads no token outside the attention, and runs the LM
head on completion positions only.

Legend: P prompts, R completion rows, C completion tokens, T tokens of a pass
one after another, H hidden size, V vocabulary, D head size, I image tokens, F see models.family.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial, wraps
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from medvlm_r1.models import adapt, decoder, norms, passes
from medvlm_r1.models.decoding import Cache, KeysValues
from medvlm_r1.models.encode import Encoder
from medvlm_r1.models.head import logprob_of
from medvlm_r1.models.images import Images
from medvlm_r1.models.packed import Packed
from medvlm_r1.models.passes import Pass
from medvlm_r1.models.sight import Sight, kinds, windows
from medvlm_r1.models.tree import Rows
from medvlm_r1.models.written import Written
from medvlm_r1.types import Example, Prompt, PromptBatch, RolloutGroup, TokenBatch

HEAD_CHUNK_ELEMENTS = 2**26  # logits held at a time: 256 MB in float32


@dataclass(frozen=True)
class Prefilled:
    """What the prompts left behind for their completions.

    layers: each layer's keys and values of all prompt tokens, (T, K, D).
    last_PH: the states from which the first tokens are predicted.
    """

    layers: list[KeysValues]
    last_PH: torch.Tensor
    rows: Rows


def _of_the_whole(method: Callable[..., Any]) -> Callable[..., Any]:
    """A pass that calls the model as a whole, so that what holds on to it (models.decoder: ``within``) sees it come and go."""

    @wraps(method)
    def call(self: "Policy", *args: Any) -> Any:
        return self.model.within(partial(method, self), *args)

    return call


@dataclass
class Policy(Written):
    """A model with its encoder.

    ``version`` counts optimiser steps: whoever changes the weights moves it on, so that no image is taken for one of theirs
    that is not. ``images``: when they are encoded, models.images says.
    """

    model: Any
    encoder: Encoder
    version: int = 0
    images: Images = field(init=False)

    def __post_init__(self) -> None:
        decoder.make_callable(self.model, self.text)
        if self.device.type != "cpu":
            self.encoder.pinned_as = self.model.dtype
        self.images = Images(self.model, self.encoder.family)

    @property
    def is_cut(self) -> bool:
        """Does every rank of a run hold a part of the weights alone (training.sharding)?"""
        return False

    def whole(self) -> "Policy":
        """The policy with all weights in this process; where it is cut, all ranks must ask."""
        return self

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def text(self) -> Any:
        """The text decoder's module of transformers, which holds the weights."""
        return self.encoder.family.decoder(self.model)

    @property
    def shares_prompts(self) -> bool:
        """Does a pass run a prompt once, however many completions continue it?"""
        return True

    def tokens_of(self, group: RolloutGroup) -> int:
        """Tokens of a pass over one group: its prompt once and all completions."""
        return len(self.encoder.prompt_ids(group.prompt)) + sum(len(rollout.completion.token_ids) for rollout in group.rollouts)

    @cached_property
    def sight(self) -> Sight:
        """Who sees whom in each layer."""
        return Sight(windows(self.text.config), self.encoder.family.whole_pictures)

    @cached_property
    def widest(self) -> int:
        """Elements of the largest matrix that ``decode`` multiplies by."""
        return max(2 * layer.mlp.up_proj.in_features * layer.mlp.up_proj.out_features for layer in self.text.layers)

    @cached_property
    def banned_ids(self) -> list[int]:
        """Tokens no completion may contain: a sampled image placeholder would ask for an image."""
        vocabulary = self.encoder.tokenizer.get_vocab()  # asked for a token it lacks, a tokenizer may answer with the unknown one
        return [vocabulary[name] for name in self.encoder.family.banned if name in vocabulary]

    @cached_property
    def _banned(self) -> torch.Tensor:
        return torch.tensor(self.banned_ids, dtype=torch.long, device=self.device)

    @cached_property
    def _masks_V(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Which tokens are banned, and which are an end."""
        banned, ends = (torch.zeros(self.model.lm_head.out_features, dtype=torch.bool, device=self.device) for _ in range(2))
        return banned.index_fill_(0, self._banned, True), ends.index_fill_(0, self.stop, True)

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        eos = self.model.generation_config.eos_token_id
        return tuple(eos) if isinstance(eos, list) else (eos,)

    @cached_property
    def stop(self) -> torch.Tensor:
        """``stop_ids`` on the policy's device."""
        return torch.tensor(self.stop_ids, dtype=torch.long, device=self.device)

    def frozen_copy(self) -> "Policy":
        """The reference policy: same weights, no adapters, no gradients, never updated; it shares what does not learn, images too."""
        model = adapt.reference(self.model)
        self.encoder.family.adapt(model)
        reference = Policy(model, self.encoder)
        if not self.images.learn:
            reference.images = self.images
        return reference

    def aside(self) -> "Policy":
        """The same weights, with images of its own: what it is asked leaves no trace in this one."""
        other = copy.copy(self)
        other.images = Images(self.model, self.encoder.family)
        return other

    def held(self) -> "Policy":
        """A copy in the host's memory, as the weights are now; to be saved, not to be asked."""
        other = copy.copy(self)
        kept = {id(p): torch.nn.Parameter(p.detach().to("cpu", copy=True), requires_grad=False) for p in self.model.parameters()}
        other.model = copy.deepcopy(self.model, kept)
        return other

    def save_weights(self, out: Path) -> None:
        """The model in the Hugging Face layout, and its adapters if it has any."""
        adapt.save(self.model, out)

    def load_weights(self, weights: dict[str, torch.Tensor], adapters: Mapping[str, torch.Tensor] = MappingProxyType({})) -> None:
        """Take over what ``save_weights`` wrote."""
        adapt.load(self.model, weights, adapters)
        self.images.clear()

    # ---------------------------------------------------------------- images

    def read_ahead(self, examples: Sequence[Example]) -> None:
        """Prepare images while a GPU works; a CPU has no time to spare."""
        if self.device.type != "cpu":
            self.encoder.read_ahead(examples)

    def image_embeds(self, batch: PromptBatch) -> torch.Tensor:
        """What the decoder gets of all image slots in order, (I, F, H)."""
        return self.images.embeds(batch, self.version)

    def keep_at_most(self, n_bytes: int) -> None:
        """How many bytes of pixels, and as many of embeddings, may stay for questions to come."""
        self.encoder.keep_at_most(n_bytes)
        self.images.keep_at_most(n_bytes)

    def forget(self) -> None:
        """Keep nothing of the pictures and prompts that were asked about: they may be a patient's."""
        self.encoder.forget()
        self.images.clear()

    def let_go(self, prompt: Prompt, references: Sequence[str]) -> None:
        """Keep nothing of this prompt and these of its pictures, while others are asked about."""
        for key in self.encoder.let_go(prompt, references):
            self.images.let_go(key)

    def remember(self, batch: PromptBatch) -> None:
        """Encode the images of a step with gradients, for the rollouts and for the update that follows them."""
        self.images.remember(batch, self.version)

    # ---------------------------------------------------------------- passes over many tokens

    @_of_the_whole
    def prefill(self, batch: PromptBatch, at_least: int = 0) -> Prefilled:
        """Run the prompts, each once; ``at_least``: how far their keys are to be padded."""
        over, layers = passes.over_prompts(batch, self.encoder.image_id, self.device, self.sight, at_least, last_alone=True), []

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            layers.append((k, v))
            return over.tree.attend(layer, q, k, v)

        last_PH = self._run(over, attend)
        return Prefilled(layers, last_PH, over.tree.prompts)

    @_of_the_whole
    def prompt_hidden(self, batch: PromptBatch) -> torch.Tensor:
        """Hidden states (T, H) of all prompt tokens, prompt by prompt."""
        over = passes.over_prompts(batch, self.encoder.image_id, self.device, self.sight)
        return self._run(over, over.tree.attend)

    def hidden(self, batch: TokenBatch) -> torch.Tensor:
        """Hidden states (N, H) from which each real completion token is predicted, row by row."""
        over = passes.over_completions(batch, self.encoder.image_id, self.device, self.sight)
        return self._run(over, over.tree.attend).index_select(0, over.predictor_N)

    def _embed(self, over: Pass) -> tuple[torch.Tensor, decoder.Added | None]:
        """Token embeddings (T, H), images in the place of their placeholders; and what else the images add."""
        embeds_TH = self.model.get_input_embeddings()(over.ids_T)
        if not over.prompts.slots:
            return embeds_TH, None
        features_IFH = self.image_embeds(over.prompts).to(embeds_TH.dtype)
        added = decoder.Added(over.places_I, features_IFH[:, 1:]) if features_IFH.shape[1] > 1 else None
        return embeds_TH.index_copy(0, over.places_I, features_IFH[:, 0]), added

    def _run(self, over: Pass, attend: decoder.Attend) -> torch.Tensor:
        layers = [layer.through for layer in self.text.layers]
        embeds_TH, added = self._embed(over)
        return norms.normed(decoder.run(layers, embeds_TH, self.rotary(over.positions_3T), attend, over.wanted_W, added), self.text.norm)

    def rotary(self, positions_3T: torch.Tensor) -> decoder.Turns:
        """The model's own turns at these positions."""
        of_layer = kinds(self.text.config)
        turned = {kind: self.encoder.family.rotary(self.text, positions_3T, kind) for kind in dict.fromkeys(of_layer)}
        return decoder.Turns({kind: decoder.Rotary.of(*both) for kind, both in turned.items()}, of_layer)

    @_of_the_whole
    def logprobs(self, batch: TokenBatch, temperature: float = 1.0) -> torch.Tensor:
        """Log-probability (R, C) of every completion token as it was sampled, zero at padding; natural logarithm."""
        over, hidden_NH = passes.over_completions(batch, self.encoder.image_id, self.device, self.sight), self.hidden(batch)
        tokens = [hidden_NH, over.target_N, *([] if over.early_N is None else [over.early_N])]
        chunk = max(1, HEAD_CHUNK_ELEMENTS // self.model.lm_head.out_features)
        logprob_N = torch.cat(
            [
                checkpoint(self._head, temperature, *part, use_reentrant=False, preserve_rng_state=False)  # nothing in it is random
                if torch.is_grad_enabled() and len(hidden_NH) > chunk
                else self._head(temperature, *part)
                for part in zip(*(each.split(chunk) for each in tokens), strict=True)
            ]
        )
        return (
            torch.zeros(batch.mask_RC.numel(), device=self.device).index_copy(0, over.cell_N, logprob_N).view(batch.mask_RC.shape).clone()
        )  # no view: FSDP hooks it

    def _head(self, temperature: float, hidden_TH: torch.Tensor, ids_T: torch.Tensor, early_T: torch.Tensor | None = None) -> torch.Tensor:
        if hidden_TH.is_cuda:
            return logprob_of(self.model.lm_head(hidden_TH), ids_T, *self._masks_V, early_T, temperature)
        return self.log_softmax(hidden_TH, temperature, early_T).gather(1, ids_T[:, None])[:, 0]

    def log_softmax(self, hidden_TH: torch.Tensor, temperature: float = 1.0, early_T: torch.Tensor | None = None) -> torch.Tensor:
        """Next-token log-probabilities (T, V) in float32; see ``masked``."""
        return self.masked(self.model.lm_head(hidden_TH), temperature, early_T)

    def masked(self, logits_TV: torch.Tensor, temperature: float = 1.0, early_T: torch.Tensor | None = None) -> torch.Tensor:
        """Log-probabilities (T, V) in float32 of logits; minus infinity for banned tokens, and for stop tokens where it is too early."""
        # No scalar is written through an index: it would be a copy from the host, which the capture of a CUDA graph forbids.
        logits = logits_TV.float().index_fill_(1, self._banned, -torch.inf)
        if early_T is not None:
            ends = logits.index_select(1, self.stop).masked_fill(early_T[:, None], -torch.inf)
            logits = logits.index_copy_(1, self.stop, ends)
        return (logits if temperature == 1 else logits / temperature).log_softmax(-1)

    # ---------------------------------------------------------------- one token a row

    def packed(self) -> list[Packed]:
        """The layers for ``decode``; to be loaded."""
        return [Packed(layer) for layer in self.text.layers]

    def decode(self, ids_R: torch.Tensor, turns: decoder.Turns, layers: list[Packed], cache: Cache) -> torch.Tensor:
        """One token further for every row: hidden state (R, H)."""
        state_RH = self.model.get_input_embeddings()(ids_R)
        added_RH = torch.zeros_like(state_RH)
        for n, (layer, attention) in enumerate(zip(layers, cache.attentions(), strict=True)):
            state_RH, added_RH = layer(state_RH, added_RH, turns[n], attention)
        return norms.rms_norm(state_RH + added_RH, self.text.norm)
