"""How many kernels a captured decode step takes for each layer of Qwen2-VL-2B, as PyTorch's compiler would launch them on a GPU."""

from types import SimpleNamespace

import pytest
import scheduled
import torch

from medvlm_r1.models.captured import Captured
from medvlm_r1.models.decoder import Rotary
from medvlm_r1.models.packed import Packed, further
from medvlm_r1.models.policy import logprob_of
from medvlm_r1.models.tree import Rows

HIDDEN, QUERIES, KEYS, SIZE, MLP = 1536, 12, 2, 128, 8960
pytestmark = pytest.mark.skipif(not torch.__version__.startswith("2.13."), reason="reads the compiler of PyTorch 2.13, which requirements.lock names")


def linear(inputs, outputs, bias=False):
    weight, added = (torch.empty(*size, dtype=torch.bfloat16, device="cuda") for size in ((outputs, inputs), (outputs,)))
    return SimpleNamespace(weight=weight, bias=added if bias else None, in_features=inputs, out_features=outputs)


def layer_of_qwen2():
    norm = SimpleNamespace(weight=torch.empty(HIDDEN, dtype=torch.bfloat16, device="cuda"), variance_epsilon=1e-6)
    config = SimpleNamespace(num_attention_heads=QUERIES, num_key_value_heads=KEYS, hidden_size=HIDDEN)
    attention = SimpleNamespace(
        config=config, q_proj=linear(HIDDEN, HIDDEN, True), k_proj=linear(HIDDEN, KEYS * SIZE, True), v_proj=linear(HIDDEN, KEYS * SIZE, True),
        o_proj=linear(HIDDEN, HIDDEN),
    )  # fmt: skip
    mlp = SimpleNamespace(act_fn=torch.nn.functional.silu, gate_proj=linear(HIDDEN, MLP), up_proj=linear(HIDDEN, MLP), down_proj=linear(MLP, HIDDEN))
    return SimpleNamespace(self_attn=attention, mlp=mlp, input_layernorm=norm, post_attention_layernorm=norm)


def there(x, dtype=None):
    """The same, but for its numbers."""
    return torch.empty_strided(x.shape, x.stride(), dtype=dtype or x.dtype, device="cuda")


@pytest.mark.parametrize(("prompts", "group", "room", "tokens"), [(4, 4, 512, 152), (1, 16, 1024, 512)])
def test_a_layer_takes_fourteen_kernels(prompts, group, room, tokens):
    """Eight products, and six others: sum and norm, twice; heads to their places; softmax; both attentions together; the gate."""
    cache, half = Captured(QUERIES), torch.zeros(prompts * room, KEYS, SIZE)
    cache.fill([(half, half)], Rows(torch.full((prompts,), room)), group, tokens)
    with scheduled.on_gpu():
        packed = Packed(layer_of_qwen2())
        packed.load(prompts * group)
        cache.layers = [there(layer, torch.bfloat16) for layer in cache.layers]
        for name, value in vars(cache).items():
            setattr(cache, name, there(value) if isinstance(value, torch.Tensor) else value)
        state = torch.empty(prompts * group, HIDDEN, dtype=torch.bfloat16, device="cuda")
        turns = torch.empty(prompts * group, 1, SIZE, dtype=torch.bfloat16, device="cuda")
        found = scheduled.kernels(further, packed, state, torch.empty_like(state), Rotary(turns, turns), cache.attentions()[0])
    assert len(found) == 14 and found.count("written") == 6, found


def test_a_product_that_adds_a_matrix_counts_twice():
    """As it does where the sum is not written wide: the state would be copied for the product to add to."""
    with scheduled.on_gpu():
        x, weight = (torch.empty(64, 64, dtype=torch.bfloat16, device="cuda") for _ in range(2))
        assert scheduled.kernels(lambda x, weight: x + x @ weight, x, weight) == ["extern_kernels.addmm", "the copy before it"]
        assert scheduled.kernels(lambda x, weight: (x + (x @ weight).float()).bfloat16(), x, weight) == ["extern_kernels.mm", "written"]


def test_the_head_writes_no_row_in_float32():
    """Behind the product one kernel goes over the logits as they are and says of each row what one token has."""
    with scheduled.on_gpu():
        logits = torch.empty(441, 151_936, dtype=torch.bfloat16, device="cuda")
        ids, masks = torch.empty(441, dtype=torch.long, device="cuda"), [torch.empty(151_936, dtype=torch.bool, device="cuda") for _ in range(2)]
        assert scheduled.kernels(logprob_of, logits, ids, *masks, None, 1.0) == ["written"]
