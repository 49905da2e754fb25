"""What a pass over prompts and completions needs where it is computed: made on the host, sent in one copy, once for all models that go over a batch.

Legend: P prompts; R completion rows, C completion tokens; T tokens of a pass one after another; W tokens whose state
is wanted; N completion tokens that are real; I image tokens.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TypeVar

import torch

from medvlm_r1.models.sent import sent_together
from medvlm_r1.models.sight import PLAIN, Sight, pictures
from medvlm_r1.models.tree import Rows, Tree
from medvlm_r1.types import PromptBatch, TokenBatch

T = TypeVar("T")


@dataclass(frozen=True)
class Pass:
    """Tokens, positions, images' places and who attends to whom; all on one device.

    wanted_W: tokens whose last state is wanted; None for all.
    """

    prompts: PromptBatch
    tree: Tree
    ids_T: torch.Tensor
    positions_3T: torch.Tensor
    places_I: torch.Tensor
    wanted_W: torch.Tensor | None = None


@dataclass(frozen=True)
class Scored(Pass):
    """A pass over completions too, in order to score them.

    predictor_N: of the wanted states, the one from which each completion token is predicted.
    target_N: that token; cell_N: its place in the flattened (R, C); early_N: the completion could not end there yet.
    """

    predictor_N: torch.Tensor = torch.zeros(0, dtype=torch.long)
    target_N: torch.Tensor = torch.zeros(0, dtype=torch.long)
    cell_N: torch.Tensor = torch.zeros(0, dtype=torch.long)
    early_N: torch.Tensor | None = None


def over_prompts(batch: PromptBatch, image_id: int, device: torch.device, sight: Sight = PLAIN, at_least: int = 0, last_alone: bool = False) -> Pass:
    """``at_least``: how far keys are to be padded; ``last_alone``: no state but each prompt's last is wanted."""
    known = batch.placed.get(key := (device, at_least, last_alone))
    if known is None:
        rows = Rows(batch.lengths_P, at_least, device)
        ids_T, positions_3T = _prompt_tokens(batch)
        tree = Tree.of_prompts(rows, sight.windows, _pictures(ids_T, image_id, rows, sight))
        parts = [ids_T, positions_3T, _places(ids_T, image_id, batch), rows.last_N]
        ids_T, positions_3T, places_I, last_P = sent_together(parts, device)
        known = _keep(batch, key, Pass(batch, tree, ids_T, positions_3T, places_I, last_P if last_alone else None))
    return known


def over_completions(batch: TokenBatch, image_id: int, device: torch.device, sight: Sight = PLAIN) -> Scored:
    """Prompts once, then every completion but for its last token, which predicts nothing."""
    known = batch.placed.get(device)
    if known is not None:
        return known
    ids_T, positions_3T = _prompt_tokens(batch.prompts)
    real_RC, after_RC = batch.mask_RC.bool(), batch.mask_RC[:, 1:].bool()
    prompts, completions = (Rows(lengths, device=device) for lengths in (batch.prompts.lengths_P, after_RC.sum(1)))
    tree = Tree(prompts, completions, batch.prompt_of_R, sight.windows, _pictures(ids_T, image_id, prompts, sight))
    steps_RC = batch.prompts.next_position_P[batch.prompt_of_R, None] + torch.arange(after_RC.shape[1])
    ids_T = torch.cat([ids_T, batch.ids_RC[:, :-1][after_RC]])
    positions_3T = torch.cat([positions_3T, steps_RC[after_RC].expand(3, -1)], 1)
    wanted_W = torch.cat([prompts.last_N, torch.arange(prompts.total, len(ids_T))])
    predictor_N = predecessors(batch.prompt_of_R, len(prompts.lengths_N), completions)
    parts = [ids_T, positions_3T, _places(ids_T, image_id, batch.prompts), wanted_W, predictor_N, batch.ids_RC[real_RC], real_RC.flatten().nonzero()[:, 0]]
    if batch.early_RC is not None:
        parts.append(batch.early_RC[real_RC])
    return _keep(batch, device, Scored(batch.prompts, tree, *sent_together(parts, device)))


def _keep(batch: PromptBatch | TokenBatch, key: Hashable, made: T) -> T:
    batch.placed[key] = made
    return made


def _pictures(ids_T: torch.Tensor, image_id: int, prompts: Rows, sight: Sight) -> torch.Tensor | None:
    return pictures(ids_T == image_id, prompts.row_T) if sight.whole_pictures else None


def _places(ids_T: torch.Tensor, image_id: int, prompts: PromptBatch) -> torch.Tensor:
    """Where image tokens lie; a text that happens to hold one has no image."""
    return (ids_T == image_id).nonzero()[:, 0] if prompts.slots else ids_T[:0]


def _prompt_tokens(batch: PromptBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (T,) and positions (3, T) of all prompts, one after another."""
    real_PL = batch.mask_PL.bool()
    return batch.ids_PL[real_PL], batch.position_ids_3PL[:, real_PL]


def predecessors(prompt_of_R: torch.Tensor, prompts: int, completions: Rows) -> torch.Tensor:
    """For each completion token in turn, which state predicts it: the prompts' last ones come first, then every completion's.

    >>> predecessors(torch.tensor([0, 1]), 2, Rows(torch.tensor([0, 2]))).tolist()  # lengths 1 and 3
    [0, 1, 2, 3]
    """
    own = (prompts + torch.arange(completions.total)).split(completions.lengths_N.tolist())
    return torch.cat([part for p, states in zip(prompt_of_R.split(1), own, strict=True) for part in (p, states)])
