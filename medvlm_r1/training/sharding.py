"""A model cut among the ranks (FSDP2, arXiv 2304.11277): each holds a part of every weight, and a layer is put together where it is needed.

For what does not fit one device; what does is faster as whole replicas. The parts are float32 masters, what is computed with is
in the run's type, gradients are summed in float32. ``spread`` does it before training; the loops know nothing of it.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType, MethodType
from typing import Any

import torch
from PIL import Image
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from medvlm_r1.errors import ConfigError
from medvlm_r1.models import adapt, decoder
from medvlm_r1.models.passes import Pass
from medvlm_r1.models.policy import Policy
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.engine import Engine, Sampling
from medvlm_r1.rollout.engines import local
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.training.distributed import Devices, current
from medvlm_r1.training.shards import own_rows
from medvlm_r1.types import Completion, Example, Prompt, PromptBatch


def loaded_in(devices: Devices, dtype: str) -> str:
    """The type in which a model is loaded: the parts of one that is cut are its masters.

    >>> loaded_in(Devices(shard=True), "bfloat16"), loaded_in(Devices(), "bfloat16")
    ('bfloat16', 'bfloat16')
    """
    return "float32" if is_cut(devices) else dtype


def is_cut(devices: Devices) -> bool:
    """Is there anybody to share the weights with?"""
    return devices.shard and current().size > 1


def spread(policy: Policy, devices: Devices, dtype: str, has_reference: bool) -> Policy:
    """The policy as ``devices`` want it; ``dtype`` is what it computes in. The same object where they want nothing."""
    if not policy.shares_prompts and (devices.recompute or is_cut(devices)):
        raise ConfigError(
            f'"{policy.model.config.model_type}" has no family, and is neither recomputed nor cut over devices; set devices.recompute=false and devices.shard=false'
        )
    if devices.recompute:
        recompute(policy)
    return _cut(policy, getattr(torch, dtype), has_reference) if is_cut(devices) else policy


def engine(policy: Policy, learning: bool = True) -> Engine:
    """What writes the rollouts of a policy that learns; or, without ``learning``, the answers to questions that it does not learn from."""
    return Gathering(LocalEngine(policy), policy) if isinstance(policy, Cut) else local(policy, learning=learning)


# ---------------------------------------------------------------- activations computed twice


def recompute(policy: Policy) -> None:
    """Keep of every layer its input alone, and compute the rest again in the backward pass (arXiv 1604.06174)."""
    for layer in policy.text.layers:
        layer.through = MethodType(_through_again, layer)
    for block in blocks(policy):
        block.forward = MethodType(_forward_again, block)


def _through_again(layer: Any, *args: Any) -> torch.Tensor:
    return _again(decoder.through, decoder.Live(layer), *args)


def _forward_again(block: Any, *args: Any, **kwargs: Any) -> Any:
    return _again(type(block).forward, block, *args, **kwargs)


def _again(work: Any, *args: Any, **kwargs: Any) -> Any:
    return checkpoint(work, *args, use_reentrant=False, **kwargs) if torch.is_grad_enabled() else work(*args, **kwargs)


def blocks(policy: Policy) -> list[Any]:
    """The layers of what turns a picture into embeddings."""
    lists = [m for tower in policy.encoder.family.towers(policy.model) for m in tower.modules() if isinstance(m, torch.nn.ModuleList)]
    return [block for each in lists for block in each]


# ---------------------------------------------------------------- weights cut by rows


@dataclass
class Cut(Policy):
    """A policy of whose weights each rank holds a part.

    ``shell``: the same modules without weights, to be filled where somebody wants the whole; ``computes`` the type of numbers.
    """

    reference: Policy | None = None
    shell: Any = None
    computes: torch.dtype = torch.float32
    is_gathered: bool = False

    @property
    def is_cut(self) -> bool:
        return True

    def frozen_copy(self) -> Policy:
        assert self.reference is not None  # made before the weights were cut: FSDP's modules cannot be copied
        return self.reference

    def whole(self) -> Policy:
        """On rank 0 a policy with all weights, in the host's memory; the others give their parts and get themselves back."""
        made: dict[int, torch.nn.Parameter] = {}
        for name, p in self.model.named_parameters(remove_duplicate=False):
            if id(p) not in made:
                part: Any = p.detach()
                full = part.full_tensor() if isinstance(part, DTensor) else part
                made[id(p)] = torch.nn.Parameter(full.to("cpu", self.computes) if current().leads else full.new_empty(0), requires_grad=False)
            owner, _, leaf = name.rpartition(".")
            setattr(self.shell.get_submodule(owner), leaf, made[id(p)])
        return Policy(self.shell, self.encoder, self.version) if current().leads else self

    def load_weights(self, weights: dict[str, torch.Tensor], adapters: Mapping[str, torch.Tensor] = MappingProxyType({})) -> None:
        """Take over this rank's part of what ``save_weights`` wrote."""
        whole = copy.deepcopy(self.shell).to_empty(device="cpu")
        adapt.load(whole, weights, adapters)
        found = dict(whole.named_parameters(remove_duplicate=False))
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                local, value = (p.to_local(), found[name][slice_of(p)]) if isinstance(p, DTensor) else (p, found[name])
                local.copy_(value)
        self.images.clear()

    def image_embeds(self, batch: PromptBatch) -> torch.Tensor:
        """Where the tower is cut, it is called once in every pass of every rank: nothing is kept."""
        return self.images.anew(batch) if self._pairs else super().image_embeds(batch)

    @property
    def _pairs(self) -> bool:
        return self.images.learn and not self.is_gathered

    def _embed(self, over: Pass) -> tuple[torch.Tensor, decoder.Added | None]:
        embeds_TH, added = super()._embed(over)
        if self._pairs and not over.prompts.slots:  # another rank may have pictures and wait at its tower: a blank one, that counts for nothing
            embeds_TH = embeds_TH + 0.0 * self.images.anew(self._blank).sum().to(embeds_TH.dtype)
        return embeds_TH, added

    @cached_property
    def _blank(self) -> PromptBatch:
        place = self.encoder.hold(Image.new("RGB", (28, 28)))
        return self.encoder.prompts([render(Example("blank", (place,), "?", (), "", ""), "think")])

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """All weights on every rank meanwhile: what decodes finds them so, and waits for nobody."""
        parts = [module for module in self.model.modules() if isinstance(module, FSDPModule)]
        for part in parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        self.is_gathered = True
        yield
        self.is_gathered = False
        for part in parts:
            part.set_reshard_after_forward(part is not self.model, recurse=False)
            part.reshard()


