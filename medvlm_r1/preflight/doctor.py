"""What this machine has, and what to do about what it has not."""

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import transformers

from medvlm_r1.errors import install
from medvlm_r1.models import nano
from medvlm_r1.preflight.forecast import Forecast, gib


@dataclass(frozen=True)
class Check:
    """One line of the doctor.

    >>> Check("python", "3.11.7", True).ok
    True
    """

    name: str
    found: str
    ok: bool
    remedy: str = ""


def checks() -> list[Check]:
    """Everything worth knowing before a run."""
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    transformers_version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    free_gib = shutil.disk_usage(".").free / 2**30
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none: the CPU is used"
    return [
        Check("python", sys.version.split()[0], sys.version_info >= (3, 11), "install Python 3.11 or newer"),
        Check("torch", torch.__version__, version >= (2, 11), install("torch>=2.11")),
        Check("transformers", transformers.__version__, transformers_version >= (5, 17), install("transformers>=5.17")),
        Check("gpu", device, True),
        Check("cores", cores(len(os.sched_getaffinity(0)), getattr(torch.cpu, "get_capabilities", dict)()), True),
        Check("memory", f"{memory_gib:.0f} GiB", memory_gib >= 4, "the demo needs 4 GiB"),
        Check("disk", f"{free_gib:.0f} GiB free", free_gib >= 2, "free 2 GiB"),
        Check("nano weights", str(nano.BASE_DIR), (nano.BASE_DIR / "model.safetensors").exists(), "medvlm-r1 nano"),
    ]


def cores(count: int, able: Mapping[str, object]) -> str:
    """How many there are, and whether they multiply bfloat16; elsewhere it is emulated and several times as slow as float32.

    >>> cores(2, {"avx512_bf16": True}), cores(8, {"avx512_f": True})
    ('2; they multiply bfloat16: a large model is quicker with dtype=bfloat16 here', '8')
    """
    quick = any(able.get(name) for name in ("avx512_bf16", "amx_bf16"))
    return f"{count}{'; they multiply bfloat16: a large model is quicker with dtype=bfloat16 here' if quick else ''}"


def memory_check(forecast: Forecast, name: str = "memory plan") -> Check:
    """Does the plan fit this device?"""
    found = f"{gib(forecast.peak)} of {gib(forecast.device.free)} free on {forecast.device.name}"
    return Check(name, found, forecast.fits, forecast.impossible() or forecast.remedy())


def memory_table(forecast: Forecast, assumed: str) -> list[str]:
    """The plan as lines: its parts, then what each phase holds together."""
    work, phases = forecast.work, forecast.plan.sizes(forecast.device.is_host)
    peak = max(phases, key=phases.__getitem__)
    return [
        f'memory of "{forecast.config.model}" in training: {work.prompts} prompts of about {work.prompt_tokens} tokens a step, '
        f"{work.rollouts} x {work.completion_tokens} tokens each, {work.micro_prompts} prompts in a micro-batch",
        *(f"  {part:<12} {gib(size):>10}" for part, size in forecast.plan.parts.items() if size),
        *(f"  {phase:<12} {gib(size):>10}  together{', the peak' * (phase == peak)}" for phase, size in phases.items()),
        f"  {assumed}",
    ]
