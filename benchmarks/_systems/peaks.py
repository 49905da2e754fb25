"""What the device can do, measured on it: one line of JSON. A process of its own, so that nothing stays on the device."""

import json
import sys
import time
from collections.abc import Callable

import torch


def best_seconds(action: Callable[[], object], repeats: int) -> float:
    """The shortest of several calls."""
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    seconds = []
    for _ in range(repeats):
        synchronize()
        start = time.perf_counter()
        action()
        synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def matmul_flops(device: str, dtype: torch.dtype, size: int) -> float:
    """Floating-point operations a second of a square matrix product."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / best_seconds(lambda: a @ b, repeats=20)


def copy_bytes(device: str, size: int) -> float:
    """Bytes a second of a copy on the device: each is read once and written once."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / best_seconds(lambda: target.copy_(source), repeats=20)


def measure(tiny: bool) -> dict[str, object]:
    """Of the first GPU; of the processor for a tiny run; of nothing where there is no GPU."""
    if tiny:
        flops = matmul_flops("cpu", torch.float32, 256)
        return {"gpu": None, "memory_gib": None, "matmul_flops": flops, "copy_bytes": copy_bytes("cpu", 2**24)}
    if not torch.cuda.is_available():
        return {"gpu": None}
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "matmul_flops": matmul_flops("cuda", torch.bfloat16, 8192),
        "copy_bytes": copy_bytes("cuda", 2**31),
    }


if __name__ == "__main__":
    json.dump(measure("--tiny" in sys.argv[1:]), sys.stdout)