def slice_of(p: DTensor) -> slice:
    """This rank's rows of a whole tensor."""
    rows = own_rows(p)
    return slice(rows.start, rows.stop)


@dataclass
class Gathering:
    """An engine in this process over a policy that is cut: every rank gathers the weights, also one that has nothing to write."""

    engine: LocalEngine
    policy: Cut

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """See Engine.generate."""
        with self.policy.gathered():
            try:
                return self.engine.generate(prompts, sampling)
            finally:
                self.engine.forget()  # the next gathering puts the weights elsewhere

    def sync(self, policy: Any) -> None:
        """The weights are the policy's own."""
        self.engine.sync(policy)


def _cut(policy: Policy, computes: torch.dtype, has_reference: bool) -> Cut:
    """Every decoder layer, every block of a tower that learns, and the rest together. A frozen tower stays whole: each rank encodes when it likes."""
    reference = policy.frozen_copy() if has_reference else None
    meta = {id(p): torch.nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad) for p in policy.model.parameters()}
    shell = copy.deepcopy(policy.model, meta)
    _shard(policy, computes, blocks(policy) if policy.images.learn else [])
    if reference is not None:
        _shard(reference, computes, [])
    return Cut(policy.model, policy.encoder, policy.version, reference, shell, computes)


def _shard(policy: Policy, computes: torch.dtype, tower: Sequence[Any]) -> None:
    model, how = policy.model, MixedPrecisionPolicy(param_dtype=computes, reduce_dtype=torch.float32)
    stays = set() if tower else {p for each in policy.encoder.family.towers(model) for p in each.parameters()}
    for p in stays:
        p.data = p.data.to(computes)
    for block in tower:
        fully_shard(block, mp_policy=how)
    for layer in policy.text.layers:
        fully_shard(layer, mp_policy=how)
        register_fsdp_forward_method(layer, "through")
    fully_shard(model, mp_policy=how, ignored_params=stays)
    register_fsdp_forward_method(model, "within")
    for module in model.modules():
        if isinstance(module, FSDPModule):  # sums: the loss is divided by the rows of all ranks, and gloo has no mean
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
