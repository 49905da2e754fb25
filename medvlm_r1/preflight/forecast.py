"""The memory plan of a configuration beside what the device has: refused, warned of, or fine, before step 1."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from medvlm_r1.errors import ConfigError, ModelError
from medvlm_r1.models.adapt import Trainable, adapt
from medvlm_r1.models.families import FAMILIES, family_of, image_budget, locate, skeleton
from medvlm_r1.models.policy import HEAD_CHUNK_ELEMENTS, Policy
from medvlm_r1.preflight import published
from medvlm_r1.preflight.apart import plan_alone
from medvlm_r1.preflight.machine import Device, this_device
from medvlm_r1.preflight.memory import MemoryPlan, Workload, plan
from medvlm_r1.preflight.shape import KNOWN, ModelShape, Tower
from medvlm_r1.preflight.values import Config
from medvlm_r1.reasoning import render
from medvlm_r1.training.grpo.trainer import GRPOConfig
from medvlm_r1.types import Example

FULL = 0.9  # of the free memory: above it, what a plan leaves out (fragments, one operation's loans) may not fit
TEXT_TOKENS, IMAGES, MAX_PROMPT_TOKENS = 256, 600, 4096  # assumed where no data are at hand
SMALLER = "choose a smaller model or a larger device"
FROZEN = """set trainable.freeze=["vision"]"""
ADAPTERS = f"set trainable.lora.rank=16 and {FROZEN.removeprefix('set ')}, so that adapters alone learn"
TARGET_TOKENS = {"letter": 16, "trace": 256}


@dataclass(frozen=True)
class Prompts:
    """What the data ask for: tokens and image patches of a large prompt, different images in all.

    >>> from medvlm_r1.preflight.shape import QWEN2_VL_2B
    >>> Prompts.assumed(QWEN2_VL_2B.tower, max_pixels=401408)
    Prompts(tokens=768, patches=2048, images=600)
    """

    tokens: int
    patches: int
    images: int

    @classmethod
    def assumed(cls, tower: Tower, max_pixels: int) -> "Prompts":
        """Without data: 600 questions of 256 tokens, each with one image as large as it may be."""
        patches, tokens = tower.seen(max_pixels)
        tokens = min(tokens, MAX_PROMPT_TOKENS - TEXT_TOKENS)
        return cls(tokens + TEXT_TOKENS, min(patches, tower.merged * tokens), IMAGES)

    @classmethod
    def of(cls, policy: Policy, config: Config, examples: Sequence[Example]) -> "Prompts":
        """Those of real questions; costs nothing where the encoder has prepared them already.

        Means over the largest that can meet in a micro-batch: one large picture among small ones counts once.
        """
        encoder, values = policy.encoder, Tower.of(policy.model).patch_values
        prompts = [render(example, config.template) for example in examples]
        patches, tokens = [encoder.seen(prompt) // values for prompt in prompts], [len(encoder.prompt_ids(prompt)) for prompt in prompts]
        together = max(p for p, _ in micro_batches(config, max(tokens)))
        images = len({reference for example in examples for reference in example.images})
        return cls(_mean_of_largest(tokens, together), _mean_of_largest(patches, together), images)


def _mean_of_largest(values: Sequence[int], count: int) -> int:
    largest = sorted(values)[-count:]
    return math.ceil(sum(largest) / len(largest))


def micro_batches(config: Config, prompt_tokens: int, gathered: tuple[int, int] | None = None) -> list[tuple[int, int]]:
    """Prompts of the largest micro-batches, and the tokens of a completion in each; ``gathered``: one of ``gatherings``, the first if left out."""
    if not isinstance(config, GRPOConfig):
        return largest_micro_batches(config.prompts_per_step, prompt_tokens, 1, TARGET_TOKENS[config.target], config.tokens_per_micro_batch)
    groups, rollouts = gathered or gatherings(config)[0]
    return largest_micro_batches(groups, prompt_tokens, rollouts, config.sampling.max_tokens, config.update.tokens_per_micro_batch)


def largest_micro_batches(prompts: int, prompt_tokens: int, rollouts: int, completion_tokens: int, budget: int) -> list[tuple[int, int]]:
    """(prompts, tokens of a completion) of the micro-batches with the most tokens that whole groups can make: of those that are a part of
    a step, and of those that are all of it, which hold no other's gradients.

    Shorter completions let more prompts in, and fill the budget where full ones leave it half empty.

    >>> largest_micro_batches(4, 768, 4, 512, budget=6144)  # two prompts with 512 tokens a completion are 5,632
    [(3, 320), (4, 192)]
    >>> largest_micro_batches(4, 768, 4, 512, budget=1), largest_micro_batches(4, 768, 4, 512, budget=16384)
    ([(1, 512)], [(4, 512)])
    """
    fits = [(1, completion_tokens)]
    for together in range(2, prompts + 1):
        length = min(completion_tokens, (budget // together - prompt_tokens) // rollouts)
        if length > 0:
            fits.append((together, length))
    if fits[-1] == (prompts, completion_tokens):
        return fits[-1:]  # every step is one micro-batch
    parts, whole = ([each for each in fits if (each[0] == prompts) is all_of_it] for all_of_it in (False, True))
    return [max(some, key=lambda each: (each[0] * (prompt_tokens + rollouts * each[1]), each[1])) for some in (parts, whole) if some]


def gatherings(config: GRPOConfig) -> list[tuple[int, int]]:
    """(groups, rollouts of each) of a step where all questions can be shown under all views, and where none can but under the first.

    >>> from medvlm_r1.rollout.engine import Sampling
    >>> gatherings(GRPOConfig()), gatherings(GRPOConfig(sampling=Sampling(n=8), meter=2))
    ([(4, 4)], [(8, 6), (4, 8)])
    """
    parts, n = config.shares, config.sampling.n
    whole = (config.prompts_per_step * len(parts), max(share.n for share in parts.values()))
    return [whole] if len(parts) == 1 else [whole, (config.prompts_per_step, n)]


@dataclass(frozen=True)
class Forecast:
    """A plan, the workload that it is for, and the device that it must fit."""

    config: Config
    work: Workload
    plan: MemoryPlan
    device: Device
    shape: ModelShape

    @property
    def peak(self) -> int:
        return self.plan.peak(self.device.is_host)[1]

    @property
    def fits(self) -> bool:
        """Below 90 % of the free memory."""
        return self.peak <= FULL * self.device.free

    def impossible(self) -> str:
        """Why no setting of the data can help: the certain parts exceed all memory of the device; "" where they do not."""
        if self.plan.certain <= self.device.total:
            return ""
        if self.plan.certain - self.plan.reference <= self.device.total:
            remedy = "set update.loss.kl_beta=0, which needs no reference"
        else:
            remedy = ADAPTERS if self.plan.weights <= FULL * self.device.total and not self.config.trainable.lora.rank else SMALLER
        return (
            f'weights and optimiser of "{self.config.model}" take {gib(self.plan.certain)} and {self.device.name} has {gib(self.device.total)} in all; {remedy}'
        )

    def refuse(self) -> None:
        """Raises ConfigError where it is impossible; what is estimated refuses nothing."""
        if reason := self.impossible():
            raise ConfigError(reason)

    def remedy(self) -> str:
        """The largest part of the peak that can be lowered, and how."""
        phase, _ = self.plan.peak(self.device.is_host)
        how = _remedies(self.config, self.work)
        open_parts = [part for part in self.plan.phases(self.device.is_host)[phase] if part in how and self.plan.parts[part]]
        if not open_parts:
            return SMALLER if self.config.trainable.lora.rank else ADAPTERS
        largest = max(open_parts, key=self.plan.parts.__getitem__)
        return f"the largest part that can be lowered is {largest} ({gib(self.plan.parts[largest])}): {how[largest]}"

    def sentence(self) -> str:
        """Need, supply and remedy."""
        phase, peak = self.plan.peak(self.device.is_host)
        return f"the memory plan needs {gib(peak)} ({phase}) and {self.device.name} has {gib(self.device.free)} free; {self.remedy()}"

    def to_dict(self) -> dict[str, Any]:
        """Everything, in bytes, ready for JSON."""
        return {
            "model": self.config.model,
            "parts": self.plan.parts,
            "phases": self.plan.sizes(self.device.is_host),
            "workload": asdict(self.work),
            "device": asdict(self.device),
            "fits": self.fits,
        }


def _remedies(config: Config, work: Workload) -> dict[str, str]:
    group = work.prompt_tokens + work.rollouts * work.completion_tokens
    half = work.micro_prompts // 2 * group
    if not isinstance(config, GRPOConfig):
        fewer = f"lower tokens_per_micro_batch to {half}" if half else "lower max_pixels"
        return {"activations": fewer, "vision": f"{fewer}, or {FROZEN}", "pixels": "lower max_pixels"}
    half = max(group, work.micro_tokens // 2)  # shorter completions fill whatever budget there is
    return {
        "activations": f"lower update.tokens_per_micro_batch to {half}" if work.micro_prompts > 1 else "lower sampling.max_tokens or sampling.n",
        "vision": f"lower max_pixels{', redraws' * bool(config.redraws)} or prompts_per_step, or {FROZEN}",
        "pixels": "lower max_pixels",
        "cache": "lower sampling.max_tokens or sampling.n",
        "reference": "set update.loss.kl_beta=0",
        "embeddings": "set update.loss.kl_beta=0",
    }


def gib(size: int) -> str:
    """Bytes for a person.

    >>> gib(80 * 2**30), gib(3 * 2**19)
    ('80.0 GiB', '1.5 MiB')
    """
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def forecast(config: Config, shape: ModelShape, prompts: Prompts, device: Device) -> Forecast:
    """What a configuration takes with these prompts."""
    positions = HEAD_CHUNK_ELEMENTS // shape.vocabulary
    works = [replace(work, on_gpu=not device.is_host) for work in workloads(config, prompts, positions)]
    budget = config.update.tokens_per_micro_batch if isinstance(config, GRPOConfig) else config.tokens_per_micro_batch
    planned = [(work, plan(shape, work) if shape.shares_prompts else plan_alone(shape, work, budget)) for work in works]
    return max((Forecast(config, work, made, device, shape) for work, made in planned), key=lambda found: found.peak)


def workloads(config: Config, prompts: Prompts, head_positions: int) -> list[Workload]:
    """The largest steps of a configuration, every completion as long as it may be: of each of its ``gatherings`` with each of their ``micro_batches``."""
    p, number_bytes = config.prompts_per_step, {"float32": 4, "bfloat16": 2}[config.dtype]
    if not isinstance(config, GRPOConfig):
        shares, c, penalised = [(p, 1)], TARGET_TOKENS[config.target], False
    else:
        shares, c, penalised = gatherings(config), config.sampling.max_tokens, bool(config.update.loss.kl_beta)
    first = Workload(p, 1, prompts.tokens, c, prompts.patches, prompts.images, p, c, head_positions, number_bytes, penalised, isinstance(config, GRPOConfig))
    first = replace(first, redraws=getattr(config, "redraws", 0))
    return [
        replace(first, prompts=groups, rollouts=g, micro_prompts=together, micro_completion=length)
        for groups, g in shares
        for together, length in micro_batches(config, prompts.tokens, (groups, g))
    ]


def before_loading(config: Config, device: Device | None = None) -> tuple[Forecast, str]:
    """A forecast without data, weights or download, and what it assumes; for this machine, or another device.

    Raises ModelError where the model is neither here nor known.
    """
    shape, budget, source = _shape(config)
    assumed = Prompts.assumed(shape.tower, budget)
    said = f"assumes {assumed.images} images of at most {assumed.tokens - TEXT_TOKENS} tokens and {TEXT_TOKENS} tokens of text a question"
    return forecast(config, shape, assumed, device or this_device()), f"{source}; {said}"


def _shape(config: Config) -> tuple[ModelShape, int, str]:
    """Shape and image budget of a configuration's model, and where they come from."""
    try:
        directory = locate(config.model, download=False)
    except ModelError:
        said = f'"{config.model}" is not here: its published sizes'
        if config.model in published.PUBLISHED:
            model = adapt(published.skeleton(config.model), config.trainable)
            shape = ModelShape.of(model, model.config.model_type in FAMILIES)
            return shape, shape.tower.tile * shape.tower.patch_px**2, said if shape.shares_prompts else f"{said}, estimated"
        if config.model not in KNOWN:
            raise
        return learning(KNOWN[config.model], config.trainable), config.max_pixels or 12_845_056, said
    is_known = family_of(directory) is not None
    source = f"{'counted' if is_known else 'estimated'} from {directory / 'config.json'}"
    return ModelShape.of(adapt(skeleton(directory), config.trainable), is_known), image_budget(directory, config.max_pixels), source


