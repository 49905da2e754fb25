"""Products of few rows: few kinds of them, whatever the number of rows, and the numbers that a product of these rows alone has."""

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from torch.utils._python_dispatch import TorchDispatchMode

from medvlm_r1.models import packed
from medvlm_r1.models.packed import Matrix, _can_reorder, for_few

MANY = 64


class Sizes(TorchDispatchMode):
    """Notes with how many rows oneDNN is asked for a product."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "_linear_pointwise" in str(func):
            self.rows.append(len(args[0]))
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(not _can_reorder(torch.float32), reason="no oneDNN here")
def test_few_kinds_of_products_serve_all_numbers_of_rows():
    """oneDNN keeps code for every number of rows: 64 numbers of the four matrices of a layer took 141 MB."""
    torch.manual_seed(0)
    matrix, x = Matrix([torch.nn.Linear(24, 40)]), torch.randn(MANY, 24)
    matrix.load(MANY)
    with torch.no_grad(), Sizes() as met:
        found = [matrix(x[:rows]) for rows in range(1, MANY + 1)]
    assert sorted(set(met.rows)) == [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64]
    wanted = F.linear(x, matrix.parts[0].weight, matrix.bias_O)
    for rows, y in enumerate(found, 1):
        assert y.shape == (rows, 40) and torch.allclose(y, wanted[:rows], atol=1e-5)


@pytest.mark.skipif(not _can_reorder(torch.float32), reason="no oneDNN here")
def test_adapters_are_merged_into_the_copy_that_is_reordered_and_follow_them_when_they_learn():
    torch.manual_seed(0)
    layer = torch.nn.Linear(24, 40)
    adapted = inject_adapter_in_model(LoraConfig(r=3, lora_alpha=6, target_modules=["0"], init_lora_weights=False), torch.nn.Sequential(layer))[0]
    matrix, x = Matrix([adapted]), torch.randn(8, 24)
    for _ in range(2):
        with torch.no_grad(), Sizes() as met:
            matrix.load(8)
            assert torch.allclose(matrix(x), adapted(x), atol=1e-6) and not torch.allclose(matrix(x), layer(x), atol=1e-2)
            adapted.lora_B["default"].weight.add_(1.0)
        assert met.rows == [8, 8] and matrix.down_EI is None and matrix.weight_OI is None  # no thin product beside it, no second copy


@pytest.mark.skipif(not _can_reorder(torch.float32), reason="no oneDNN here")
def test_a_small_head_stays_as_it_is_and_a_large_one_is_reordered(monkeypatch):
    """So that what was measured with the embedded model stays, digit for digit."""
    head, x = torch.nn.Linear(24, 40, bias=False), torch.randn(8, 24)
    assert for_few(head, 8) is head
    monkeypatch.setattr(packed, "WIDE", 24 * 40)
    with torch.no_grad(), Sizes() as met:
        assert torch.allclose(for_few(head, 8)(x), head(x), atol=1e-6) and met.rows == [8]
