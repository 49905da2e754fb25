"""A linear layer that carries low-rank adapters (arXiv 2106.09685), taken apart.

Legend: T tokens; I inputs, O outputs; E the ranks of all adapters together.
"""

from typing import Any

import torch


def is_adapted(linear: Any) -> bool:
    """Does a linear layer carry adapters (models.adapt)?"""
    return hasattr(linear, "lora_A")


def base(linear: Any) -> Any:
    """The linear layer itself, inside its adapters."""
    return getattr(linear, "base_layer", linear)


def added(linear: Any, x_TH: torch.Tensor) -> torch.Tensor:
    """What the adapters of a linear layer add to its output; zero where there are none."""
    if not is_adapted(linear):
        return x_TH.new_zeros(len(x_TH), linear.out_features)
    return sum(linear.lora_B[name](linear.lora_A[name](x_TH)) * linear.scaling[name] for name in linear.active_adapters)


def low_rank(linear: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The adapters of a linear layer as two thin matrices, (E, I) and (O, E); E is 0 where there are none."""
    weight, names = base(linear).weight, linear.active_adapters if is_adapted(linear) else []
    down = [weight.new_zeros(0, linear.in_features), *(linear.lora_A[name].weight for name in names)]
    up = [weight.new_zeros(linear.out_features, 0), *(linear.lora_B[name].weight * linear.scaling[name] for name in names)]
    return torch.cat(down), torch.cat(up, 1)


def merged(linear: Any) -> torch.Tensor:
    """The weight (O, I) with the adapters added to it; the weight itself where there are none."""
    if not is_adapted(linear):
        return base(linear).weight
    down_EI, up_OE = low_rank(linear)
    return torch.addmm(base(linear).weight, up_OE, down_EI)
