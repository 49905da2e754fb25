"""What one kind of vision-language model does its own way, as plain values and functions.

Everything else is common: models.encode and models.policy ask the family and
know no name of one. models.families lists them all.

Legend: T tokens; L tokens of one prompt; N images; I tokens of one image; H hidden size;
F what the decoder gets of an image token: its embedding, then what is added behind each of the first layers.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Pixels:
    """One preprocessed image.

    patches: its rows of what the vision tower takes: patches, or whole tiles.
    grid_thw: how they lie (time, height, width); the product is their number.
    key: hash of the content.
    text: what stands for the image in the prompt.

    >>> Pixels.of(torch.zeros(4, 2), (1, 2, 2), "<|image_pad|>").key == Pixels.of(torch.zeros(4, 2), (1, 4, 1), "<|image_pad|>").key
    False
    """

    patches: torch.Tensor
    grid_thw: Grid
    key: str
    text: str = ""

    @staticmethod
    def of(patches: torch.Tensor, grid_thw: Grid, text: str) -> "Pixels":
        """With its hash. The grid takes part: blank images of two shapes have equal patches."""
        content = hashlib.sha256(repr(grid_thw).encode())
        content.update(patches.numpy().tobytes())
        return Pixels(patches, grid_thw, content.hexdigest()[:16], text)


def counted(ids: Sequence[int], image_id: int, grids: Sequence[Grid], merge: int) -> torch.Tensor:
    """Positions (3, L) of a decoder that just counts: the same three times.

    >>> counted([1, 9, 2], 9, [(1, 1, 1)], 1).tolist()
    [[0, 1, 2], [0, 1, 2], [0, 1, 2]]
    """
    return torch.arange(len(ids)).expand(3, -1)


def turned(text: Any, positions_3T: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines (T, D) of the decoder's rotary positions, the same in layers of every kind."""
    cos, sin = text.rotary_emb(next(text.parameters()), positions_3T[:1])
    return cos[0], sin[0]


@dataclass(frozen=True)
class Family:
    """A kind of vision-language model that transformers knows; its decoder's layers are those of models.decoder.

    image_token: what stands where an image's embeddings go.
    banned: tokens that no completion may contain: a sampled placeholder would ask for an image.
    text, vision: modules of ``model.model``: the decoder, and all that turns an image into embeddings.
    prepare: (image processor, picture, tokens of a tile) to Pixels.
    embed: (model, patches of N images, grid_N3) to each image's (I, F, H).
    positions: (ids, image id, grids, patches that merge along a side) to (3, L).
    rotary: (decoder, positions_3T, a layer's kind of attention) to cosines and sines (T, D).
    adapt: changes a fresh model in place to compute the same faster.
    most_pixels, shrink: reads and lowers the most pixels of an image that a processor lets through.
    tile_tokens: from the configuration, where the picture alone does not tell how many tokens it takes.
    processor: from the configuration, what transformers' processor must be told to write the same prompt; nothing for Qwen's.
    placeholder: what the chat template writes for an image, where that is not the image token.
    whole_pictures: see models.sight.
    fitted: (image processor, picture, grid) to a picture that any processor of the family leaves as it is; else as it came.

    >>> from medvlm_r1.models.qwen import QWEN2_VL
    >>> QWEN2_VL.image_token, QWEN2_VL.vision
    ('<|image_pad|>', ('visual',))
    """

    model_class: Any
    image_processor_class: Any
    image_token: str
    banned: tuple[str, ...]
    text: str
    vision: tuple[str, ...]
    prepare: Callable[[Any, Image.Image, int], Pixels]
    embed: Callable[[Any, torch.Tensor, torch.Tensor], Sequence[torch.Tensor]]
    most_pixels: Callable[[Any], int]
    shrink: Callable[[Any, int], None]
    positions: Callable[[Sequence[int], int, Sequence[Grid], int], torch.Tensor] = counted
    rotary: Callable[[Any, torch.Tensor, str], tuple[torch.Tensor, torch.Tensor]] = turned
    adapt: Callable[[Any], None] = lambda model: None
    tile_tokens: Callable[[Any], int] = lambda config: 0
    processor: Callable[[Any], dict[str, Any]] = lambda config: {}
    placeholder: str = ""
    whole_pictures: bool = False
    fitted: Callable[[Any, Image.Image, Grid], Image.Image] = lambda processor, image, grid: image

    @property
    def written(self) -> str:
        """What the chat template writes for an image."""
        return self.placeholder or self.image_token

    def decoder(self, model: Any) -> Any:
        """The text decoder's module of transformers, which holds the weights."""
        return getattr(model.model, self.text)

    def towers(self, model: Any) -> list[Any]:
        """The modules between a picture and its embeddings."""
        return [getattr(model.model, name) for name in self.vision]
