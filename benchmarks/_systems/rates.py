"""What this machine's matrix products reach, for a floor under a step: one line of JSON. A process of its own, with the threads that it is given."""

import json
import sys

import torch
from peaks import best_seconds


def rate(rows: int, inputs: int, outputs: int, threads: int) -> float:
    """Floating-point operations a second of a linear layer over so many rows; the best of many calls."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    seconds = best_seconds(lambda: torch.nn.functional.linear(x, weight), repeats=200)
    torch.set_num_threads(before)
    return 2 * rows * inputs * outputs / seconds


if __name__ == "__main__":
    group, hidden, mlp = map(int, sys.argv[1:])
    # Decoding goes over a group's rows, by one core as we do it or by all; everything else over a thousand rows and more.
    few = max(rate(group, hidden, 2 * mlp, threads) for threads in {1, torch.get_num_threads()})
    many = max(rate(rows, hidden, mlp, torch.get_num_threads()) for rows in (768, 1536))
    json.dump({"few_rows": few, "many_rows": many}, sys.stdout)
