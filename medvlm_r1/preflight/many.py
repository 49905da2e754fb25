"""A run on many GPUs before there is one: the memory of each and the time of a step, by counting.

What is counted: numbers that are held, multiplications, and bytes that are read or sent. What is assumed: ``Hardware``. Nothing of it is measured.
A step has as many prompts a GPU at every size, so what grows with the GPUs is what a step learns from.

Legend: as preflight.memory; S the GPUs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from medvlm_r1.preflight.machine import Device
from medvlm_r1.preflight.memory import Workload, decoder_bytes, layer_weights, plan, vision_bytes
from medvlm_r1.preflight.shape import ModelShape
from medvlm_r1.training.distributed import Devices


@dataclass(frozen=True)
class Hardware:
    """One GPU and its links: what it computes (multiplications and additions a second) and moves (bytes a second), as its maker says,
    times the share of it that is assumed to be reached.

    >>> H100.flops / 1e12, H100.link(8) / 1e9, H100.link(16) / 1e9
    (395.6, 315.0, 35.0)
    """

    name: str
    memory: int
    flops: float
    read: float
    inside: float
    outside: float
    node: int

    def link(self, size: int) -> float:
        """Of one GPU to the others of a world: within a machine, or beyond."""
        return self.inside if size <= self.node else self.outside


# 989 TFLOP/s in bfloat16 at 40 %, 3.35 TB/s at 60 %, NVLink 450 GB/s and a 400 Gbit/s card for each at 70 %.
H100 = Hardware("H100 80 GB", 80 * 10**9, 989e12 * 0.4, 3.35e12 * 0.6, 450e9 * 0.7, 50e9 * 0.7, 8)
CARD = Device(H100.name, H100.memory, H100.memory, is_host=False)
FULL = 0.9  # as preflight.forecast
SIZES = tuple(2**n for n in range(11))  # 1 to 1,024


@dataclass(frozen=True)
class Layout:
    """How a run lies on its GPUs. ``served``: rollouts are written by servers of their own, so nobody gathers the weights to decode.

    >>> str(Layout(Devices(shard=True, recompute=True), served=True))
    'cut, recomputed, served'
    """

    devices: Devices = Devices()
    served: bool = False

    def __str__(self) -> str:
        words = ("cut" if self.devices.shard else "replicas", "recomputed" * self.devices.recompute, "served" * self.served)
        return ", ".join(filter(None, words))


LAYOUTS = (  # the fastest that fits is taken
    Layout(),
    Layout(Devices(recompute=True)),
    Layout(Devices(shard=True)),
    Layout(Devices(shard=True, recompute=True)),
    Layout(Devices(shard=True), served=True),
    Layout(Devices(shard=True, recompute=True), served=True),
)


def ends(shape: ModelShape) -> int:
    """Weights outside the decoder's layers and the vision tower's: embeddings and head, which are put together as one."""
    return shape.parameters - shape.adapters - shape.layers * layer_weights(shape, on_gpu=False) - shape.tower.weights


def activation_bytes(shape: ModelShape, work: Workload, recompute: bool) -> int:
    """What the backward pass needs: all of it, or each layer's input and one layer in full."""
    b, tokens, patches = work.number_bytes, work.micro_tokens, work.micro_prompts * work.patches
    tower = vision_bytes(shape, b, work.on_gpu) if shape.tower.trains else 0
    if not recompute:
        return tokens * decoder_bytes(shape, b, work.on_gpu) + patches * tower
    inputs = tokens * shape.layers * shape.hidden * b + patches * shape.tower.layers * shape.tower.hidden * b * shape.tower.trains
    return inputs + max(tokens * decoder_bytes(shape, b, work.on_gpu) // shape.layers, patches * tower // shape.tower.layers)


def memory(shape: ModelShape, work: Workload, size: int, layout: Layout) -> dict[str, int]:
    """Bytes on each of ``size`` GPUs by phase. Whole replicas hold what one GPU holds.

    A cut run holds its part of the float32 masters, of AdamW's moments and of the reference, whose tower stays whole; to compute, the
    two layers in turn, and the ends; in an update its part of the float32 gradients, and those of the ends before they are shared out.

    >>> from medvlm_r1.preflight.memory import PAPER
    >>> from medvlm_r1.preflight.shape import QWEN2_VL_7B
    >>> {phase: round(size / 1e9, 1) for phase, size in memory(QWEN2_VL_7B, PAPER, 8, Layout(Devices(shard=True, recompute=True))).items()}
    {'rollout': 45.4, 'update': 30.9}
    """
    b, whole = work.number_bytes, plan(shape, work)
    if not layout.devices.shard:
        saved = 0
        if layout.devices.recompute:  # where little is kept, all gradients are there before it is gone
            saved = whole.activations + whole.vision + whole.gradients - activation_bytes(shape, work, True) - b * shape.trainable
        return {phase: held - saved * (phase == "update") for phase, held in whole.sizes(on_host=False).items() if not (layout.served and phase == "rollout")}
    tower = shape.tower.weights * b if work.reference else 0
    held = (12 * shape.trainable + 4 * (shape.parameters - shape.trainable)) // size + (whole.reference - tower) // size + tower + whole.embeddings
    working = b * (2 * layer_weights(shape, on_gpu=False) + ends(shape))
    update = held + working + 4 * shape.trainable // size + b * ends(shape) + activation_bytes(shape, work, layout.devices.recompute) + whole.head
    rollout = held + b * shape.parameters + whole.packed + whole.cache + 2 * whole.head
    return {"update": update} if layout.served else {"rollout": rollout, "update": update}


def seconds(shape: ModelShape, work: Workload, size: int, layout: Layout, hardware: Hardware = H100) -> dict[str, float]:
    """A step's phases. Sending overlaps with computing where weights are cut; a replica's sum of gradients follows its backward pass."""
    b, rows = work.number_bytes, work.prompts * work.rollouts
    decoder, tower = shape.parameters - shape.tower.weights, shape.tower.weights
    tokens, patches = work.prompts * work.prompt_tokens + rows * work.completion_tokens, work.prompts * work.patches
    times = 3 + work.reference + layout.devices.recompute  # passes as dear as a forward one: the backward pass counts twice
    computed = 2 * (decoder * tokens * times + tower * patches * (3 + layout.devices.recompute)) / hardware.flops
    parts = -(-work.prompts // work.micro_prompts)
    gathered, summed = b * shape.parameters * (2 + work.reference) * parts, 4 * shape.trainable * (parts if layout.devices.shard else 2)
    share, link = (size - 1) / size, hardware.link(size)
    if layout.devices.shard:
        update = max(computed, (gathered + summed) * share / link)
    else:
        update = computed + summed * share / link
    if layout.served:
        return {"rollout": 0.0, "update": update}
    cached = (work.prompts * work.prompt_tokens + rows * work.completion_tokens / 2) * 2 * b * shape.kv_size * shape.layers
    token = max(b * decoder + cached, 0) / hardware.read + 2 * decoder * rows / hardware.flops
    prefill = 2 * (decoder * work.prompts * work.prompt_tokens + tower * patches) / hardware.flops
    gather = b * shape.parameters * share / link if layout.devices.shard else 0.0
    return {"rollout": prefill + gather + work.completion_tokens * token, "update": update}


@dataclass(frozen=True)
class Fit:
    """One line of the table: the fastest layout that fits, its memory and its time; None where none fits."""

    size: int
    layout: Layout | None
    peak: int
    step_s: float


def fit(shape: ModelShape, work: Workload, size: int, hardware: Hardware = H100) -> Fit:
    """The fastest layout of ``size`` GPUs whose memory suffices; else the leanest, with no layout.

    >>> from medvlm_r1.preflight.memory import PAPER
    >>> from medvlm_r1.preflight.shape import QWEN2_VL_72B
    >>> [str(fit(QWEN2_VL_72B, PAPER, size).layout) for size in (8, 64)]
    ['None', 'cut, recomputed, served']
    """
    found = [(layout, max(memory(shape, work, size, layout).values())) for layout in LAYOUTS if size > 1 or not layout.devices.shard]
    fits = [(layout, peak) for layout, peak in found if peak <= FULL * hardware.memory and not layout.served]
    fits = fits or [(layout, peak) for layout, peak in found if peak <= FULL * hardware.memory]
    if not fits:
        return Fit(size, None, min(peak for _, peak in found), 0.0)
    layout, peak = min(fits, key=lambda each: sum(seconds(shape, work, size, each[0], hardware).values()))
    return Fit(size, layout, peak, sum(seconds(shape, work, size, layout, hardware).values()))


def table(shape: ModelShape, work: Workload, sizes: Sequence[int] = SIZES, hardware: Hardware = H100) -> list[str]:
    """A line for each number of GPUs, and what is assumed."""
    lines = [f"  {'GPUs':>5} {'GB each':>8} {'step':>8} {'questions/s':>12}  layout"]
    for size in sizes:
        found = fit(shape, work, size, hardware)
        step, rate = (f"{found.step_s:.1f} s", f"{size * work.prompts / found.step_s:.1f}") if found.layout else ("", "")
        lines.append(f"  {size:>5} {found.peak / 1e9:>8.1f} {step:>8} {rate:>12}  {found.layout or 'does not fit'}")
    return [
        *lines,
        f"  counted for {hardware.name}, {work.prompts} prompts a GPU and step, {work.rollouts} completions of {work.completion_tokens} tokens; assumes "
        f"{hardware.flops / 1e12:.0f} TFLOP/s, {hardware.read / 1e12:.1f} TB/s of memory, {hardware.inside / 1e9:.0f} GB/s within {hardware.node} GPUs and "
        f"{hardware.outside / 1e9:.0f} beyond are reached; served: rollouts are not in the step's time",
    ]
