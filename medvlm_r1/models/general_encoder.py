"""Questions to tensors by a model's own processor: any model, a prompt at a time.

What the processor gives is handed to the model as it is; nobody here knows what it holds but its token ids.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Encoding
from transformers import BatchEncoding

from medvlm_r1.errors import DataError, TooLong
from medvlm_r1.models import processors
from medvlm_r1.models.encode import Encoder, key_of, pad
from medvlm_r1.models.family import Pixels
from medvlm_r1.models.kept import Kept
from medvlm_r1.types import Prompt, PromptBatch

KEPT_INPUT_BYTES = 2**31
Inputs = dict[str, Any]
MEDIA = re.compile("image|img|video|vision|audio", re.IGNORECASE)


class Cutting:
    """A tokenizer that takes the text in pieces where ``cut`` stands, so that no control token arises over a cut."""

    def __init__(self, tokenizer: Any) -> None:
        self.whole, self.cut = tokenizer, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)

    def __len__(self) -> int:
        return len(self.whole)

    def __call__(self, text: str | Sequence[str], **_: Any) -> BatchEncoding:
        """Token ids alone, with their places in the text: nothing is added, padded or cut off."""
        rows = [self._encode(row.split(self.cut) if self.cut else [row]) for row in ([text] if isinstance(text, str) else text)]
        return BatchEncoding({"input_ids": [row.ids for row in rows], "attention_mask": [row.attention_mask for row in rows]}, rows)

    def _encode(self, pieces: Sequence[str]) -> Encoding:
        return Encoding.merge([self.whole.backend_tokenizer.encode(piece, add_special_tokens=False) for piece in pieces], growing_offsets=True)


@dataclass
class GeneralEncoder(Encoder):
    """An Encoder for a model without a family of its own. ``processor``: around ``tokenizer``; ``source``: the folder that it came from.

    A picture is seen with at most ``max_pixels``, made smaller before the processor has it.
    """

    processor: Any = None
    source: Path = Path()
    max_pixels: int = 0
    _pictures: Kept[Image.Image] = field(default_factory=lambda: Kept(KEPT_INPUT_BYTES), init=False)
    _inputs: Kept[Inputs] = field(default_factory=lambda: Kept(KEPT_INPUT_BYTES), init=False)
    _axes: dict[str, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.processor.tokenizer = Cutting(self.tokenizer)

    @cached_property
    def placeholders(self) -> list[int]:
        """Ids of the tokenizer's own tokens whose names speak of images, films or sound: where they stand, no text does."""
        return sorted(id for token, id in self.tokenizer.get_added_vocab().items() if MEDIA.search(token))

    def save(self, out: Path) -> None:
        """Tokenizer and processor, for ``load``."""
        self.tokenizer.save_pretrained(out)
        processors.copy_settings(self.source, out)

    def picture(self, reference: str) -> Image.Image:
        """The image behind a reference, RGB, of at most ``max_pixels``."""
        image = self._pictures.get(reference)
        if image is None:
            image = within(self.load_image(reference).convert("RGB"), self.max_pixels)
            self._pictures.put(reference, image, 3 * image.width * image.height)
        return image

    def pixels(self, reference: str) -> Pixels:
        """Known by its hash; its ``patches`` hold nothing, and are about as many as those of a tower with patches of 14."""
        image = self.picture(reference)
        content = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()[:16]
        rows, columns = math.ceil(image.height / 14), math.ceil(image.width / 14)
        return Pixels(torch.empty(rows * columns, 0), (1, rows, columns), content)

    def seen(self, prompt: Prompt) -> int:
        """See Encoder.seen."""
        made = [value for name, value in self.inputs(prompt).items() if name.startswith("pixel_values")]
        return sum(part.numel() for value in made for part in (value if isinstance(value, list) else [value]))

    def hold(self, image: Image.Image) -> str:
        """See Encoder.hold."""
        picture = within(image.convert("RGB"), self.max_pixels)
        reference = f"memory:{hashlib.sha256(f'{picture.size}'.encode() + picture.tobytes()).hexdigest()[:16]}"
        self._sizes.put(reference, picture.size, 1)
        self._pictures.put(reference, picture, 3 * picture.width * picture.height)
        return reference

    def keep_at_most(self, n_bytes: int) -> None:
        """See Encoder.keep_at_most."""
        super().keep_at_most(n_bytes)
        self._pictures.limit = self._inputs.limit = n_bytes

    def forget(self) -> None:
        """See Encoder.forget."""
        super().forget()
        self._pictures.clear()
        self._inputs.clear()

    def let_go(self, prompt: Prompt, references: Sequence[str]) -> list[str]:
        """See Encoder.let_go."""
        self._inputs.drop(key_of(prompt))
        for reference in references:
            self._pictures.drop(reference)
        return super().let_go(prompt, references)

    def read_ahead(self, examples: Sequence[Any]) -> None:
        """Nothing is prepared before it is needed."""

    def inputs(self, prompt: Prompt) -> Inputs:
        """All that the model's forward takes of a prompt, by name."""
        found = self._inputs.get(key := key_of(prompt))
        if found is None:
            found = self._process(prompt)
            self._inputs.put(key, found, sum(value.nbytes for value in found.values() if torch.is_tensor(value)))
        return found

    def rows(self, prompt: Prompt, count: int) -> Inputs:
        """The same of ``count`` rows that all begin with this prompt."""
        first = self.inputs(prompt)
        unknown = [name for name in first if name not in self._axes]
        if unknown:
            two = self._process(prompt, rows=2)
            self._axes |= {name: axis_of(first[name], two[name]) for name in unknown}
        return {name: torch.cat([value] * count, self._axes[name]) if torch.is_tensor(value) else list(value) * count for name, value in first.items()}

    def _process(self, prompt: Prompt, rows: int = 1) -> Inputs:
        cut = self._cut_sign(prompt)
        pictures = [self.picture(reference) for reference in prompt.example.images]
        text = self._templated(prompt, self._with_cuts(prompt, cut)) + prompt.opening
        self.processor.tokenizer.cut = cut
        try:
            made = self.processor(text=[text] * rows, **({"images": [pictures] * rows} if pictures else {}), return_tensors="pt")
        except (ValueError, TypeError, IndexError, KeyError, RuntimeError) as error:
            why = " ".join(str(error).split())[:200]
            raise DataError(f'question "{prompt.example.id}" cannot be put to this model by its own processor ({why}); change it, or drop it') from error
        finally:
            self.processor.tokenizer.cut = ""
        return {name: value for name, value in made.items() if value is not None}

    def _ids_with(self, prompt: Prompt, images: Sequence[str]) -> list[int]:
        ids: list[int] = self.inputs(prompt)["input_ids"][0].tolist()
        return ids

    def _too_long(self, prompt: Prompt, tokens: int, room: int) -> TooLong:
        needs = f"{tokens} prompt tokens" + (f" and {room} for its answer" if room else "")
        return TooLong(f'question "{prompt.example.id}" needs {needs}, and the model reads {self.context} in all; lower --max-pixels, or shorten it', None)

    def prompts(self, prompts: Sequence[Prompt]) -> PromptBatch:
        """P prompts; what the model's own forward takes of them, ``rows`` says when it is needed."""
        rows = [self.prompt_ids(prompt) for prompt in prompts]
        ids_PL, mask_PL = pad(rows, self.pad_id)
        lengths_P = mask_PL.sum(1)
        return PromptBatch(ids_PL, mask_PL, ids_PL.new_zeros(3, *ids_PL.shape), lengths_P, (), None, whole=tuple(prompts))


