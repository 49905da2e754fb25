"""FlexAttention's mask of a tree, worked out from its lengths: which blocks of 128 x 128 tokens see each other, and which of them wholly.

PyTorch's ``create_block_mask`` asks the mask of every pair, which takes 10 bytes x T² on the device. A tree's blocks follow
from where its rows begin and end; what is kept grows with T times the blocks that one block sees.

Legend: T tokens; B = T / 128 blocks; W most blocks that a block sees, or is seen by.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask

from medvlm_r1.models.sent import sent_together

SIDE = 128


def block_mask(
    prompts: Sequence[int], completions: Sequence[int], prompt_of: Sequence[int], device: torch.device, window: int = 0, picture_T: torch.Tensor | None = None
) -> BlockMask:
    """For prompts and completions of these lengths, one after another; ``prompt_of`` each completion's prompt. Equal to PyTorch's own.

    With a window (models.sight) some blocks more are looked into than must be, where rows of different depths share one.
    """
    pictures = None if picture_T is None else picture_T.numpy()
    some_BB, whole_BB = seen_blocks(prompts, completions, prompt_of, window, pictures)
    tables = [table for seen_BB in (some_BB & ~whole_BB, whole_BB) for table in (*_listed(seen_BB), *_listed(seen_BB.T))]
    owners = _owners(prompts, completions, prompt_of)
    limits = (*([_depths(prompts, completions, prompt_of)] if window else []), *([] if pictures is None else [pictures]))
    numbers = [torch.from_numpy(x.astype(np.int32)) for x in (*owners, *tables, *limits)]
    group_T, branch_T, kv_n, kv, q_n, q, all_kv_n, all_kv, all_q_n, all_q, *more = sent_together(numbers, device)
    total, seen = len(group_T), visible(group_T, branch_T, more[0] if window else None, None if pictures is None else more[-1], window)
    return BlockMask((total, total), kv_n, kv, all_kv_n, all_kv, q_n, q, all_q_n, all_q, BLOCK_SIZE=(SIDE, SIDE), mask_mod=seen)


def visible(
    group_T: torch.Tensor, branch_T: torch.Tensor, depth_T: torch.Tensor | None = None, picture_T: torch.Tensor | None = None, window: int = 0
) -> Callable[..., torch.Tensor]:
    """FlexAttention's question whether a query sees a key: earlier, in its group, and of the prompt or of its own branch.

    Where ``picture_T`` tells which picture a token is of (-1: none), later tokens of the same are seen, too; with a ``window``
    only those that lie less than so far back, by ``depth_T``.
    """

    def sees(_batch: torch.Tensor, _head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        own = (branch_T[key] < 0) | (branch_T[key] == branch_T[query])
        return (key <= query) & (group_T[key] == group_T[query]) & own

    def sees_pictures(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        assert picture_T is not None
        return sees(batch, head, query, key) | ((picture_T[key] >= 0) & (picture_T[key] == picture_T[query]))

    all_seen = sees if picture_T is None else sees_pictures

    def sees_near(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        assert depth_T is not None
        return all_seen(batch, head, query, key) & (depth_T[key] > depth_T[query] - window)

    return sees_near if window else all_seen


def seen_blocks(
    prompts: Sequence[int], completions: Sequence[int], prompt_of: Sequence[int], window: int = 0, picture_T: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(B, B): a block of queries sees something of a block of keys; it sees all of it.

    >>> some, whole = seen_blocks([256], [128, 64], [0, 0])  # two blocks of a prompt, one of each completion
    >>> some.astype(int).tolist()
    [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]]
    >>> whole.astype(int).tolist()  # the last block is not full, and so never whole
    [[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    """
    total = sum(prompts) + sum(completions)
    count = -(-total // SIDE)
    some_BB = np.zeros((count, count), dtype=bool)
    trunks, branches = _spans(prompts, 0), _spans(completions, sum(prompts))
    for (start, stop), trunk in [*((span, span) for span in trunks), *((span, trunks[p]) for span, p in zip(branches, prompt_of, strict=True))]:
        for first, last in (trunk, (start, stop)):
            if stop > start and last > first:
                some_BB[start // SIDE : (stop - 1) // SIDE + 1, first // SIDE : (last - 1) // SIDE + 1] = True
    some_BB &= np.tri(count, dtype=bool)
    group_T, branch_T = _owners(prompts, completions, prompt_of)
    group_B, branch_B = _common(group_T, count), _common(branch_T, count)  # -2 where a block's tokens differ
    one_group_BB = (group_B[:, None] == group_B) & (group_B >= 0)
    of_trunk_or_own_BB = (branch_B == -1) | ((branch_B[:, None] == branch_B) & (branch_B >= 0))
    whole_BB = one_group_BB & of_trunk_or_own_BB & np.tri(count, k=-1, dtype=bool)
    if picture_T is not None:
        for picture in np.unique(picture_T[picture_T >= 0]):
            [places] = (picture_T == picture).nonzero()
            blocks = slice(places[0] // SIDE, places[-1] // SIDE + 1)
            some_BB[blocks, blocks] = True
        picture_B = _common(picture_T, count)
        whole_BB |= (picture_B[:, None] == picture_B) & (picture_B >= 0)
    if window:
        depth_BS = np.pad(_depths(prompts, completions, prompt_of), (0, count * SIDE - total), mode="edge").reshape(count, SIDE)
        least_B, most_B = depth_BS.min(1), depth_BS.max(1)
        some_BB &= most_B > least_B[:, None] - window
        whole_BB &= least_B > most_B[:, None] - window
    return some_BB, whole_BB


def _depths(prompts: Sequence[int], completions: Sequence[int], prompt_of: Sequence[int]) -> np.ndarray:
    """Each token's place in its prompt and completion."""
    starts = [0] * len(prompts) + [prompts[p] for p in prompt_of]
    return np.concatenate([np.arange(start, start + length) for start, length in zip(starts, [*prompts, *completions], strict=True)])


def _spans(lengths: Sequence[int], first: int) -> list[tuple[int, int]]:
    return list(pairwise(accumulate(lengths, initial=first)))


def _owners(prompts: Sequence[int], completions: Sequence[int], prompt_of: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Each token's prompt, and its completion: -1 in a prompt."""
    group_T = np.concatenate([np.repeat(np.arange(len(prompts)), prompts), np.repeat(np.asarray(prompt_of, dtype=int), completions)])
    branch_T = np.concatenate([np.full(sum(prompts), -1), np.repeat(np.arange(len(completions)), completions)])
    return group_T, branch_T


def _common(owner_T: np.ndarray, count: int) -> np.ndarray:
    """What all tokens of a block have in common; -2 where they do not, or there are fewer than a block's."""
    blocks = np.pad(owner_T, (0, count * SIDE - len(owner_T)), constant_values=-2).reshape(count, SIDE)
    return np.where((blocks == blocks[:, :1]).all(1), blocks[:, 0], -2)


def _listed(seen_BB: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row (1, 1, B) how many are seen, and (1, 1, B, W) which, in order. W is at least 2, so that no compiler takes it for a constant."""
    number_B = seen_BB.sum(1)
    width = min(seen_BB.shape[1], max(2, int(number_B.max())))
    return number_B[None, None], (~seen_BB).argsort(1, kind="stable")[None, None, :, :width]
