"""Tensors that say they are on a GPU, where there is none: whole steps, backward and optimiser, with a book of what a GPU would do.

Python sees "cuda:0"; autograd, which knows only devices that exist, sees the CPU. Inside is a tensor on the meta device, for
shapes, types and storages, and real numbers: of everything (``numbers=True``), or of whole numbers and masks alone, so that a
model of any size takes no memory while lengths and indices are true. What is read where there are no numbers is ``Book.unknown``.

What the book cannot know: times; which kernels a compiler fuses (what the product compiles counts as one); cuBLAS's choices.
"""

import collections
import contextlib
import functools
import sys
import weakref
from typing import ClassVar

import torch
import torch.utils._pytree as pytree
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import flop_registry

CUDA = torch.device("cuda", 0)
NOTHING_TO_RUN = {
    "view", "_unsafe_view", "_reshape_alias", "reshape", "transpose", "t", "expand", "slice", "select", "split", "split_with_sizes", "unsqueeze",
    "squeeze", "permute", "as_strided", "chunk", "detach", "alias", "unflatten", "lift_fresh", "narrow", "empty", "empty_like", "new_empty",
    "empty_strided", "new_empty_strided", "unbind", "diagonal", "unsafe_split", "view_as_real", "is_same_size",
}  # fmt: skip
ON_A_CPU = {torch.ops.aten.bmm.dtype: lambda a, b, dtype: torch.bmm(a.to(dtype), b.to(dtype))}  # what is there for a GPU alone
SIZED_BY_NUMBERS = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount", "equal", "is_nonzero"}


