"""The vision tower's attention, batched over images of equal size.

transformers runs it image by image, which on small images costs more in calls
than in arithmetic. The result is the same: attention never crosses an image.
"""

from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

NAME = "sdpa_per_image"


def sdpa_per_image(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: None, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """Attention within each image. query, key, value: (1, heads, all patches, head size)."""
    out, start = [], 0
    for patches, images in kwargs["image_runs"]:
        stop = start + patches * images
        q, k, v = (x[0, :, start:stop].unflatten(1, (images, patches)).transpose(0, 1) for x in (query, key, value))
        out.append(F.scaled_dot_product_attention(q, k, v, scale=kwargs.get("scaling")).transpose(1, 2).flatten(0, 1))
        start = stop
    return torch.cat(out)[None], None


AttentionInterface.register(NAME, sdpa_per_image)


def runs(grid_N3: torch.Tensor) -> list[tuple[int, int]]:
    """Runs of images with equally many patches: (patches an image, images).

    >>> runs(torch.tensor([[1, 6, 6], [1, 6, 6], [1, 4, 6]]))
    [(36, 2), (24, 1)]
    """
    return [(int(n), len(list(group))) for n, group in groupby(grid_N3.prod(1).tolist())]


def patch_embed_as_matmul(visual: torch.nn.Module) -> None:
    """Replace the patch convolution by the matrix product it is (kernel = stride): 10x on CPU.

    The weight keeps its name and shape, so checkpoints do not notice.
    """
    convolution = visual.patch_embed.proj

    def forward(patches: torch.Tensor) -> torch.Tensor:
        weight = convolution.weight.flatten(1)
        return F.linear(patches.to(weight.dtype), weight, convolution.bias)

    visual.patch_embed.forward = forward
