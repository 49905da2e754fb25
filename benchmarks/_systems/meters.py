"""Seconds and work by phase, measured in the same way in every trainer: by hooks, from outside."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from protocol import Channel

PHASES = ("rollout", "reference", "update", "other")


class Recorder:
    """At any time one phase runs; time and counts go to it.

    A step lasts from one ``between_steps`` to the next, without the wait inside.
    A phase ends when a GPU has done what it was asked. ``counting`` off leaves the models without hooks.
    """

    def __init__(self, channel: Channel | None = None, counting: bool = True) -> None:
        self.channel, self.counting, self.phase, self.started = channel, counting, "other", None
        self._clear()

    def _clear(self) -> None:
        self.seconds, self.cpu_seconds = dict.fromkeys(PHASES, 0.0), dict.fromkeys(PHASES, 0.0)
        self.counts: dict[str, Counter] = defaultdict(Counter)

    def enter(self, phase: str) -> None:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        now = time.perf_counter(), time.process_time()
        if self.started is not None:
            for seconds, at, began in zip((self.seconds, self.cpu_seconds), now, self.started, strict=True):
                seconds[self.phase] = seconds.get(self.phase, 0.0) + at - began
        self.phase, self.started = phase, now

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        before = self.phase
        self.enter(phase)
        yield
        self.enter(before)

    def timed(self, phase: str, function: Callable) -> Callable:
        """The same function; its time goes to a phase."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.during(phase):
                return function(*args, **kwargs)

        return call

    def between_steps(self, **ready: Any) -> None:
        """Report the step that ended (before the first: ``ready``), then wait until the next is asked for."""
        done = self.lap()
        self.channel.send((ready or done) | memory())
        self.channel.wait()
        self.started = time.perf_counter(), time.process_time()

    def lap(self) -> dict[str, Any]:
        """Seconds and counts by phase since the last call."""
        self.enter("other")
        counts = {phase: dict(counts) for phase, counts in self.counts.items()}
        done = {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds, "counts": counts}
        self._clear()
        return done

    def count(self, name: str, number: int) -> None:
        self.counts[self.phase][name] += int(number)

    def watch(self, model: Any) -> None:
        """Count what goes through a Qwen2-VL: images, tokens of the language model, positions of its head."""
        if not self.counting:
            return

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
    """The process's memory now, and the most it ever held, in bytes (Linux); the most it ever held of a GPU, where it uses one."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    held = {name: int(lines[field].split()[0]) * 1024 for name, field in (("now_bytes", "VmRSS"), ("peak_bytes", "VmHWM"))}
    return held | ({"peak_gpu_bytes": torch.cuda.max_memory_allocated()} if torch.cuda.is_initialized() else {})
