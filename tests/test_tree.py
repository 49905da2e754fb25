"""Who attends to whom: the padded form and FlexAttention against one dense mask."""

import pytest
import torch
import torch._dynamo.config as dynamo
from torch.nn.attention.flex_attention import flex_attention

from medvlm_r1.models import tree as module
from medvlm_r1.models.tree import Rows, Tree

Q, K, D = 4, 2, 16

TREES = {
    "one group, equal lengths": ([5], [3, 3], [0, 0]),
    "ragged": ([5, 2, 9], [4, 1, 6, 2, 2], [0, 0, 1, 2, 2]),
    "a completion without a token to attend from": ([3, 4], [0, 2, 0], [0, 1, 1]),
    "prompts alone": ([3, 6], [], []),
}


SIGHTS = {"all": (0, False), "a window": (3, False), "whole pictures": (0, True), "both": (3, True), "a window as wide as a row": (15, True)}


def with_sight(prompts, completions, prompt_of, window, whole):
    """Pictures of four tokens behind the first of each prompt that has room for one."""
    prompts, completions, prompt_of_R = (torch.tensor(x, dtype=torch.long) for x in (prompts, completions, prompt_of))
    rows, pictures = Rows(prompts), None
    if whole:
        pictures = torch.where((rows.place_T > 0) & (rows.place_T < 5) & (prompts[rows.row_T] > 4), rows.row_T, -1)
    return Tree(rows, Rows(completions), prompt_of_R, (window,), pictures)


@pytest.fixture(params=SIGHTS.values(), ids=SIGHTS)
def sight(request):
    return request.param


@pytest.fixture(params=TREES.values(), ids=TREES)
def tree(request, sight):
    return with_sight(*request.param, *sight)


@pytest.fixture
def qkv(tree):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(tree.total, heads, D, generator=generator, requires_grad=True) for heads in (Q, K, K)]


def dense(tree, q, k, v):
    """Scores of all pairs, masked by ``sees``."""
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    scores = q @ k.repeat_interleave(Q // K, 0).transpose(1, 2) * D**-0.5
    share = scores.masked_fill(~tree.sees, -torch.inf).softmax(-1)
    return (share @ v.repeat_interleave(Q // K, 0)).transpose(0, 1).flatten(1)


def test_sees_by_hand():
    tree = Tree(Rows(torch.tensor([2, 1])), Rows(torch.tensor([1, 1, 2])), torch.tensor([0, 0, 1]))
    rows = ["1......", "11.....", "..1....", "11.1...", "11..1..", "..1..1.", "..1..11"]
    assert tree.sees.int().tolist() == [[int(cell == "1") for cell in row] for row in rows]


def test_a_window_goes_by_the_places_in_a_completion_and_its_prompt():
    """A picture at the places 1 to 4 of 6, completions of 3 and 2: each token sees itself, two before it, and all that comes of its own picture."""
    rows = [
        "1..........", "11111......", "11111......", ".1111......", "..111......", "...111.....",
        "....111....", ".....111...", "......111..", "....11...1.", ".....1...11",
    ]  # fmt: skip
    assert with_sight([6], [3, 2], [0, 0], 3, True).sees.int().tolist() == [[int(cell == "1") for cell in row] for row in rows]


def test_the_padded_form_is_exact(tree, qkv):
    weights = torch.randn(tree.total, Q * D, generator=torch.Generator().manual_seed(1))
    ours, theirs = tree.attend(0, *qkv), dense(tree, *qkv)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    for a, b in zip(torch.autograd.grad((ours * weights).sum(), qkv), torch.autograd.grad((theirs * weights).sum(), qkv), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_has_the_same_mask(tree, qkv):
    """What a GPU runs, here without a compiler and so without gradients."""
    qkv = [x.detach() for x in qkv]
    torch.testing.assert_close(tree.masked(*qkv, flex_attention, tree._window(0)), dense(tree, *qkv), atol=1e-6, rtol=1e-5)


def test_padding_and_its_inverse_are_each_others_gradient():
    rows = Rows(torch.tensor([2, 0, 3]), at_least=4)
    flat = torch.randn(5, 2, requires_grad=True, dtype=torch.float64)
    assert rows.pad(flat).shape == (3, 4, 2)
    assert torch.equal(rows.flat(rows.pad(flat)), flat)
    assert torch.autograd.gradcheck(rows.pad, flat) and torch.autograd.gradcheck(lambda x: rows.flat(rows.pad(x) * 2), flat)


def test_flex_attention_may_have_a_graph_for_each_of_several_models():
    """A model has four to eight of them; behind Dynamo's limit it would run as it stands, with all scores in memory."""
    with dynamo.patch(recompile_limit=8):
        module._flex.cache_clear()
        module._flex()
        assert dynamo.recompile_limit >= 3 * 8
    module._flex.cache_clear()
