"""EfficientNet-Lite0 as transformers' own EfficientNet: no squeeze-and-excite, ReLU up to 6, batch norms that are a bias.

Lite0 has no squeeze-and-excite, and transformers' network always has: its gates are set to let all through, and never learn.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from transformers import EfficientNetConfig, EfficientNetModel

OPEN = 30.0  # a sigmoid of it is 1 in every type
_TOP = {"_conv_stem": "embeddings.convolution", "_bn0": "embeddings.batchnorm", "_conv_head": "encoder.top_conv", "_bn1": "encoder.top_bn"}
_BLOCK = {
    "_expand_conv": "expansion.expand_conv", "_bn0": "expansion.expand_bn", "_depthwise_conv": "depthwise_conv.depthwise_conv",
    "_bn1": "depthwise_conv.depthwise_norm", "_project_conv": "projection.project_conv", "_bn2": "projection.project_bn",
}  # fmt: skip


def config(side: int) -> EfficientNetConfig:
    """Lite0's, for pictures of ``side`` pixels."""
    made = EfficientNetConfig(width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280, hidden_act="relu6", image_size=side)
    made.hidden_size = 1280  # what a projector behind it asks for
    return made


def lite0(file: Path, side: int) -> EfficientNetModel:
    """The tower, from the weights that the package holds; its classifier is left behind."""
    stored = torch.load(file, weights_only=True, map_location="cpu")
    tower = EfficientNetModel(config(side)).eval()
    renamed = {theirs: value for name, value in stored.items() if (theirs := called(name))}
    missing, unexpected = tower.load_state_dict(renamed, strict=False)
    assert not unexpected and all("squeeze_excite" in name for name in missing), (missing, unexpected)
    open_gates(tower)
    return tower


def called(name: str) -> str:
    """transformers' name of a weight of Lite0's; "" for the classifier's.

    >>> called("_conv_stem.weight"), called("_blocks.1._bn0.bias"), called("_fc.bias")
    ('embeddings.convolution.weight', 'encoder.blocks.1.expansion.expand_bn.bias', '')
    """
    *place, part, kind = name.split(".")
    if place:
        return f"encoder.blocks.{place[1]}.{_BLOCK[part]}.{kind}"
    return f"{_TOP[part]}.{kind}" if part in _TOP else ""


@torch.no_grad()
def open_gates(tower: Any) -> None:
    """Squeeze-and-excite that multiplies by one."""
    for block in tower.encoder.blocks:
        for part in (block.squeeze_excite.reduce, block.squeeze_excite.expand):
            part.weight.zero_()
            part.bias.zero_()
        block.squeeze_excite.expand.bias.fill_(OPEN)


def pairs(tower: Any) -> list[tuple[Any, str, str]]:
    """(module, name of a convolution in it, name of the batch norm behind it), all of them."""
    found = [(tower.embeddings, "convolution", "batchnorm"), (tower.encoder, "top_conv", "top_bn")]
    for block in tower.encoder.blocks:
        found += [(block.expansion, "expand_conv", "expand_bn")] if hasattr(block, "expansion") else []
        found += [(block.depthwise_conv, "depthwise_conv", "depthwise_norm"), (block.projection, "project_conv", "project_bn")]
    return found


def lean(tower: Any) -> Any:
    """The same function in place, to be trained on a CPU: batch norms folded into their convolutions, no gates; three times as fast."""
    for module, conv, norm in pairs(tower):
        setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
        setattr(module, norm, nn.Identity())
    for block in tower.encoder.blocks:
        block.squeeze_excite = nn.Identity()
    return tower.to(memory_format=torch.channels_last)


@torch.no_grad()
def put_back(learnt: Any, tower: Any) -> None:
    """What a lean tower has learnt, into a whole one: its batch norms do no more than add the bias."""
    for (source, conv, _), (target, _, norm) in zip(pairs(learnt), pairs(tower), strict=True):
        bias, kept = getattr(source, conv).bias, getattr(target, norm)
        getattr(target, conv).weight.copy_(getattr(source, conv).weight)
        kept.bias.copy_(bias)
        kept.weight.fill_(1.0)
        kept.running_mean.zero_()
        kept.running_var.fill_(1.0 - kept.eps)
    open_gates(tower)