class Book:
    """What happened, by phase: counts under (phase, what, line of the project)."""

    def __init__(self):
        self.phase, self.capturing, self.inside, self.unknown, self.live = "", False, 0, lambda x: torch.zeros(x.shape, dtype=x.dtype), 0
        self.clear()

    def clear(self):
        self.waits, self.copies, self.kernels, self.flops, self.peak, self.forbidden = (collections.Counter() for _ in range(6))
        self.places = None

    @contextlib.contextmanager
    def during(self, phase):
        before, self.phase = self.phase, phase
        self.peak[phase] = max(self.peak[phase], self.live)
        try:
            yield
        finally:
            self.phase = before

    def note(self, counter, what, size=1):
        counter[self.phase, what, "" if counter is self.kernels else _line()] += size  # to look where would take longer than the kernel
        if self.capturing and counter is not self.kernels:
            self.forbidden[what, _line()] += 1

    def total(self, counter, *phases):
        return sum(n for (phase, *_), n in counter.items() if not phases or phase in phases)

    def holds(self, storage):
        """Live bytes, in CUDA's blocks of 512."""
        if storage is None or getattr(storage, "_noted", False):
            return
        storage._noted = True
        size = -(-storage.nbytes() // 512) * 512
        self.live += size
        self.peak[self.phase] = max(self.peak[self.phase], self.live)
        weakref.finalize(storage, self._frees, size)

    def _frees(self, size):
        self.live -= size


BOOK = Book()


def _line():
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if "medvlm_r1" in name and "site-packages" not in name:
            return f"{name[name.rindex('medvlm_r1') + 10 :]}:{frame.f_lineno}"
        frame = frame.f_back
    return "backward"


class Storage:
    """Stands for one storage of the meta device, as long as any tensor lies in it."""

    known: ClassVar = weakref.WeakValueDictionary()

    def __init__(self, storage):
        self.size, self.storage = storage.nbytes(), storage

    def nbytes(self):
        return self.size

    @classmethod
    def of(cls, tensor):
        storage = tensor.untyped_storage()
        found = cls.known.get(storage._cdata)
        if found is None:
            found = cls.known[storage._cdata] = cls(storage)
        return found


class OnGPU(torch.Tensor):
    @staticmethod
    def __new__(cls, shape, numbers=None, requires_grad=False):
        made = torch.Tensor._make_wrapper_subclass(
            cls, shape.shape, strides=shape.stride(), storage_offset=shape.storage_offset(), dtype=shape.dtype, device="cpu", requires_grad=requires_grad
        )
        made.meta, made.numbers, made.storage_of = shape, numbers, Storage.of(shape)
        BOOK.holds(made.storage_of)
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl
    device, is_cuda, is_cpu = property(lambda self: CUDA), property(lambda self: True), property(lambda self: False)

    def __repr__(self, *, tensor_contents=None):
        return f"OnGPU({tuple(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo):
        with torch.no_grad():
            new = memo.setdefault(id(self), self.detach().clone())
        new.requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            new._is_param = True
        return new

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunction():
            return _run(func, args, kwargs or {})


def _known(x):
    return BOOK.unknown(x) if x.numbers is None else x.numbers


def _run(func, args, kwargs):
    name = func.overloadpacket.__name__
    if name == "_local_scalar_dense":
        BOOK.note(BOOK.waits, "read")
        return _known(args[0]).item()
    flat, spec = pytree.tree_flatten((args, kwargs))
    ours = [x for x in flat if isinstance(x, OnGPU)]
    _mixed(name, args, [x for x in flat if isinstance(x, torch.Tensor) and not isinstance(x, OnGPU)])
    by_mask = name in ("index", "index_put", "index_put_") and any(isinstance(i, OnGPU) and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    sized = name in SIZED_BY_NUMBERS or by_mask or (name == "repeat_interleave" and kwargs.get("output_size") is None)
    if sized:
        BOOK.note(BOOK.waits, name)
    if name not in NOTHING_TO_RUN and not BOOK.inside:
        BOOK.note(BOOK.kernels, name)
    numbers, ran = None, sized or all(x.numbers is not None for x in ours)
    if ran:
        a, k = pytree.tree_unflatten([_known(x) if isinstance(x, OnGPU) else x for x in flat], spec)
        numbers = ON_A_CPU.get(func, func)(*a, **(k | {"device": "cpu"} if "device" in k else k))
        if not isinstance(numbers, torch.Tensor) and name in SIZED_BY_NUMBERS:
            return numbers
    if sized and not func._schema.is_mutable:
        shapes = pytree.tree_map(lambda x: torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta"), numbers)
        numbers = numbers if all(x.numbers is not None for x in ours) else None
    elif ran and not func._schema.is_mutable and name not in NOTHING_TO_RUN:  # quicker than to ask the meta device
        shapes = pytree.tree_map(lambda x: torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta") if isinstance(x, torch.Tensor) else x, numbers)  # fmt: skip
    elif ran and func._schema.is_mutable and len(written := list(_written(func, args, kwargs))) == 1:
        shapes = written[0].meta
    else:
        a, k = pytree.tree_unflatten([_shape(x) if isinstance(x, torch.Tensor) else x for x in flat], spec)
        shapes = func(*a, **(k | {"device": "meta"} if "device" in k else k))
    if func._schema.is_mutable and not ran:
        for x in _written(func, args, kwargs):
            x.numbers = None
    return _wrapped(func, ours, shapes, numbers, args, kwargs)


def _shape(x):
    """On the meta device; a number that the host holds stays what it is, as kernels take it along."""
    return x.meta if isinstance(x, OnGPU) else x.to("meta") if x.dim() else x


def _written(func, args, kwargs):
    for n, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from (x for x in pytree.tree_leaves(args[n] if n < len(args) else kwargs.get(argument.name)) if isinstance(x, OnGPU))


def _wrapped(func, ours, shapes, numbers, args, kwargs):
    same = {id(x.meta): x for x in ours} if func._schema.is_mutable else {}
    leaves, spec = pytree.tree_flatten(shapes)
    real = pytree.tree_leaves(numbers) if numbers is not None else [None] * len(leaves)
    real = real if len(real) == len(leaves) else [None] * len(leaves)
    made = [s if not isinstance(s, torch.Tensor) else same[id(s)] if id(s) in same else OnGPU(s, r) for s, r in zip(leaves, real, strict=True)]
    out = pytree.tree_unflatten(made, spec)
    if func is torch.ops.aten.bmm.dtype:  # torch's own counter stumbles over its third argument
        BOOK.flops[BOOK.phase, "bmm"] += 2 * args[0].numel() * args[1].shape[2]
    elif func.overloadpacket in flop_registry:
        BOOK.flops[BOOK.phase, func.overloadpacket.__name__] += flop_registry[func.overloadpacket](*args, **kwargs, out_val=out)
    elif func.overloadpacket.__name__.startswith("_scaled_dot_product_flash_attention_for_cpu"):
        q, k, backward = (*args[1:3], True) if "backward" in func.overloadpacket.__name__ else (*args[:2], False)
        BOOK.flops[BOOK.phase, "sdpa"] += (8 if backward else 4) * q.numel() * k.shape[2]
    if BOOK.places is not None:
        BOOK.places.append((func.overloadpacket.__name__, *(tuple(x.shape) for x in made if isinstance(x, torch.Tensor)), *(id(x.storage_of) for x in ours if x.storage_of in BOOK.outer)))  # fmt: skip
    return out


def _mixed(name, args, hosts):
    """What a GPU does when a kernel is given a tensor of the host."""
    if not hosts:
        return
    if name == "copy_":
        BOOK.note(BOOK.copies, "to the device" if isinstance(args[0], OnGPU) else "to the host", 1)
    elif name.startswith("index") and isinstance(args[1], list | tuple):
        BOOK.note(BOOK.copies, "an index, to the device")
        BOOK.note(BOOK.waits, "an index of the host")
    elif any(x.dim() for x in hosts):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu")


# ---------------------------------------------------------------- between the devices


def place(x, numbers=True):
    """A tensor of the host as it would be on the device."""
    with torch._C.DisableTorchFunction():
        shape = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
        return OnGPU(shape, None if x.is_meta or (x.is_floating_point() and not numbers) else x.detach().clone())


def move(model, numbers=True):
    """A model's parameters and buffers on the device, in place; ties stay ties."""
    moved = {}
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None and not isinstance(p, OnGPU):
                if id(p) not in moved:
                    moved[id(p)] = place(p, numbers).requires_grad_(p.requires_grad), p
                    moved[id(p)][0]._is_param = True
                module._parameters[name] = moved[id(p)][0]
        for name, b in module._buffers.items():
            if b is not None and not isinstance(b, OnGPU):
                module._buffers[name] = place(b, numbers)
    return model


MADE_THERE = {
    torch.zeros, torch.ones, torch.empty, torch.full, torch.arange, torch.rand, torch.randn, torch.eye, torch.scalar_tensor, torch.empty_strided,
}  # fmt: skip
LIKE = {torch.zeros_like, torch.ones_like, torch.full_like, torch.empty_like}
SENT = {torch.tensor, torch.as_tensor}
RMS_NORM = {torch.nn.functional.rms_norm, torch.rms_norm}


class Mode(TorchFunctionMode):
    """Under it "cuda" is a device."""

    def __init__(self, numbers):
        super().__init__()
        self.numbers = numbers

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        x = args[0] if args else None
        there = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda"
        if func in LIKE and isinstance(x, OnGPU):
            kwargs.pop("device", None)
        elif there and func in MADE_THERE:
            return self._make(func, args, kwargs)
        elif there and func in SENT:
            kwargs.pop("device")
            return self._send(func(*args, **kwargs), False)
        elif func in (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda):
            return self._to(func, *args, **kwargs)
        elif func is torch.Tensor.pin_memory:
            return _as_pinned(x)
        elif func in (torch.Tensor.tolist, torch.Tensor.numpy) and isinstance(x, OnGPU):
            assert func is torch.Tensor.tolist, "can't convert cuda:0 device type tensor to numpy"
            BOOK.note(BOOK.waits, "tolist")
            return _known(x).tolist()
        elif func in RMS_NORM and isinstance(x, OnGPU):
            x, _, weight, eps = (*args, *kwargs.values())
            return as_one("rms_norm", _Norm.apply if torch.is_grad_enabled() else _rms_norm, x, weight, eps)
        return func(*args, **kwargs)

    def _make(self, func, args, kwargs):
        kwargs.pop("device")
        grad, _ = kwargs.pop("requires_grad", False), kwargs.pop("pin_memory", None)
        shape = func(*args, **kwargs, device="meta")
        if func not in (torch.empty, torch.empty_strided):
            BOOK.note(BOOK.kernels, func.__name__)
        return OnGPU(shape, func(*args, **kwargs) if self.numbers or not shape.is_floating_point() else None, grad)

    def _send(self, x, non_blocking):
        pinned = getattr(x, "pinned", False)
        BOOK.note(BOOK.copies, "pinned" if pinned else "pageable")
        if not (pinned and non_blocking):
            BOOK.note(BOOK.waits, "a blocking copy")
        return place(x, self.numbers)

    def _to(self, func, x, *rest, non_blocking=False, copy=False, device=None, dtype=None, memory_format=None):
        rest = ["cpu"] if func is torch.Tensor.cpu else ["cuda"] if func is torch.Tensor.cuda else list(rest)
        if rest and isinstance(rest[0], torch.Tensor):
            rest = [rest[0].device, rest[0].dtype]
        for each in rest:
            dtype, device = (each, device) if isinstance(each, torch.dtype) else (dtype, each) if isinstance(each, str | torch.device) else (dtype, device)
        target = torch.device(device).type if device is not None else None
        if target == "cuda" and not isinstance(x, OnGPU):  # converts on the host, then copies
            return self._send(x if dtype is None or x.dtype == dtype else x.to(dtype), non_blocking)
        if target == "cpu" and isinstance(x, OnGPU):
            BOOK.note(BOOK.copies, "to the host")
            BOOK.note(BOOK.waits, "to the host")
            return _known(x).detach().clone()
        return func(x, *([] if dtype is None else [dtype]), copy=copy) if dtype is not None or copy else x


class _Norm(torch.autograd.Function):
    """The fused norm keeps its input and each row's scale; its backward is two kernels."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        ctx.save_for_backward(x, weight, x.new_empty(x.shape[:-1], dtype=torch.float32))
        ctx.eps = eps
        return _rms_norm(x, weight, eps)

    @staticmethod
    def backward(ctx, grad):
        BOOK.note(BOOK.kernels, "rms_norm, backward", 2)
        BOOK.inside += 1
        try:
            with torch.enable_grad():
                x, weight = (y.detach().requires_grad_() for y in ctx.saved_tensors[:2])
                made = _rms_norm(x, weight, ctx.eps)
            return *torch.autograd.grad(made, (x, weight), grad), None
        finally:
            BOOK.inside -= 1


def _rms_norm(x, weight, eps):
    wide = x.float()
    return (wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt() * weight).to(x.dtype)


def _as_pinned(x):
    pinned = x.clone()
    pinned.pinned = True
    return pinned


def as_one(name, function, *args, **kwargs):
    """What a GPU runs as one kernel, and we as many operations."""
    if not BOOK.inside:
        BOOK.note(BOOK.kernels, name)
    BOOK.inside += 1
    try:
        return function(*args, **kwargs)
    finally:
        BOOK.inside -= 1


# ---------------------------------------------------------------- what the product asks of a GPU


class _Attention(torch.autograd.Function):
    """FlexAttention as it is kept and counted: q, k, v, the result and each row's log-sum; no numbers."""

    @staticmethod
    def forward(ctx, q, k, v, pairs):
        out = torch.empty_like(q)
        ctx.flops = 4 * q.shape[1] * q.shape[3] * pairs
        BOOK.flops[BOOK.phase, "flex"] += ctx.flops
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:3], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx, grad):
        BOOK.note(BOOK.kernels, "flex, backward", 2)
        BOOK.flops[BOOK.phase, "flex"] += 2 * ctx.flops
        return *(torch.empty_like(x) for x in ctx.saved_tensors[:3]), None


def flex(q, k, v, block_mask, enable_gqa):
    """With numbers: the same by a dense mask."""
    if not hasattr(block_mask, "sees"):  # made for us alone: it is no part of what lives on the GPU
        peak, at = BOOK.peak.copy(), torch.arange(q.shape[2], device=CUDA)
        block_mask.sees = block_mask.mask_mod(None, None, at[:, None], at).numbers
        BOOK.peak = peak
    if q.numbers is None:
        return _Attention.apply(q, k, v, int(block_mask.sees.sum()))
    sees = place(block_mask.sees)
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=sees, enable_gqa=enable_gqa)


class _Recomputed(torch.autograd.Function):
    """A compiled chain of small operations keeps what goes in, and works the rest out again in its backward kernel."""

    @staticmethod
    def forward(ctx, function, rest, *tensors):
        ctx.save_for_backward(*tensors)
        ctx.function, ctx.rest = function, rest
        return function(*tensors, *rest)

    @staticmethod
    def backward(ctx, *grads):
        BOOK.note(BOOK.kernels, "backward of a compiled function")
        BOOK.inside += 1
        try:
            with torch.enable_grad():
                tensors = [x.detach().requires_grad_(x.is_floating_point()) for x in ctx.saved_tensors]
                made = ctx.function(*tensors, *ctx.rest)
            found = iter(torch.autograd.grad(made, [x for x in tensors if x.requires_grad], grads if isinstance(made, tuple) else grads[0]))
            return None, None, *(next(found) if x.requires_grad else None for x in tensors)
        finally:
            BOOK.inside -= 1


def compiled(function, **_):
    """What a compiler makes one kernel of."""
    if function.__name__ == "further":  # of many: as they stand, since which of them a compiler joins is not known here
        return function
    if function.__name__ == "flex_attention":
        return functools.partial(as_one, "flex", flex)

    def call(*args):
        if not torch.is_grad_enabled():
            return as_one(function.__name__, function, *args)
        tensors = [x for x in args if isinstance(x, torch.Tensor)]
        return as_one(function.__name__, _Recomputed.apply, function, args[len(tensors) :], *tensors)

    return call


@contextlib.contextmanager
def gpu(numbers=True):
    """The product on a GPU that is not there."""
    from torch.optim import optimizer
    from torch.utils import _foreach_utils, _triton

    from medvlm_r1.models import packed, tree

    grouped = optimizer._group_tensors_by_device_and_dtype
    types = [*_foreach_utils._foreach_supported_types, OnGPU]
    patches = [
        (torch, "compile", compiled), (_triton, "has_triton", lambda: True), (torch.random, "fork_rng", lambda *_, **__: contextlib.nullcontext()),
        (_foreach_utils, "_foreach_supported_types", types), (optimizer, "_foreach_supported_types", types),
        (optimizer, "_group_tensors_by_device_and_dtype", lambda *a: {(CUDA, dtype): group for (_, dtype), group in grouped(*a).items()}),
    ]  # fmt: skip
    before = [(module, name, getattr(module, name)) for module, name, _ in patches]
    tree._flex.cache_clear(), packed._compiled.cache_clear()
    for module, name, value in patches:
        setattr(module, name, value)
    BOOK.clear()
    try:
        with Mode(numbers):
            yield BOOK
    finally:
        for module, name, value in before:
            setattr(module, name, value)
        tree._flex.cache_clear(), packed._compiled.cache_clear()


def replayed(step):
    """As a captured graph: nothing forbidden, and the same kernels on the same shapes at the same places every time."""
    seen = []

    def replay():
        BOOK.places, BOOK.outer, BOOK.capturing = [], set(Storage.known.values()), True
        step()
        seen.append(BOOK.places)
        BOOK.places, BOOK.outer, BOOK.capturing = None, None, False
        assert seen[-1] == seen[0], "a replayed graph would read and write other places"

    return replay
