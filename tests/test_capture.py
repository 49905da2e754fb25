"""A decode step holds nothing that the capture of a CUDA graph forbids: no reading by the host, no copy from it. Seen here without a GPU."""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from medvlm_r1.models import packed
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.local import LocalEngine

READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_dim", "_unique2", "repeat_interleave"}  # the host waits for their result
MAKES = {"lift_fresh"}  # a tensor of numbers that only the host has


class Operations(TorchDispatchMode):
    """Notes by name what a GPU would have to stop for."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        devices = {x.device for x in args if isinstance(x, torch.Tensor)}
        places = args[1] if name.startswith("index") and isinstance(args[1], list | tuple) else []
        by_mask = any(x is not None and x.dtype == torch.bool for x in places)  # x[x > 0] counts them first
        from_host = name.startswith("index_put") and args[2].dim() == 0  # x[:, places] = 0.0
        if name in READS | MAKES or by_mask or from_host or len(devices) > 1:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


class Moves(TorchFunctionMode):
    """Notes what is sent to a device by name: from the CPU to the CPU it is no operation."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        asked = [*args[1:], *(kwargs or {}).values()]
        if func in (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda) and not any(isinstance(x, torch.dtype) for x in asked):
            self.found.append("to")
        return func(*args, **(kwargs or {}))


def forbidden_in(step):
    found = []
    with Moves(found), Operations(found):
        step()
    return found


def x():
    return torch.arange(6.0).view(2, 3)


STOPS = {
    "a scalar through an index": lambda x=x(), at=torch.tensor([1]): x.__setitem__((slice(None), at), -torch.inf),
    "a number read": lambda x=x(): x.sum().item(),
    "a condition": lambda x=x(): bool((x > 0).any()),
    "places looked for": lambda x=x(): x[x > 2],
    "numbers written down": lambda x=x(): x + torch.tensor([1.0, 2.0, 3.0]),
    "sent to a device": lambda x=x(): x.to("cpu"),
    "a copy between devices": lambda x=x(): torch.empty(2, 3, device="meta").copy_(x),
}


@pytest.mark.parametrize("step", STOPS.values(), ids=STOPS)
def test_what_stops_a_capture_is_seen(step):
    assert forbidden_in(step)


def test_what_does_not_is_let_through():
    a = x()
    assert forbidden_in(lambda: a.index_fill_(1, torch.arange(2), 0.0).to(torch.float64).masked_fill(a < 1, -torch.inf).softmax(-1)) == []


@pytest.mark.parametrize("min_tokens", [0, 4])
@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.7])
def test_a_decode_step_can_be_captured(policy, examples, temperature, min_tokens):
    steps = []

    def capture(step):
        return lambda: steps.append(forbidden_in(step))

    LocalEngine(policy, capture=capture).generate([render(e, "think") for e in examples[:2]], Sampling(2, temperature, 6, min_tokens=min_tokens))
    assert steps == [[]] * 4  # six tokens: one from the prompt, one to warm up, four replayed


def test_banned_tokens_cost_no_bit(policy):
    hidden_TH = torch.randn(5, policy.model.config.text_config.hidden_size, generator=torch.Generator().manual_seed(0))
    logits = policy.model.lm_head(hidden_TH)
    logits[:, policy.banned_ids] = -torch.inf
    assert torch.equal(policy.log_softmax(hidden_TH), logits.log_softmax(-1))
    assert torch.equal(policy.log_softmax(hidden_TH, 0.7), (logits / 0.7).log_softmax(-1))


def test_one_compiled_layer_serves_all(policy, examples, monkeypatch):
    """On a GPU a decode layer is compiled: one graph for the weights and caches of all layers, not one each."""
    graphs, prompts, sampling = [], [render(e, "think") for e in examples[:2]], Sampling(2, 1.0, 4, min_tokens=4)
    plain = LocalEngine(policy, capture=lambda step: step).generate(prompts, sampling)
    one = torch.compile(packed.further, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    monkeypatch.setattr(packed.Packed, "__call__", one)
    engine = LocalEngine(policy, capture=lambda step: step)
    assert engine.generate(prompts, sampling) == plain
    engine.generate([render(e, "think") for e in examples[1:]], sampling)  # other lengths, no other graph
    assert len(graphs) == 1 and len(policy.text.layers) > 1
