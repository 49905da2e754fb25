"""Questions to tensors: the only place that pads, masks, places image tokens and packs.

An image is preprocessed once, whatever its number of prompts and rollouts, and
known by the hash of its content. A prompt is never cut: what does
not fit the model, or cannot be put to it, is rejected by the example's id.
"""

import copy
import itertools
import json
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from medvlm_r1.errors import DataError, ImageError, TooLong
from medvlm_r1.models.budget import budget_that_fits
from medvlm_r1.models.chat import turns
from medvlm_r1.models.family import Family, Pixels
from medvlm_r1.models.kept import Kept
from medvlm_r1.models.qwen import QWEN2_VL
from medvlm_r1.models.thoughts import Thoughts
from medvlm_r1.reasoning import asked
from medvlm_r1.types import Example, Prompt, PromptBatch, RolloutGroup, TokenBatch

KEPT_PIXEL_BYTES = 2**33  # 850 images of 512 visual tokens
KEPT_BATCHES = 4
KEPT_PROMPT_TOKENS = 2**22  # 5,000 prompts of 800 tokens, 150 MB
KEPT_BLANK_SIGNS = 2**22


@dataclass
class Encoder:
    """Turns prompts into a PromptBatch with one model's tokenizer and image processor.

    ``context``: the most tokens of a prompt and its answer together that the model was made for. ``tile_tokens``: see Family.
    ``processor_config``: what transformers' and vLLM's processor must be told of the model to write the same prompt.
    ``pinned_as``: for a GPU pixels are kept in the model's own type, where they can be copied from without waiting.
    """

    tokenizer: Any
    image_processor: Any
    load_image: Callable[[str], Image.Image]
    context: int = 4096
    family: Family = QWEN2_VL
    tile_tokens: int = 0
    processor_config: dict[str, Any] = field(default_factory=dict)
    pinned_as: torch.dtype | None = None
    _pixels: Kept[Pixels] = field(default_factory=lambda: Kept(KEPT_PIXEL_BYTES), init=False)
    _ids: Kept[list[int]] = field(default_factory=lambda: Kept(KEPT_PROMPT_TOKENS), init=False)
    _batches: Kept[PromptBatch] = field(default_factory=lambda: Kept(KEPT_BATCHES), init=False)
    _coming: dict[str, Future[Pixels]] = field(default_factory=dict, init=False)
    _fits: int = field(default=2**62, init=False)
    _sizes: Kept[tuple[int, int]] = field(default_factory=lambda: Kept(10_000), init=False)  # of pictures that lie in no file
    _blanks: Kept[str] = field(default_factory=lambda: Kept(KEPT_BLANK_SIGNS), init=False)

    def save(self, out: Path) -> None:
        """Tokenizer and image processor, for ``load_policy`` and for transformers."""
        self.tokenizer.save_pretrained(out)
        self.image_processor.save_pretrained(out)
        if self.processor_config:
            (out / "processor_config.json").write_text(json.dumps(self.processor_config, indent=2) + "\n", encoding="utf-8")

    @property
    def merge(self) -> int:
        """Patches along a side that become one token."""
        return getattr(self.image_processor, "merge_size", 1)

    @property
    def image_id(self) -> int:
        return self.tokenizer.convert_tokens_to_ids(self.family.image_token)

    def pixels(self, reference: str) -> Pixels:
        """The preprocessed image behind a reference, computed once."""
        kept = self._pixels.get(reference)
        if kept is None:
            kept = coming.result() if (coming := self._coming.pop(reference, None)) else self._prepare(reference)
            self._pixels.put(reference, kept, kept.patches.nbytes)
        return kept

    def seen(self, prompt: Prompt) -> int:
        """How many numbers the tower is given of a prompt's pictures."""
        return sum(self.pixels(reference).patches.numel() for reference in prompt.example.images)

    def hold(self, image: Image.Image) -> str:
        """A reference to a picture that lies in no file, to be asked about next: it is forgotten as any other, and then gone."""
        kept = self._prepare("given", image)
        self._pixels.put(reference := f"memory:{kept.key}", kept, kept.patches.nbytes)
        self._sizes.put(reference, image.size, 1)
        return reference

    def keep_at_most(self, n_bytes: int) -> None:
        """Keep so many bytes of pixels, and a token of prompts for every 32 of them; 0 keeps the last picture and prompt."""
        self._pixels.limit, self._ids.limit = n_bytes, min(KEPT_PROMPT_TOKENS, n_bytes // 32)

    def forget(self) -> None:
        """Keep nothing of what was asked."""
        self._pixels.clear()
        self._ids.clear()
        self._batches.clear()

    def let_go(self, prompt: Prompt, references: Sequence[str]) -> list[str]:
        """Keep nothing of this prompt and these images, and the rest as it is; returns the images' keys."""
        self._ids.drop(key_of(prompt))
        return [pixels.key for reference in references if (pixels := self._pixels.drop(reference)) is not None]

    def read_ahead(self, examples: Sequence[Example]) -> None:
        """Prepare the images of these questions in the background, for a caller that will ask for them next."""
        for reference in {reference for example in examples for reference in example.images}:
            if reference not in self._coming and self._pixels.get(reference) is None:
                self._coming[reference] = _background().submit(self._prepare, reference)

    def _prepare(self, reference: str, given: Image.Image | None = None) -> Pixels:
        image = (given or self.load_image(reference)).convert("RGB")
        try:
            return self._pinned(self.family.prepare(self.image_processor, image, self.tile_tokens))
        except ValueError as error:
            raise ImageError(f'image "{reference}" cannot be prepared ({error}); crop it, or drop the question') from error

    def _pinned(self, pixels: Pixels) -> Pixels:
        return pixels if self.pinned_as is None else replace(pixels, patches=pixels.patches.to(self.pinned_as).pin_memory())

    @cached_property
    def _controls(self) -> re.Pattern[str]:
        """Any text that the tokenizer takes for one token of its own, whatever stands around it; overlapping ones too."""
        names = {name for name in (*self.tokenizer.all_special_tokens, *self.tokenizer.get_added_vocab()) if len(name) > 1 and not name.isspace()}
        return re.compile(f"(?={'|'.join(map(re.escape, sorted(names)))})" if names else r"(?!)")

    @cached_property
    def thoughts(self) -> Thoughts:
        """How the model marks its thoughts."""
        return Thoughts.of(self.tokenizer)

    @property
    def pad_id(self) -> int:
        """What fills a row; any token would do, as none of it is ever looked at."""
        return self.tokenizer.pad_token_id or 0

    def prompt_ids(self, prompt: Prompt, room: int = 0) -> list[int]:
        """Token ids of the whole conversation up to the first token that the assistant is to write.

        Raises DataError or ImageError, with the example's id, for what cannot be put to the model, and TooLong
        where its context has not ``room`` for so many tokens of an answer.
        """
        ids = self._ids.get(key := key_of(prompt))
        if ids is None:
            ids = self._encode(prompt)
            self._ids.put(key, ids, len(ids))
        if len(ids) + room > self.context:
            raise self._too_long(prompt, len(ids), room)
        return ids

    def _encode(self, prompt: Prompt) -> list[int]:
        try:
            images = [self.pixels(reference).text for reference in prompt.example.images]
        except ImageError as error:
            raise ImageError(f'question "{prompt.example.id}": {error}') from error
        try:
            (prompt.text + prompt.opening).encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f'question "{prompt.example.id}" holds half a character, which no tokenizer takes ({error}); write the whole, or take it out'
            ) from error
        return self._ids_with(prompt, images)

    def as_sent(self, prompt: Prompt) -> str:
        """The whole conversation up to the first token that the assistant is to write; an image is one placeholder, before it becomes many."""
        return self._templated(prompt, prompt.text) + prompt.opening

    def sent_ids(self, prompt: Prompt) -> list[int]:
        """``prompt_ids`` as a server takes them, which puts its own tokens in the place of one placeholder an image."""
        return self._ids_with(prompt, [self.family.written] * len(prompt.example.images))

    def sent_image(self, reference: str) -> Image.Image:
        """The picture as a server takes it to see the same patches."""
        return self.family.fitted(self.image_processor, self.load_image(reference), self.pixels(reference).grid_thw)

    def apart(self) -> "Encoder":
        """The same for another thread, which keeps prompts and no pixels."""
        other = replace(self, tokenizer=copy.deepcopy(self.tokenizer), pinned_as=None)
        other._pixels.limit = 0
        return other

    def _templated(self, prompt: Prompt, text: str) -> str:
        return self.thoughts.before(prompt, str(self.tokenizer.apply_chat_template(turns(prompt, text), tokenize=False, add_generation_prompt=True)))

    def _ids_with(self, prompt: Prompt, images: Sequence[str]) -> list[int]:
        """The token ids, with these texts in the places of the images. What the asker wrote is text, and never a token that steers."""
        cut = self._cut_sign(prompt)
        first, *parts = self._templated(prompt, self._with_cuts(prompt, cut)).split(self.family.written)
        if len(parts) != len(images):
            raise DataError(
                f'example "{prompt.example.id}" has {len(images)} images and its prompt {len(parts)} times '
                f'"{self.family.written}"; take it out of the text, or use the chat template of the model\'s source'
            )
        text = first + "".join(image + part for image, part in zip(images, parts, strict=True)) + prompt.opening
        return [id for piece in text.split(cut) for id in self.tokenizer(piece, add_special_tokens=False)["input_ids"]]

    def _cut_sign(self, prompt: Prompt) -> str:
        """A sign for private use that the prompt does not use."""
        return next(chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in prompt.text + prompt.opening)

    def _with_cuts(self, prompt: Prompt, cut: str) -> str:
        """The user's turn, cut behind the first sign of every control token that the asker wrote: its halves are plain text."""
        theirs = prompt.asked or asked(prompt.example)
        before, found, after = prompt.text.partition(theirs)
        if not found:  # nobody knows what is the template's
            before, theirs, after = "", prompt.text, ""
        places = [match.start() + 1 for match in self._controls.finditer(theirs)]
        bounds = [0, *places, len(theirs)]
        return before + cut.join(theirs[start:end] for start, end in itertools.pairwise(bounds)) + after

    def _too_long(self, prompt: Prompt, tokens: int, room: int) -> TooLong:
        """With an image budget under which the prompt fits; one that was found before is kept where it does."""
        sizes = [self._sizes.get(reference) or self.load_image(reference).size for reference in prompt.example.images]
        text = len(self._ids_with(prompt, [""] * len(sizes)))
        largest = min(self.family.most_pixels(self.image_processor), max((max(size) ** 2 for size in sizes), default=0), self._fits)
        fits = budget_that_fits(lambda n: len(self._ids_with(prompt, [self._blank(size, n) for size in sizes])), text, self.context - room, largest)
        self._fits = fits or self._fits
        remedy = f"--max-pixels {fits} makes it fit (in training: --set max_pixels={fits})" if fits else "shorten it"
        answer = f" and {room} for its answer" if room else ""
        return TooLong(f'question "{prompt.example.id}" needs {tokens} prompt tokens{answer}, and the model reads {self.context} in all; {remedy}', fits)

    def _blank(self, size: tuple[int, int], max_pixels: int) -> str:
        """What would stand in the prompt for a picture of this size under another budget."""
        if (text := self._blanks.get((size, max_pixels))) is None:
            processor = copy.copy(self.image_processor)
            self.family.shrink(processor, max_pixels)
            text = self.family.prepare(processor, Image.new("RGB", size), self.tile_tokens).text
            self._blanks.put((size, max_pixels), text, len(text))
        return text

    def prompts(self, prompts: Sequence[Prompt]) -> PromptBatch:
        """P prompts, each once. Those of a rollout are those of the update that follows, and are put together once."""
        rows = [self.prompt_ids(prompt) for prompt in prompts]
        batch = self._batches.get(key := tuple(prompts))
        if batch is None:
            batch = self.collate(rows, [[self.pixels(reference) for reference in prompt.example.images] for prompt in prompts])
            self._batches.put(key, batch, 1)
        return batch

    def collate(self, rows: Sequence[Sequence[int]], images: Sequence[Sequence[Pixels]]) -> PromptBatch:
        """Token ids with image placeholders, and the images that fill them; equal images are stacked once."""
        unique = {image.key: image for row in images for image in row}
        index = {key: n for n, key in enumerate(unique)}
        ids_PL, mask_PL = pad(rows, self.pad_id)
        position_ids_3PL = torch.zeros(3, *ids_PL.shape, dtype=torch.long)
        for p, (ids, row) in enumerate(zip(rows, images, strict=True)):
            grids = [image.grid_thw for image in row]
            position_ids_3PL[:, p, : len(ids)] = self.family.positions(ids, self.image_id, grids, self.merge)
        return PromptBatch(
            ids_PL,
            mask_PL,
            position_ids_3PL,
            position_ids_3PL.amax((0, 2)) + 1,
            tuple(image.patches for image in unique.values()),
            torch.tensor([image.grid_thw for image in unique.values()]) if unique else None,
            tuple(unique),
            tuple(index[image.key] for row in images for image in row),
        )

    def groups(self, groups: Sequence[RolloutGroup]) -> TokenBatch:
        """Groups of any sizes as one batch: each prompt once, then all completions."""
        rows = [rollout.completion.token_ids for group in groups for rollout in group.rollouts]
        ids_RC, mask_RC = pad(rows, self.pad_id)
        prompt_of_R = torch.tensor([p for p, group in enumerate(groups) for _ in group.rollouts])
        least_R = torch.tensor([group.min_tokens for group in groups for _ in group.rollouts])
        early_RC = torch.arange(ids_RC.shape[1]) < least_R[:, None] if least_R.any() else None
        return TokenBatch(self.prompts([group.prompt for group in groups]), ids_RC, mask_RC, prompt_of_R, early_RC)


def key_of(prompt: Prompt) -> tuple[tuple[str, ...], str, str, str]:
    """What of a prompt its token ids depend on."""
    return prompt.example.images, prompt.text, prompt.opening, prompt.system


@cache
def _background() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="images")


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and their mask, both (rows, longest).

    >>> pad([[5, 6], [7]], 0)[0].tolist(), pad([[5, 6], [7]], 0)[1].tolist()
    ([[5, 6], [7, 0]], [[1, 1], [1, 0]])
    """
    ids = torch.full((len(rows), max(map(len, rows))), pad_id)
    mask = torch.zeros_like(ids)
    for r, row in enumerate(rows):
        ids[r, : len(row)] = torch.tensor(row)
        mask[r, : len(row)] = 1
    return ids, mask