def axis_of(one: Any, two: Any) -> int:
    """Along which axis a processor lays rows one after another, seen from what it makes of one row and of two.

    >>> axis_of(torch.zeros(3, 4), torch.zeros(6, 4)), axis_of(torch.zeros(1, 3, 14, 672), torch.zeros(1, 3, 14, 1344))
    (0, 3)
    """
    if not torch.is_tensor(one):
        return 0
    return next((axis for axis, (a, b) in enumerate(zip(one.shape, two.shape, strict=True)) if a != b), 0)


def continued(rows: Mapping[str, Any], ids_RC: torch.Tensor, mask_RC: torch.Tensor) -> Inputs:
    """R rows of one prompt, each with its completion behind it; what marks tokens by kind marks these as text.

    >>> rows = {"input_ids": torch.tensor([[5, 9], [5, 9]]), "token_type_ids": torch.tensor([[0, 1], [0, 1]])}
    >>> more = continued(rows, torch.tensor([[7], [8]]), torch.ones(2, 1))
    >>> more["input_ids"].tolist(), more["token_type_ids"].tolist()
    ([[5, 9, 7], [5, 9, 8]], [[0, 1, 0], [0, 1, 0]])
    """
    shape = rows["input_ids"].shape
    tail = {"input_ids": ids_RC, "attention_mask": mask_RC}

    def longer(name: str, value: Any) -> Any:
        is_by_token = torch.is_tensor(value) and value.shape == shape
        return torch.cat([value, tail.get(name, torch.zeros_like(ids_RC)).to(value)], 1) if is_by_token else value

    return {name: longer(name, value) for name, value in rows.items()}


def within(image: Image.Image, max_pixels: int) -> Image.Image:
    """Made smaller where it is larger than that; 0: as it is.

    >>> within(Image.new("RGB", (400, 100)), 10_000).size
    (200, 50)
    """
    if not max_pixels or image.width * image.height <= max_pixels:
        return image
    scale = math.sqrt(max_pixels / (image.width * image.height))
    return image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))), Image.Resampling.BICUBIC)
