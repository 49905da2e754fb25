"""What PyTorch's compiler makes of a function on a GPU that is not there: which kernels, in turn. It decides that before it writes any.

The function is traced with tensors that have a device and no numbers, goes through the compiler's own passes for a GPU, and is
stopped when its scheduler has joined what it joins. Held together by what is private in PyTorch: for the locked version alone.
"""

import contextlib
import types

import torch
from torch._dynamo import device_interface
from torch._inductor import compile_fx, config, scheduler
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch._inductor.decomposition import decompositions
from torch._inductor.fx_passes import joint_graph, post_grad
from torch._inductor.graph import GraphLowering
from torch._inductor.runtime.hints import DeviceProperties
from torch._subclasses.fake_tensor import FakeTensorMode

aten = torch.ops.aten
H100 = DeviceProperties("cuda", 0, 132, 90, 9, 65536, 2048, 1024, 32)
ABOUT = types.SimpleNamespace(
    name="H100", major=9, minor=0, multi_processor_count=132, warp_size=32, max_threads_per_multi_processor=2048, regs_per_multiprocessor=65536,
    total_memory=80 * 10**9, L2_cache_size=50 * 2**20, shared_memory_per_block_optin=232448, shared_memory_per_multiprocessor=233472,
    max_threads_per_block=1024, gcnArchName="",
)  # fmt: skip


class _Stopped(Exception):
    """The kernels are known."""


class _InPlace(CustomGraphPass):
    """Puts back what ``_traced`` took out: a buffer that came from outside is written where it is."""

    def __call__(self, graph):
        with graph.inserting_before(next(node for node in graph.nodes if node.op == "output")):
            for node in list(graph.nodes):
                if node.target is aten.index_put.default and node.args[0].op == "placeholder":
                    graph.call_function(aten.copy_.default, (node.args[0], node)).meta["val"] = node.meta["val"]

    def uuid(self):
        return None


def _traced(module, inputs):
    """Functional, since a build for CPUs cannot trace a copy into a tensor that says it is on a GPU."""
    for node in module.graph.nodes:
        if node.op == "call_method" and node.target == "index_put_":
            node.op, node.target = "call_function", torch.index_put
    module.recompile()
    return compile_fx.compile_fx(module, inputs)


def _launches(node):
    """1 for what the compiler writes. A product that adds a whole matrix copies that matrix first; it is a kernel, too."""
    inner = getattr(node, "node", None)
    name = getattr(inner, "python_kernel_name", None)
    adds = name in ("extern_kernels.addmm", "extern_kernels.baddbmm") and len(inner.inputs[0].get_size()) > 1
    return [name or "written", *["the copy before it"] * adds]


@contextlib.contextmanager
def _for_a_gpu(found):
    def codegen(graph):
        graph.init_wrapper_code()
        graph._update_scheduler()
        found.extend(name for node in graph.scheduler.nodes if not isinstance(node, scheduler.NopKernelSchedulerNode) for name in _launches(node))
        raise _Stopped

    interface = device_interface.CudaInterface
    patches = [
        (GraphLowering, "codegen", codegen), (scheduler, "has_triton", lambda *_, **__: True), (DeviceProperties, "create", staticmethod(lambda *_: H100)),
        (torch.cuda, "get_device_properties", lambda *_, **__: ABOUT), (torch.cuda, "current_device", lambda: 0), (torch.cuda, "get_device_capability", lambda *_, **__: (9, 0)),
        (interface, "get_device_properties", staticmethod(lambda *_, **__: ABOUT)), (interface, "get_compute_capability", staticmethod(lambda *_, **__: 90)),
        (interface.Worker, "get_device_properties", staticmethod(lambda *_, **__: ABOUT)), (interface.Worker, "current_device", staticmethod(lambda: 0)),
        (joint_graph, "lazy_init", lambda *_, **__: None), (post_grad, "lazy_init", lambda *_, **__: None),
        (compile_fx, "_check_triton_bf16_support", lambda _: None), (compile_fx, "get_cuda_device_context", lambda _: contextlib.nullcontext()),
    ]  # fmt: skip
    before = [(owner, name, owner.__dict__[name]) for owner, name, _ in patches]
    selects = decompositions[aten.index_select.default]
    decompositions[aten.index_select.default] = lambda x, dim, index: aten.index(x, [*[None] * (dim % x.ndim), index])
    for owner, name, value in patches:
        setattr(owner, name, value)
    try:
        with config.patch(joint_graph_constant_folding=False, post_grad_custom_pre_pass=_InPlace(), fx_graph_cache=False, compile_threads=1):
            yield
    finally:
        decompositions[aten.index_select.default] = selects
        for owner, name, value in before:
            setattr(owner, name, value)


@contextlib.contextmanager
def on_gpu():
    """Tensors without numbers; ``device="cuda"`` is one."""
    with FakeTensorMode(), torch.no_grad():
        yield


def kernels(function, *args):
    """One name for each kernel that a call launches: the product's, or "written" where the compiler writes it."""
    found = []
    torch._dynamo.reset()
    with _for_a_gpu(found):
        try:
            torch.compile(function, fullgraph=True, backend=_traced)(*args)
        except Exception:
            if not found:
                raise
    torch._dynamo.reset()
    return found
