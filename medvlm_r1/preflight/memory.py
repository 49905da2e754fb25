"""How much memory a run takes, from sizes alone: known before anything is loaded.

Legend: P prompts of a step, G rollouts of a prompt, L prompt tokens (image tokens
included), C completion tokens, H hidden size, V vocabulary, b bytes of a number in
the training type (bfloat16: 2). All results are bytes.
"""

from dataclasses import asdict, dataclass

from medvlm_r1.models.packed import WIDE
from medvlm_r1.preflight.shape import QWEN2_VL_2B, ModelShape  # noqa: F401 - the examples are about it

HEAD_BYTES = 12  # of one logit while it becomes a log-probability: float32 logits, the scaled copy, the result


@dataclass(frozen=True)
class Workload:
    """The largest step of a run: P prompts of L tokens, G rollouts of C tokens each.

    ``patches`` are those of one prompt's images, of whatever size the tower's are; ``images`` the pictures of the whole run.
    ``redraws``: how often others may be asked in the place of all prompts.
    In an update ``micro_prompts`` with completions of ``micro_completion`` tokens go through the model together, which is the
    most that micro-batches can hold; the LM head takes ``head_positions`` at a time. Supervised training has one rollout, which
    it does not generate. ``on_gpu``: fused kernels keep less for the backward pass.

    >>> PAPER.micro_tokens  # 3 prompts of 768, 12 completions of 320: more than 2 prompts with completions of full length
    6144
    """

    prompts: int
    rollouts: int
    prompt_tokens: int
    completion_tokens: int
    patches: int
    images: int
    micro_prompts: int
    micro_completion: int
    head_positions: int
    number_bytes: int = 2
    reference: bool = True
    generates: bool = True
    on_gpu: bool = True
    redraws: int = 0

    @property
    def seen(self) -> int:
        """Prompts whose encoded pictures are held at once: what rollouts encoded, the update goes back through at its end."""
        return self.prompts * (1 + self.redraws) if self.generates else self.micro_prompts

    @property
    def micro_tokens(self) -> int:
        """Tokens that the language model sees in the largest micro-batch."""
        return self.micro_prompts * (self.prompt_tokens + self.rollouts * self.micro_completion)


PAPER = Workload(4, 4, 768, 512, 2048, 600, 3, 320, 441)


@dataclass(frozen=True)
class MemoryPlan:
    """Where a run's memory goes, in bytes.

    Qwen2-VL-2B at the paper's setting: P = G = 4, C = 512, one image of 2,048 patches
    (512 tokens) and 256 tokens of text a prompt, 600 images, bfloat16, on a GPU; three prompts with
    completions of 320 tokens are the largest micro-batch:

    =========== ============================================== ======
    weights     2,208,985,600 x 2                                4.42
    masters     2,208,985,600 x 4, float32 copies                8.84
    moments     2,208,985,600 x 8, AdamW's two                  17.67
    reference   2,208,985,600 x 2                                4.42
    embeddings  600 x 512 x 1536 x 2, the reference's images     0.94
    gradients   the others' than the tower's, 1,543,714,304 x 2  3.09
    activations 6,144 tokens x 2,151,968, and joined weights    13.40
    vision      8,192 patches x 1,571,120, from the rollout on  12.87
    head        441 x 151,936 x 12                               0.80
    packed      28 layers x 30,670,848 x 2                       1.72
    cache       (2 x 4 x 768 + 16 x 512) tokens x 28,672         0.41
    stepped     2,208,985,600 x 4, float32 gradients             8.84
    pixels      600 x 2,048 x 1,176 x 2, pinned on the host      2.89
    =========== ============================================== ======

    >>> {name: round(size / 1e9, 2) for name, size in plan(QWEN2_VL_2B, PAPER).parts.items()}
    ... # doctest: +NORMALIZE_WHITESPACE
    {'weights': 4.42, 'masters': 8.84, 'moments': 17.67, 'reference': 4.42, 'embeddings': 0.94, 'gradients': 3.09,
     'activations': 13.4, 'vision': 12.87, 'head': 0.8, 'packed': 1.72, 'cache': 0.41, 'stepped': 8.84, 'pixels': 2.89}
    """

    weights: int
    masters: int
    moments: int
    reference: int
    embeddings: int
    gradients: int
    activations: int
    vision: int
    head: int
    packed: int
    cache: int
    stepped: int
    pixels: int

    @property
    def parts(self) -> dict[str, int]:
        """All parts by name; they are not all there at the same time."""
        return asdict(self)

    @property
    def certain(self) -> int:
        """What is held from the first optimiser step on, whatever the data: a device with less cannot do the run."""
        return self.weights + self.masters + self.moments + self.reference

    def phases(self, on_host: bool) -> dict[str, tuple[str, ...]]:
        """The parts that each phase holds together. Pixels count where the device's memory is the host's.

        In the optimiser's step the gradients are as wide as the masters.
        """
        held = ("weights", "masters", "moments", "reference", "embeddings", "packed", *(["pixels"] if on_host else []))
        rollout = {"rollout": (*held, "vision", "cache")} if self.cache else {}
        return rollout | {"update": (*held, "gradients", "activations", "vision", "head"), "step": (*held, "stepped")}

    def sizes(self, on_host: bool) -> dict[str, int]:
        """What each phase needs."""
        return {phase: sum(self.parts[part] for part in parts) for phase, parts in self.phases(on_host).items()}

    def peak(self, on_host: bool) -> tuple[str, int]:
        """The phase that needs most, and what it needs.

        >>> phase, size = plan(QWEN2_VL_2B, PAPER).peak(on_host=False)
        >>> phase, round(size / 1e9, 2)
        ('update', 68.16)
        """
        return max(self.sizes(on_host).items(), key=lambda item: item[1])


