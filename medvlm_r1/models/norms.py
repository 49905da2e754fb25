"""RMSNorms of transformers (Zhang and Sennrich 2019, arXiv 1910.07467): where a decoder layer has them, and what they compute.

Legend: T tokens; H hidden size.
"""

from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from medvlm_r1.models.fused import fused

SANDWICH = frozenset({"pre_feedforward_layernorm", "post_feedforward_layernorm"})


class Norms(NamedTuple):
    """A layer's norms by their place: LLaMA's kind has one before each half, Gemma's one behind each, too (arXiv 2408.00118, 2).

    >>> layer = SimpleNamespace(input_layernorm="a", post_attention_layernorm="b")
    >>> Norms.of(layer)
    Norms(before_attention='a', behind_attention=None, before_mlp='b', behind_mlp=None)
    """

    before_attention: Any
    behind_attention: Any | None
    before_mlp: Any
    behind_mlp: Any | None

    @staticmethod
    def of(layer: Any) -> "Norms":
        """Of a decoder layer of transformers, which calls two different norms by one name."""
        if not hasattr(layer, "pre_feedforward_layernorm"):
            return Norms(layer.input_layernorm, None, layer.post_attention_layernorm, None)
        return Norms(layer.input_layernorm, layer.post_attention_layernorm, layer.pre_feedforward_layernorm, layer.post_feedforward_layernorm)


def normed(x_TH: torch.Tensor, norm: Any) -> torch.Tensor:
    """A norm of transformers where gradients flow; as it is where there is none.

    On a GPU in one kernel instead of eight, which keeps no float32 copy for the backward pass. On a CPU the module itself is faster.
    """
    if norm is None:
        return x_TH
    return rms_norm(x_TH, norm) if x_TH.is_cuda else norm(x_TH)


def rms_norm(x: torch.Tensor, norm: Any) -> torch.Tensor:
    """What a norm module of transformers computes, in one call; as it is where there is none."""
    if norm is None:
        return x
    if hasattr(norm, "variance_epsilon"):
        return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)
    return around_one(x, norm.weight, norm.eps)


@fused
def around_one(x: torch.Tensor, weight_H: torch.Tensor, eps: float) -> torch.Tensor:
    """Gemma's: the weight is what is added to one, and all is done in float32.

    >>> around_one(torch.tensor([[3.0, 3.0]]), torch.tensor([0.0, 1.0]), 0.0)
    tensor([[1., 2.]])
    """
    return F.rms_norm(x.float(), (x.shape[-1],), 1.0 + weight_H.float(), eps).type_as(x)


def computed(norm: Any) -> bool:
    """Is a norm module what ``rms_norm`` takes it for? Seen from what it makes of a few numbers."""
    if not (hasattr(norm, "weight") and (hasattr(norm, "variance_epsilon") or hasattr(norm, "eps"))):
        return False
    x, weight = torch.linspace(1, 3, len(norm.weight))[None], torch.linspace(0.5, 2, len(norm.weight))
    theirs = torch.func.functional_call(norm, {name: weight for name, _ in norm.named_parameters()}, (x,))
    name = "variance_epsilon" if hasattr(norm, "variance_epsilon") else "eps"
    return torch.allclose(theirs, rms_norm(x, SimpleNamespace(weight=weight, **{name: getattr(norm, name)})))
