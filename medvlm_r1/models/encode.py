"""Questions to tensors: the only place that pads, masks, places image tokens and packs.

An image is preprocessed once, whatever its number of prompts and rollouts, and
known by the hash of its content. A prompt is never cut: what does
not fit the model is rejected by the example's id.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from PIL import Image

from medvlm_r1.errors import DataError
from medvlm_r1.models.kept import Kept
from medvlm_r1.types import Example, Prompt, PromptBatch, RolloutGroup, TokenBatch

KEPT_PIXEL_BYTES = 2**33  # 850 images of 512 visual tokens


@dataclass(frozen=True)
class Pixels:
    """One preprocessed image: patches (t·h·w, values), its grid (t, h, w) and content hash."""

    patches: torch.Tensor
    grid_thw: tuple[int, int, int]
    key: str


@dataclass
class Encoder:
    """Turns prompts into a PromptBatch with one model's tokenizer and image processor.

    ``view`` changes every image before the model sees it (a blank one, say);
    what it does is part of the image's content and so of its hash.
    """

    tokenizer: Any
    image_processor: Any
    load_image: Callable[[str], Image.Image]
    max_prompt_tokens: int = 4096
    view: Callable[[Image.Image], Image.Image] | None = None
    _pixels: Kept[Pixels] = field(default_factory=lambda: Kept(KEPT_PIXEL_BYTES))
    _ids: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    _coming: dict[str, Future] = field(default_factory=dict)

    @property
    def merge(self) -> int:
        return self.image_processor.merge_size

    @property
    def image_id(self) -> int:
        return self.tokenizer.convert_tokens_to_ids("<|image_pad|>")

    def pixels(self, reference: str) -> Pixels:
        """The preprocessed image behind a reference, computed once."""
        kept = self._pixels.get(reference)
        if kept is None:
            coming = self._coming.pop(reference, None)
            kept = coming.result() if coming else self._prepare(reference)
            self._pixels.put(reference, kept, kept.patches.nbytes)
        return kept

    def ahead(self, examples: Sequence[Example]) -> None:
        """Prepare the images of these questions in the background, for a caller that will ask for them next."""
        for reference in {reference for example in examples for reference in example.images}:
            if reference not in self._coming and self._pixels.get(reference) is None:
                self._coming[reference] = _background().submit(self._prepare, reference)

    def _prepare(self, reference: str) -> Pixels:
        image = self.load_image(reference).convert("RGB")
        image = self.view(image) if self.view else image
        out = self.image_processor(images=[image], return_tensors="pt")
        key = hashlib.sha256(out["pixel_values"].numpy().tobytes()).hexdigest()[:16]
        return Pixels(out["pixel_values"], tuple(int(n) for n in out["image_grid_thw"][0]), key)

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Token ids of the whole conversation up to the assistant's first token."""
        key = (prompt.example.id, prompt.text)
        if key not in self._ids:
            self._ids[key] = self._encode(prompt)
        return self._ids[key]

    def _encode(self, prompt: Prompt) -> list[int]:
        content = [{"type": "image"} for _ in prompt.example.images] + [{"type": "text", "text": prompt.text}]
        # No system turn of ours: Qwen's chat template adds its own.
        turns = [{"role": "user", "content": content}]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        grids = iter([self.pixels(reference).grid_thw for reference in prompt.example.images])
        ids: list[int] = []
        for token in self.tokenizer(text, add_special_tokens=False)["input_ids"]:
            ids += [token] * (image_tokens(next(grids), self.merge) if token == self.image_id else 1)
        if len(ids) > self.max_prompt_tokens:
            raise DataError(
                f'example "{prompt.example.id}" needs {len(ids)} prompt tokens, the limit is '
                f"{self.max_prompt_tokens}; lower the image's pixel budget or raise max_prompt_tokens"
            )
        return ids

    def prompts(self, prompts: Sequence[Prompt]) -> PromptBatch:
        """P prompts, each once."""
        images = [[self.pixels(reference) for reference in prompt.example.images] for prompt in prompts]
        return self.collate([self.prompt_ids(prompt) for prompt in prompts], images)

    def collate(self, rows: Sequence[Sequence[int]], images: Sequence[Sequence[Pixels]]) -> PromptBatch:
        """Token ids with image placeholders, and the images that fill them; equal images are stacked once."""
        unique = {image.key: image for row in images for image in row}
        index = {key: n for n, key in enumerate(unique)}
        ids_PL, mask_PL = pad(rows, self.tokenizer.pad_token_id)
        position_ids_3PL = torch.zeros(3, *ids_PL.shape, dtype=torch.long)
        for p, (ids, row) in enumerate(zip(rows, images, strict=True)):
            position_ids_3PL[:, p, : len(ids)] = mrope(ids, self.image_id, [image.grid_thw for image in row], self.merge)
        return PromptBatch(
            ids_PL,
            mask_PL,
            position_ids_3PL,
            position_ids_3PL.amax((0, 2)) + 1,
            torch.cat([image.patches for image in unique.values()]) if unique else None,
            torch.tensor([image.grid_thw for image in unique.values()]) if unique else None,
            tuple(unique),
            tuple(index[image.key] for row in images for image in row),
        )

    def groups(self, groups: Sequence[RolloutGroup]) -> TokenBatch:
        """Groups of any sizes as one batch: each prompt once, then all completions."""
        rows = [rollout.completion.token_ids for group in groups for rollout in group.rollouts]
        ids_RC, mask_RC = pad(rows, self.tokenizer.pad_token_id)
        prompt_of_R = torch.tensor([p for p, group in enumerate(groups) for _ in group.rollouts])
        return TokenBatch(self.prompts([group.prompt for group in groups]), ids_RC, mask_RC, prompt_of_R)


@cache
def _background() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="images")


def image_tokens(grid_thw: tuple[int, int, int], merge: int) -> int:
    """Tokens the language model sees for one image.

    >>> image_tokens((1, 6, 6), merge=2)
    9
    """
    t, h, w = grid_thw
    return t * h * w // merge**2


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and their mask, both (rows, longest).

    >>> pad([[5, 6], [7]], 0)[0].tolist(), pad([[5, 6], [7]], 0)[1].tolist()
    ([[5, 6], [7, 0]], [[1, 1], [1, 0]])
    """
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for r, row in enumerate(rows):
        ids[r, : len(row)] = torch.tensor(row)
        mask[r, : len(row)] = 1
    return ids, mask


def mrope(ids: Sequence[int], image_id: int, grids: Sequence[tuple[int, int, int]], merge: int) -> torch.Tensor:
    """Multimodal rotary positions (3, L) of one prompt (Qwen2-VL, arXiv 2409.12191, 2.1).

    Text advances all three together; an image's tokens share the time position
    and count rows and columns; text after it goes on from the largest.

    >>> mrope([1, 9, 9, 9, 9, 2], image_id=9, grids=[(1, 4, 4)], merge=2).tolist()
    [[0, 1, 1, 1, 1, 3], [0, 1, 1, 2, 2, 3], [0, 1, 2, 1, 2, 3]]
    """
    columns: list[torch.Tensor] = []
    position, n, images = 0, 0, iter(grids)
    while n < len(ids):
        if ids[n] == image_id:
            t, h, w = next(images)
            block = torch.stack(torch.meshgrid(torch.arange(t), torch.arange(h // merge), torch.arange(w // merge), indexing="ij"))
            columns.append(block.reshape(3, -1) + position)
            n, position = n + t * h * w // merge**2, position + max(h, w) // merge
        else:
            columns.append(torch.full((3, 1), position))
            n, position = n + 1, position + 1
    return torch.cat(columns, 1)
