"""From the host to the device that computes, without waiting: from pinned memory, and many small tensors in one copy."""

from collections.abc import Sequence

import torch


def sent(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``x`` on the device; on a GPU the copy runs behind what was asked for before. A tensor that is there already stays."""
    if device.type == "cpu" or x.device.type != "cpu":
        return x.to(device)
    return (x if x.is_pinned() else x.pin_memory()).to(device, non_blocking=True)


def sent_together(tensors: Sequence[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """Whole numbers or masks of any shapes, in one copy; a mask arrives as a mask.

    >>> [x.tolist() for x in sent_together([torch.tensor([[1], [2]]), torch.tensor([True])], torch.device("cpu"))]
    [[[1], [2]], [True]]
    """
    if device.type == "cpu":
        return list(tensors)
    flat = sent(torch.cat([x.flatten().long() for x in tensors]), device).split([x.numel() for x in tensors])
    return [part.view(x.shape).to(x.dtype) for part, x in zip(flat, tensors, strict=True)]
