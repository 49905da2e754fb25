"""An image is encoded once for each version of the weights that encode it: once per run where they are frozen, else once per step.

What comes out is kept by the hash of the image's content. Only a backward pass needs more: it ends at what was encoded
for it beforehand (``remember``, ``cut_off``, ``backward``), and encodes anew what was not.

Legend: N images; I image tokens; H hidden size; F see models.family.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from medvlm_r1.models.family import Family
from medvlm_r1.models.kept import Kept
from medvlm_r1.models.sent import sent
from medvlm_r1.types import PromptBatch

KEPT_IMAGE_BYTES = 2**31  # 1,365 images of 512 tokens at Qwen2-VL-2B's width


class Remembered(NamedTuple):
    """One image as the tower gave it, and the same numbers cut off from the tower; both (I, F, H)."""

    encoded: torch.Tensor
    cut: torch.Tensor


class Images:
    """What a model's decoder gets of images. ``version`` names the weights: it changes whenever they do."""

    def __init__(self, model: Any, family: Family, limit: int = KEPT_IMAGE_BYTES) -> None:
        self._model, self._family = model, family
        self._kept = Kept[torch.Tensor](limit)
        self._remembered: dict[str, Remembered] = {}
        self._version, self._is_cut_off = 0, False

    @property
    def learn(self) -> bool:
        """Is there anything between a picture and its embeddings that learns?"""
        return any(p.requires_grad for tower in self._family.towers(self._model) for p in tower.parameters())

    def embeds(self, batch: PromptBatch, version: int) -> torch.Tensor:
        """All image slots in order, (I, F, H)."""
        self._renew(version)
        found = self._differentiable(batch) if self.learn and torch.is_grad_enabled() else self._as_numbers(batch)
        return torch.cat([found[batch.pixel_keys[n]] for n in batch.slots])

    def anew(self, batch: PromptBatch) -> torch.Tensor:
        """The same, encoded now, whatever is kept."""
        found = self._encode(batch, list(batch.pixel_keys))
        return torch.cat([found[batch.pixel_keys[n]] for n in batch.slots])

    def remember(self, batch: PromptBatch, version: int) -> None:
        """Encode with gradients what rollouts are asked about, for them and for the update that follows."""
        self._renew(version)
        missing = [key for key in batch.pixel_keys if key not in self._remembered]
        if not (missing and self.learn):
            return
        with torch.enable_grad():
            for key, encoded in self._model.within(self._encode, batch, missing).items():
                self._remembered[key] = Remembered(encoded, encoded.detach().requires_grad_())
                self._keep(key, encoded)

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """Backward passes of what is computed in here end at the remembered images; ``backward`` goes on from there."""
        self._is_cut_off = True
        try:
            yield
        finally:
            self._is_cut_off = False

    def backward(self) -> None:
        """Once through the tower with the gradients of all passes that were cut off; it ends the remembering."""
        reached = [image for image in self._remembered.values() if image.cut.grad is not None]
        self._remembered = {}
        if reached:
            torch.autograd.backward([image.encoded for image in reached], [image.cut.grad for image in reached])

    def keep_at_most(self, n_bytes: int) -> None:
        """Keep so many bytes of embeddings; 0 keeps the last image."""
        self._kept.limit = n_bytes

    def clear(self) -> None:
        """Nothing that was encoded counts any more."""
        self._kept.clear()
        self._remembered = {}

    def let_go(self, key: str) -> None:
        """Keep nothing of this image."""
        self._kept.drop(key)

    def _renew(self, version: int) -> None:
        if self.learn and version != self._version:
            self.clear()
        self._version = version

    def _differentiable(self, batch: PromptBatch) -> dict[str, torch.Tensor]:
        cut = {key: self._remembered[key].cut for key in batch.pixel_keys if key in self._remembered} if self._is_cut_off else {}
        return cut | self._encode(batch, [key for key in batch.pixel_keys if key not in cut])

    def _as_numbers(self, batch: PromptBatch) -> dict[str, torch.Tensor]:
        found = {key: kept for key in batch.pixel_keys if (kept := self._kept.get(key)) is not None}
        missing = [key for key in batch.pixel_keys if key not in found]
        # What is kept for a whole run must not depend, not even in the last bit, on the company it was first met in.
        for part in [missing] if self.learn else [[key] for key in missing]:
            for key, encoded in self._encode(batch, part).items():
                found[key] = self._keep(key, encoded)
        return found

    def _keep(self, key: str, encoded: torch.Tensor) -> torch.Tensor:
        kept = encoded.detach().clone()  # not a part of what was encoded together, which would stay as a whole
        self._kept.put(key, kept, kept.nbytes)
        return kept

    def _encode(self, batch: PromptBatch, keys: list[str]) -> dict[str, torch.Tensor]:
        if not keys:
            return {}
        wanted = [batch.pixel_keys.index(key) for key in keys]
        assert batch.grid_N3 is not None  # there are keys, so there are pictures
        device = next(self._model.parameters()).device
        pixels = torch.cat([sent(batch.pixels[n], device) for n in wanted]).to(self._model.dtype)
        return dict(zip(keys, self._family.embed(self._model, pixels, batch.grid_N3[wanted]), strict=True))