def learning(shape: ModelShape, trainable: Trainable) -> ModelShape:
    """A Qwen2-VL's shape with parts frozen and adapters put in, by counting: for a model that is not here.

    A layer of its decoder has biases at query, key and value, and two norms.
    """
    h, kv, m = shape.hidden, shape.kv_size, shape.mlp
    attention = {"q_proj": (h, h), "k_proj": (h, kv), "v_proj": (h, kv), "o_proj": (h, h)}
    sizes = attention | {"gate_proj": (h, m), "up_proj": (h, m), "down_proj": (m, h)}
    text = shape.layers * (sum(i * o for i, o in sizes.values()) + h + 2 * kv + 2 * h) + h
    vision = shape.tower.weights
    counts = {"text": text, "embeddings": shape.parameters - text - vision, "vision": vision}
    lora = trainable.lora
    adapters = lora.rank * shape.layers * sum(sum(sizes[name]) for name in lora.targets)
    learns = [part for part in counts if part not in trainable.freeze and (part == "vision" or not lora.rank)]
    return replace(
        shape, parameters=shape.parameters + adapters, trainable=sum(counts[part] for part in learns) + adapters,
        tower=replace(shape.tower, trains="vision" in learns), adapters=adapters,
    )  # fmt: skip


def check_weights(config: Config, device: Device) -> None:
    """Raises ConfigError, before anything is fetched or loaded, where weights and optimiser cannot fit the device."""
    try:
        shape, *_ = _shape(config)
    except ModelError:
        return  # not here yet, or damaged: loading it says what is wrong, and the plan is made again after that
    forecast(config, shape, Prompts(0, 0, 0), device).refuse()
