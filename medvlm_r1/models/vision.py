"""The vision tower's attention, batched over images, or windows of images, of equal size.

transformers runs it one by one, which costs more in calls than in arithmetic.
The result is the same: attention never crosses an image, nor a window where a layer has them.
"""

import sys
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface
from transformers.activations import QuickGELUActivation

from medvlm_r1.models.fused import fused

NAME = "sdpa_per_image"


def sdpa_per_image(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: None, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """Attention within each image, or each window in a ``windowed`` layer. query, key, value: (1, heads, all patches, head size)."""
    out, start = [], 0
    for patches, images in kwargs["window_runs" if getattr(module, "windowed", False) else "image_runs"]:
        stop = start + patches * images
        q, k, v = (x[0, :, start:stop].unflatten(1, (images, patches)).transpose(0, 1) for x in (query, key, value))
        out.append(F.scaled_dot_product_attention(q, k, v, scale=kwargs.get("scaling")).transpose(1, 2).flatten(0, 1))
        start = stop
    return torch.cat(out)[None], None


AttentionInterface.register(NAME, sdpa_per_image)


def runs(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of images, or windows, with equally many patches: (patches of one, how many).

    >>> runs([36, 36, 24])
    [(36, 2), (24, 1)]
    """
    return [(size, len(list(group))) for size, group in groupby(sizes)]


def windows(grid_N3: torch.Tensor, merge: int, side: int) -> tuple[torch.Tensor, list[int]]:
    """Tokens of still images in the order of their windows, and each window's patches.

    A window has ``side`` x ``side`` tokens and less at the right and lower edge. The order of an image's windows
    is free; the narrow ones come first here, so that equal sizes make few runs.

    >>> order, sizes = windows(torch.tensor([[1, 4, 6]]), merge=2, side=2)
    >>> order.tolist(), sizes  # tokens 0 1 2 above 3 4 5: a window of 2 x 2 and one of 2 x 1
    ([2, 5, 0, 1, 3, 4], [8, 16])
    """
    orders: list[torch.Tensor] = []
    sizes: list[int] = []
    start = 0
    for _, h, w in grid_N3.tolist():
        rows, columns = h // merge, w // merge
        window = torch.arange(rows)[:, None] // side * -(-columns // side) + torch.arange(columns) // side
        tokens = window.flatten().bincount()
        rank = torch.empty_like(tokens)
        rank[tokens.argsort(stable=True)] = torch.arange(len(tokens))
        orders.append(rank[window.flatten()].argsort(stable=True) + start)
        sizes += (tokens.sort().values * merge**2).tolist()
        start += rows * columns
    return torch.cat(orders), sizes


def patch_embed_as_matmul(visual: Any) -> None:
    """Replace the patch convolution by the matrix product it is (kernel = stride): 10x on CPU.

    The weight keeps its name and shape, so checkpoints do not notice.
    """
    convolution = visual.patch_embed.proj

    def forward(patches: torch.Tensor) -> torch.Tensor:
        weight = convolution.weight.flatten(1)
        return F.linear(patches.to(weight.dtype), weight, convolution.bias)

    visual.patch_embed.forward = forward


def fuse_small(visual: Any) -> None:
    """On a GPU one kernel each for a tower's turns (transformers takes fourteen) and its quick GELU (three): half of its time is no product."""
    module: Any = sys.modules[type(visual).__module__]
    if not hasattr(module.apply_rotary_pos_emb_vision, "__wrapped__"):
        module.apply_rotary_pos_emb_vision = fused(module.apply_rotary_pos_emb_vision)
    gates: list[Any] = [part for part in visual.modules() if isinstance(part, QuickGELUActivation)]
    for gate in gates:
        gate.forward = quick_gelu


@fused
def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    """As transformers writes it.

    >>> quick_gelu(torch.tensor([0.0, 1.0]))
    tensor([0.0000, 0.8458])
    """
    return x * torch.sigmoid(1.702 * x)
