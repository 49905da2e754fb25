"""One kernel instead of many for chains of small operations, on a GPU."""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, compiled at its first use on a GPU; elsewhere as it stands.

    Without a compiler (no Triton) it runs as it stands there too.
    """

    @cache
    def compiled() -> Callable[..., Any]:
        return torch.compile(function, dynamic=True) if torch.utils._triton.has_triton() else function

    @wraps(function)
    def call(first: torch.Tensor, *rest: Any) -> Any:
        alone = first.is_cuda and not torch.compiler.is_compiling()  # else it is a part of what is being compiled
        return (compiled() if alone else function)(first, *rest)

    return call
