"""The memory plan of a model without a family, whose completions run their prompts anew (models.general): an estimate."""

from dataclasses import replace

from medvlm_r1.preflight.memory import MemoryPlan, Workload, plan
from medvlm_r1.preflight.shape import ModelShape

WHOLE = 2**31  # positions: nobody cuts the head's work into pieces


def alone(work: Workload, budget: int) -> Workload:
    """As if each completion belonged to a prompt of its own; a micro-batch holds whole groups while their tokens fit ``budget``.

    >>> one = alone(Workload(4, 4, 768, 512, 2048, 600, 3, 320, 441), budget=6144)
    >>> one.prompts, one.rollouts, one.micro_prompts, one.micro_tokens
    (16, 1, 4, 5120)
    """
    group = work.rollouts * (work.prompt_tokens + work.completion_tokens)
    together = max(1, min(work.prompts, budget // group))
    return replace(
        work, prompts=work.prompts * work.rollouts, rollouts=1, micro_prompts=together * work.rollouts, micro_completion=work.completion_tokens,
        head_positions=WHOLE,
    )  # fmt: skip


def plan_alone(shape: ModelShape, work: Workload, budget: int) -> MemoryPlan:
    """What ``plan`` says of that, without what only shared prompts keep; pictures wait as three bytes a pixel."""
    one = alone(work, budget)
    in_pass = replace(one, prompts=one.micro_prompts, generates=False)  # pictures are encoded in each pass and never before it
    found = plan(shape, one)
    return replace(found, packed=0, embeddings=0, vision=plan(shape, in_pass).vision, pixels=work.images * work.patches * 3 * shape.tower.patch_px**2)
