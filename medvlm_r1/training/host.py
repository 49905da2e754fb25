"""The memory that the machine and its container leave us."""

import os
from pathlib import Path


def host_memory(meminfo: Path, group: Path | None) -> tuple[int, int]:
    """Total (with swap) and available memory; a control group (cgroup v2) may grant less than the machine has."""
    if not meminfo.exists():
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return pages, pages
    kib = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in meminfo.read_text().splitlines())}
    swap, total, free = kib["SwapTotal"] * 1024, kib["MemTotal"] * 1024, kib["MemAvailable"] * 1024
    if group is not None and (limit := (group / "memory.max").read_text().strip()) != "max":
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(stat["inactive_file"])  # a cache that gives way
        total, free = min(total, int(limit)), min(free, int(limit) - used)
    return total + swap, free


def control_group() -> Path | None:
    """The folder of this process's control group, where it limits the memory; None elsewhere."""
    file = Path("/proc/self/cgroup")
    names = file.read_text().splitlines() if file.exists() else []
    place = next((line.removeprefix("0::/") for line in names if line.startswith("0::")), None)
    folder = Path("/sys/fs/cgroup") / (place or "")
    return folder if place is not None and (folder / "memory.max").exists() else None


def free_memory() -> int:
    """Bytes that are left."""
    return host_memory(Path("/proc/meminfo"), control_group())[1]