def plan(shape: ModelShape, work: Workload) -> MemoryPlan:
    """The memory plan of a model under a workload: sizes of what is kept, not what one operation borrows meanwhile."""
    b, rows = work.number_bytes, work.prompts * work.rollouts
    image_tokens = work.patches // shape.tower.merged
    cached = 2 * work.prompts * work.prompt_tokens + rows * work.completion_tokens  # a prompt's as computed, and as decoding reads them
    tower = vision_bytes(shape, b, work.on_gpu) if shape.tower.trains else 0
    positions = min(work.head_positions, work.micro_prompts * work.rollouts * work.micro_completion)
    activations = work.micro_tokens * decoder_bytes(shape, b, work.on_gpu) + b * shape.layers * shape.hidden * (shape.query + 2 * shape.kv_size)
    vision, head = work.seen * work.patches * tower, HEAD_BYTES * positions * shape.vocabulary
    return MemoryPlan(
        weights=b * shape.parameters,
        masters=4 * shape.trainable if b < 4 else 0,
        moments=8 * shape.trainable,
        reference=b * (shape.trainable - shape.adapters) if work.reference else 0,  # what learns is copied, the rest shared
        embeddings=b * work.images * image_tokens * shape.hidden if work.reference or not shape.tower.trains else 0,
        gradients=gradients(shape, work, activations + head, vision),
        activations=activations,  # and the joined weights of query, key and value
        vision=vision,
        head=head,
        packed=b * (shape.layers * layer_weights(shape, work.on_gpu) + head_weights(shape, work.on_gpu)) if work.generates else 0,
        cache=cached * 2 * b * shape.kv_size * shape.layers if work.generates else 0,
        stepped=4 * shape.trainable,
        pixels=(b if work.on_gpu else 4) * work.images * work.patches * shape.tower.patch_values,
    )


def gradients(shape: ModelShape, work: Workload, activations: int, vision: int) -> int:
    """What there is of the gradients when an update holds most.

    One of several micro-batches finds those of the others: all, but for the tower's where the update goes back through it at its end.
    Where a step is one micro-batch they come as ``activations`` go, layer by layer, and ``vision`` after them: at first the head's alone.

    >>> step = Workload(4, 4, 376, 150, 1024, 600, 4, 150, 441)  # of 3,904 tokens, one micro-batch
    >>> gradients(QWEN2_VL_2B, step, 10**10, 10**10) == 2 * 151936 * 1536  # the head's
    True
    >>> round(gradients(QWEN2_VL_2B, PAPER, 10**10, 10**10) / 1e9, 2), gradients(QWEN2_VL_2B, step, 10**9, 10**10) + 10**9 == 2 * 1_543_714_304
    (3.09, True)
    """
    b, rest = work.number_bytes, shape.trainable - shape.tower.weights * shape.tower.trains
    if work.micro_prompts < work.prompts:
        return b * (rest if work.generates else shape.trainable)
    first = min(rest, shape.vocabulary * shape.hidden)
    return max(b * first, b * rest - activations, b * shape.trainable - activations - vision)


