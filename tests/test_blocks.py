"""FlexAttention's blocks from lengths: PyTorch's own, without asking the mask of every pair."""

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from medvlm_r1.models.blocks import _owners, block_mask, seen_blocks, visible

TREES = {
    "the paper's step": ([376] * 4, [149] * 16, [p for p in range(4) for _ in range(4)]),
    "ragged, a completion without a token": ([300, 20, 900], [0, 500, 130, 7, 256], [0, 0, 1, 2, 2]),
    "prompts alone, on the edges of blocks": ([128, 256], [], []),
    "less than a block": ([5], [3, 3], [0, 0]),
}
KINDS = ("kv", "full_kv", "q", "full_q")


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_the_blocks_are_those_of_pytorch(tree):
    prompts, completions, prompt_of = tree
    ours = block_mask(prompts, completions, prompt_of, torch.device("cpu"))
    group_T, branch_T = (torch.from_numpy(x) for x in _owners(prompts, completions, prompt_of))
    total = len(group_T)
    theirs = create_block_mask(visible(group_T, branch_T), None, None, total, total, device="cpu")
    assert ours.seq_lengths == theirs.seq_lengths
    for kind in KINDS:
        counts, indices = (getattr(ours, f"{kind}_{what}")[0, 0] for what in ("num_blocks", "indices"))
        wanted, places = (getattr(theirs, f"{kind}_{what}")[0, 0] for what in ("num_blocks", "indices"))
        assert torch.equal(counts, wanted)
        assert all(torch.equal(mine[:n], other[:n]) for mine, other, n in zip(indices, places, counts.tolist(), strict=True))


SIGHTS = {"a window": (300, ()), "pictures": (0, ((10, 300), (330, 340))), "both": (150, ((128, 512),))}


@pytest.mark.parametrize(("window", "spans"), SIGHTS.values(), ids=SIGHTS)
@pytest.mark.parametrize("tree", [TREES["ragged, a completion without a token"], ([896], [300, 260], [0, 0])], ids=["ragged", "one prompt"])
def test_windows_and_pictures(tree, window, spans):
    """No block is left out that sees something, none is taken whole that does not see all; of one prompt alone the blocks are PyTorch's own."""
    prompts, completions, prompt_of = tree if not spans else ([896], tree[1], [0] * len(tree[1]))
    total = sum(prompts) + sum(completions)
    pictures = torch.full((total,), -1)
    for n, (first, last) in enumerate(spans):
        pictures[first:last] = n
    given = (window, pictures if spans else None)
    mask = block_mask(prompts, completions, prompt_of, torch.device("cpu"), *given)
    at = torch.arange(total)
    sees = torch.nn.functional.pad(mask.mask_mod(at, at, at[:, None], at), (0, -total % 128, 0, -total % 128)).unflatten(0, (-1, 128)).unflatten(2, (-1, 128))
    some, whole = (torch.from_numpy(x) for x in seen_blocks(prompts, completions, prompt_of, window, pictures.numpy() if spans else None))
    any_seen, all_seen = sees.any(3).any(1), sees.all(3).all(1)
    assert not (any_seen & ~some).any() and not (whole & ~all_seen).any()
    assert some.sum() < len(some) ** 2 / 1.5 and whole.any()
    if len(completions) == 2:
        assert int((some & ~any_seen).sum()) <= 2 and torch.equal(whole, all_seen)


def test_its_bytes_grow_as_the_tokens_do():
    """Eight times the groups: eight times the bytes, where PyTorch's own take 64 times."""
    few, many = (block_mask([376] * n, [149] * 4 * n, [p for p in range(n) for _ in range(4)], torch.device("cpu")) for n in (4, 32))
    sizes = [sum(getattr(mask, f"{kind}_{what}").nbytes for kind in KINDS for what in ("num_blocks", "indices")) for mask in (few, many)]
    assert sizes[1] <= 8.5 * sizes[0] and sizes[1] < 64 * 1024
