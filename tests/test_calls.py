"""Our passes call the model and its decoder layers, so that what takes hold of a module as it is called finds them."""

from functools import partial, wraps
from types import MethodType

import pytest
import torch
from test_memory import kept_by_autograd
from test_shared_prefix import groups_of
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.utils.checkpoint import checkpoint

from medvlm_r1.reasoning import render
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.local import LocalEngine


def batch_of(policy, examples):
    return policy.encoder.groups(groups_of(policy, examples, [[5, 9], [4, 4, 12], [6]]))


def gradients(policy, batch):
    policy.logprobs(batch).square().sum().backward()
    found = {name: p.grad for name, p in policy.model.named_parameters()}
    policy.model.zero_grad()
    return found


def hook(module, name, calls):
    """Put something around a method in the way of register_fsdp_forward_method: found by name on the module, set again in its place."""
    method = getattr(module, name)

    @wraps(method)
    def hooked(self, *args, **kwargs):
        calls.append(id(self))
        return method(*args, **kwargs)

    setattr(module, name, MethodType(hooked, module))


def test_each_layer_and_the_whole_are_called_once_a_pass(policy, examples):
    layers, calls = list(policy.text.layers), []
    for module, name in ((policy.model, "within"), *((layer, "through") for layer in layers)):
        hook(module, name, calls)
    once = [id(policy.model), *map(id, layers)]
    LocalEngine(policy).generate([render(example, "think") for example in examples], Sampling(n=2, max_tokens=4))
    assert calls == once  # the prompts; what follows is decoded with matrices of its own
    calls.clear()
    policy.logprobs(batch_of(policy, examples)).sum().backward()
    assert calls == once
    calls.clear()
    policy.remember(policy.encoder.prompts([render(examples[0], "think")]))
    assert calls == once[:1]  # the tower is called by its own name


def test_a_copy_calls_its_own_layers(policy, examples):
    reference, batch = policy.frozen_copy(), batch_of(policy, examples)
    with torch.no_grad():
        before = reference.logprobs(batch)
        for p in policy.text.layers.parameters():
            p.zero_()
        assert torch.equal(reference.logprobs(batch), before)
    assert [layer.through.__self__ for layer in reference.text.layers] == list(reference.text.layers)


def test_layers_can_be_computed_twice_to_save_memory(policy, examples):
    batch = batch_of(policy, examples)
    plain, whole = gradients(policy, batch), kept_by_autograd(policy.model, lambda: policy.logprobs(batch))
    for layer in policy.text.layers:
        layer.through = partial(checkpoint, layer.through, use_reentrant=False)
    assert kept_by_autograd(policy.model, lambda: policy.logprobs(batch)) < 0.5 * whole
    assert all(torch.equal(gradient, plain[name]) for name, gradient in gradients(policy, batch).items())


@pytest.fixture
def process_group():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_fsdp_gathers_and_scatters_through_them(policy, examples, process_group):
    """One process: the shards are whole, but every parameter is a shard until FSDP's hooks have gathered it."""
    batch = batch_of(policy, examples)
    with torch.no_grad():
        logprobs = policy.logprobs(batch)
    plain = gradients(policy, batch)
    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    for module, name in (*((layer, "through") for layer in policy.text.layers), (policy.model, "within")):
        fully_shard(module, mesh=mesh)
        register_fsdp_forward_method(module, name)
    with torch.no_grad():
        assert torch.equal(policy.logprobs(batch), logprobs)
    policy.model.reshard()
    found = gradients(policy, batch)
    assert all(torch.equal(found[name].full_tensor(), plain[name]) for name in plain)
