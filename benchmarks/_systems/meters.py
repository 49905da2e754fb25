"""Seconds and work by phase, measured in the same way in every trainer: by hooks, from outside."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from protocol import Channel

PHASES = ("rollout", "reference", "update", "other")


class Recorder:
    """At any time one phase runs; time and counts go to it.

    A step lasts from one ``between_steps`` to the next, without the wait inside.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel, self.phase, self.started_s = channel, "other", None
        self._clear()

    def _clear(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.counts: dict[str, Counter] = defaultdict(Counter)

    def enter(self, phase: str) -> None:
        now_s = time.perf_counter()
        if self.started_s is not None:
            self.seconds[self.phase] += now_s - self.started_s
        self.phase, self.started_s = phase, now_s

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        before = self.phase
        self.enter(phase)
        yield
        self.enter(before)

    def between_steps(self, **ready: Any) -> None:
        """Report the step that ended (before the first: ``ready``), then wait until the next is asked for."""
        self.enter("other")
        done = {"seconds": self.seconds, "counts": {phase: dict(counts) for phase, counts in self.counts.items()}}
        self.channel.send((ready or done) | memory())
        self.channel.wait()
        self._clear()
        self.phase, self.started_s = "other", time.perf_counter()

    def count(self, name: str, number: int) -> None:
        self.counts[self.phase][name] += int(number)

    def watch(self, model: Any) -> None:
        """Count what goes through a Qwen2-VL: images, tokens of the language model, positions of its head."""

        def images(_: Any, args: tuple, kwargs: dict) -> None:
            self.count("images_encoded", len(kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]))

        def tokens(_: Any, args: tuple, kwargs: dict) -> None:
            self.count("lm_tokens", kwargs["inputs_embeds"].shape[:2].numel())

        def positions(_: Any, args: tuple) -> None:
            self.count("lm_head_positions", args[0].shape[:-1].numel())

        model.model.visual.register_forward_pre_hook(images, with_kwargs=True)
        model.model.language_model.register_forward_pre_hook(tokens, with_kwargs=True)
        model.lm_head.register_forward_pre_hook(positions)

    def watch_images(self, image_processor: Any) -> None:
        """Count the images that an image processor turns into patches."""
        preprocess = image_processor.preprocess

        def counted(*args: Any, **kwargs: Any) -> Any:
            out = preprocess(*args, **kwargs)
            self.count("images_preprocessed", len(out["image_grid_thw"]))
            return out

        image_processor.preprocess = counted


def memory() -> dict[str, int]:
    """The process's memory now, and the most it ever held, in bytes (Linux)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[field].split()[0]) * 1024 for name, field in (("now_bytes", "VmRSS"), ("peak_bytes", "VmHWM"))}
