"""What a benchmark and the trainers it drives agree on. Standard library only: every environment imports it.

A trainer runs in a process of its own, waits for a line on its standard input,
takes one training step, and answers with one line of JSON.
"""

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Setting:
    """What both trainers are given. ``image_px`` is a multiple of 28, so that no processor resizes."""

    name: str
    image_px: int
    group: int
    tokens: int
    repeats: int
    threads: int = 2
    warmup: int = 1
    beta: float = 0.04
    template: str = "paper-train"
    hidden: int = 256
    layers: int = 6
    mlp: int = 1024
    vision_width: int = 192
    vision_depth: int = 6
    checkpointing: bool = False

    @property
    def steps(self) -> int:
        return self.warmup + self.repeats


SETTINGS = {
    "small": Setting("small", image_px=336, group=8, tokens=64, repeats=5),
    "large": Setting("large", image_px=560, group=16, tokens=64, repeats=3),
    "tiny": Setting("tiny", image_px=56, group=2, tokens=4, repeats=2, threads=1, hidden=64, layers=1, mlp=64, vision_width=64, vision_depth=1),
}


@dataclass(frozen=True)
class Point:
    """One size of a step with one prompt: G completions of so many tokens, about so many square images."""

    group: int = 8
    image_px: int = 336
    images: int = 1
    tokens: int = 64


@dataclass(frozen=True)
class Work:
    """The files of one run: the model, and the questions in the order in which they are asked.

    ``scored``: token ids of completions of the first question, whose log-probabilities both trainers state.
    """

    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def write(self, name: str, content: Any) -> None:
        (self.folder / f"{name}.json").write_text(json.dumps(content))

    def read(self, name: str) -> Any:
        return json.loads((self.folder / f"{name}.json").read_text())

    def write_setting(self, setting: Setting) -> None:
        self.write("setting", asdict(setting))

    @property
    def setting(self) -> Setting:
        return Setting(**self.read("setting"))


class Channel:
    """The trainer's end of the line. What a library prints goes to standard error instead."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def send(self, message: dict[str, Any]) -> None:
        self._out.write(json.dumps(message) + "\n")

    def wait(self) -> None:
        """Until the next step is asked for; ends the process when there is none."""
        if not sys.stdin.readline():
            sys.exit(0)


def reward(text: str) -> float:
    """Any number that differs between the completions of a group, and costs nothing.

    >>> reward("axial")
    0.6
    """
    return sum(letter in "aeiou" for letter in text) / max(1, len(text))


def largest_difference(ours: list[list[float]], theirs: list[list[float]]) -> float:
    """The largest |Δ log p| over all tokens.

    >>> largest_difference([[-1.0, -2.0]], [[-1.0, -2.5]])
    0.5
    """
    return max(abs(a - b) for row, other in zip(ours, theirs, strict=True) for a, b in zip(row, other, strict=True))
