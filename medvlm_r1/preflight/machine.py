"""Where a run computes, and how much memory is there."""

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medvlm_r1.training.host import control_group, host_memory


@dataclass(frozen=True)
class Device:
    """A device with its memory in bytes: all of it, and what this process may still take.

    >>> Device("NVIDIA H100", total=80 * 2**30, free=79 * 2**30, is_host=False).free // 2**30
    79
    """

    name: str
    total: int
    free: int
    is_host: bool


def this_device() -> Device:
    """The first GPU, or the CPU with the memory that the machine and its container leave us."""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # the allocator's own reserve
        return Device(torch.cuda.get_device_name(), total, free + kept, is_host=False)
    return Device("the CPU", *host_memory(Path("/proc/meminfo"), control_group()), is_host=True)


def hardware() -> dict[str, Any]:
    """What a paper says of the machine: processor, cores that this process may use, memory in GiB, and the GPU where there is one.

    >>> sorted(hardware().keys() - {"gpu"})
    ['cores', 'memory_gib', 'processor']
    """
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {"processor": model[1] if model else platform.machine(), "cores": cores, "memory_gib": round(host / 2**30, 1)}
    return found | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})
