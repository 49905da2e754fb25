"""The tower learns the labels: its later blocks under a linear head that is thrown away.

Each picture goes through the early blocks once, as it is or mirrored; what comes out is moved and blurred a little in each step.

Legend: B pictures of a batch; K classes; H channels.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from medvlm_r1.experiments import real_eyes
from medvlm_r1.experiments.nano_base import shape
from medvlm_r1.experiments.real_model import as_pixels
from medvlm_r1.experiments.real_pictures import Gallery, one_of
from medvlm_r1.experiments.real_stages import Log


@dataclass(frozen=True)
class TowerStage:
    """``early`` blocks stay as they are; ``drawn`` is the share of drawn pictures in a batch.

    >>> TowerStage().steps
    150
    """

    steps: int = 150
    batch: int = 48
    lr: float = 4e-4
    head_lr: float = 4e-3
    early: int = 5
    drawn: float = 0.25


def learn(tower: Any, gallery: Gallery, stage: TowerStage, seed: int, log: Log) -> None:
    """Train ``tower`` in place."""
    torch.manual_seed(seed)
    lean, keys = real_eyes.lean(deepcopy(tower)), sorted(set(gallery.classes))
    early = _early(lean, gallery, stage.early)
    target_N = torch.tensor([keys.index(known) for known in gallery.classes])
    same_KK = torch.tensor([[group == other for other, _ in keys] for group, _ in keys])
    head = torch.nn.Linear(tower.config.hidden_size, len(keys))
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    learning = [p for block in lean.encoder.blocks[stage.early :] for p in block.parameters()] + list(lean.encoder.top_conv.parameters())
    optimizer = torch.optim.AdamW([{"params": learning, "lr": stage.lr}, {"params": head.parameters(), "lr": stage.head_lr}], weight_decay=0.02)
    wanted = (stage.lr, stage.head_lr)
    for step in range(stage.steps):
        rng = np.random.default_rng([seed, step])
        classes = [gallery.kind(rng, stage.drawn) for _ in range(stage.batch)]
        rows = torch.tensor([one_of(rng, each) for each in classes])
        seen_BH = _late(lean, _moved(rng, early[rows].float()), stage.early).mean((2, 3))
        kept = torch.from_numpy(rng.random(seen_BH.shape, dtype=np.float32) > 0.2) / 0.8  # dropout, drawn by the step
        logits_BK = head(seen_BH * kept).masked_fill(~same_KK[target_N[rows]], -1e9)
        loss = F.cross_entropy(logits_BK, target_N[rows])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        for group, lr in zip(optimizer.param_groups, wanted, strict=True):
            group["lr"] = lr * shape(step / stage.steps)
        optimizer.step()
        optimizer.zero_grad()
        right = (logits_BK.argmax(1) == target_N[rows]).float().mean().item()
        log({"stage": "tower", "step": step, "of": stage.steps, "loss": loss.item(), "right": right})
    real_eyes.put_back(lean, tower)


def _early(lean: Any, gallery: Gallery, blocks: int) -> torch.Tensor:
    """What comes out of the early blocks, in half precision; every second picture that may be is mirrored."""
    found = []
    with torch.no_grad():
        for start in range(0, len(gallery.grey_NSS), 32):
            rows = range(start, min(start + 32, len(gallery.grey_NSS)))
            grey = np.stack([gallery.grey_NSS[row][:, ::-1] if row % 2 and gallery.mirrored(row) else gallery.grey_NSS[row] for row in rows])
            x = lean.embeddings(as_pixels(grey).contiguous(memory_format=torch.channels_last))
            for block in lean.encoder.blocks[:blocks]:
                x = block(x)
            found.append(x.half())
    return torch.cat(found)


def _late(lean: Any, x: torch.Tensor, blocks: int) -> torch.Tensor:
    for block in lean.encoder.blocks[blocks:]:
        x = block(x)
    encoder = lean.encoder
    return encoder.top_activation(encoder.top_bn(encoder.top_conv(x)))


def _moved(rng: np.random.Generator, x: torch.Tensor) -> torch.Tensor:
    """All pictures of the batch by up to two cells, what leaves on one side enters on the other; and a little noise."""
    down, across = rng.integers(-2, 3, 2).tolist()
    noise = torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32))
    return (torch.roll(x, (down, across), (2, 3)) * (1 + 0.1 * noise)).contiguous(memory_format=torch.channels_last)