def layer_weights(shape: ModelShape, on_gpu: bool) -> int:
    """Elements of a decoder layer's matrices of which decoding has a copy of its own: on a GPU of those that it joins, on a CPU of all.

    >>> layer_weights(QWEN2_VL_2B, on_gpu=False) == 2 * 1536 * 1536 + 2 * 1536 * 256 + 3 * 1536 * 8960
    True
    >>> layer_weights(QWEN2_VL_2B, on_gpu=True) == 1536 * (1536 + 2 * 256) + 2 * 1536 * 8960
    True
    """
    joined = shape.hidden * (shape.query + 2 * shape.kv_size + 2 * shape.mlp)
    return joined if on_gpu else joined + shape.hidden * (shape.query + shape.mlp)


def head_weights(shape: ModelShape, on_gpu: bool) -> int:
    """Elements of the head, where decoding has a copy of it: on a CPU, where it is large.

    >>> head_weights(QWEN2_VL_2B, on_gpu=False), head_weights(QWEN2_VL_2B, on_gpu=True)
    (233373696, 0)
    """
    elements = shape.hidden * shape.vocabulary
    return elements if elements >= WIDE and not on_gpu else 0


def decoder_bytes(shape: ModelShape, b: int, on_gpu: bool = False) -> int:
    """What autograd keeps of one token in all decoder layers.

    A layer keeps, of width H: two norms' inputs (in float32), what they normed and gave, the query, the attention's
    output; of the key-value width: key and value; of the MLP's width: gate, its SiLU, up, their product; and the
    attention's float32 log-sum of each head. Keys that an attention kernel repeats for its heads come on top.

    On a GPU norms and gate are one kernel each. A layer keeps the norms' inputs as they are and what they gave, each
    row's scale, query, key and value before and after the rotation (the value once), the attention's output; gate, up, product.

    A norm behind a half keeps its input, and on a CPU what it normed, as norms of 1 + weight do, in float32; norms of heads are no kernel anywhere.

    >>> (1536 * (2 * 4 + 6 * 2) + 2 * (2 * 256 + 4 * 8960) + 4 * 12) * 28 == decoder_bytes(QWEN2_VL_2B, 2)
    True
    >>> (2 * (7 * 1536 + 3 * 256 + 3 * 8960) + 4 * 12 + 8) * 28 == decoder_bytes(QWEN2_VL_2B, 2, on_gpu=True)
    True
    """
    if on_gpu:
        layer = b * (4 * shape.hidden + 3 * shape.query + 3 * shape.kv_size + 3 * shape.mlp) + 4 * shape.heads + 8
        layer += (2 * b * shape.hidden + 8) * shape.norms_behind
    else:
        layer = shape.hidden * (8 + 4 * b) + b * (2 * shape.query + 2 * shape.kv_size + 4 * shape.mlp) + 4 * shape.heads
        layer += shape.hidden * (16 + 2 * (4 - b)) * shape.norms_behind
    layer += (shape.query + shape.kv_size) * (8 if shape.norms_behind else 4 + b) * shape.head_norms
    return layer * shape.layers


def vision_bytes(shape: ModelShape, b: int, on_gpu: bool = False) -> int:
    """What autograd keeps of one patch in the vision tower.

    A block keeps, of its width: two norms' inputs and outputs, query, key and value, attention's output; where positions are turned
    query and key once more and the output twice, where a block's branches are scaled each branch too; of the MLP's width: what is before
    and after the GELU, and a quick GELU's gate, but where a GPU has one kernel for it. Then the patch itself, and what the projector's matrices take; behind blocks that see
    one size a last norm. Of a tower of convolutions it was counted.

    >>> (2 * (11 * 1280 + 3 * 5120) + 4 * 16) * 32 + 2 * (1176 + 4 * 1280) == vision_bytes(QWEN2_VL_2B, 2)
    True
    >>> vision_bytes(QWEN2_VL_2B, 2), vision_bytes(QWEN2_VL_2B, 2, on_gpu=True)
    (1898800, 1571120)
    """
    tower = shape.tower
    if tower.convolved:
        return b * tower.convolved
    block = b * (tower.kept * tower.hidden + tower.kept_mlp[on_gpu] * tower.mlp) + 4 * tower.heads
    last = 2 * tower.hidden if tower.tile else 0
    return block * tower.layers + b * (tower.patch_values + last + tower.projected // tower.merged)
