"""Checkpoints that the run does not wait for: what is to be kept is copied at once, a thread writes it, a later step gives it its name.

Saving waits for the save before it, and leaving the loop for the last one. Threads tell each other nothing: each rank writes its files,
and behind a step all ranks say in turn whether theirs are done. Where the host has no room for a copy, the run waits as it used to.
torch.distributed.checkpoint's ``async_save`` would keep its table of contents in a pickle, which we do not open.
"""

import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from medvlm_r1.errors import MedVLMError, NotFiniteError, RunError
from medvlm_r1.files import disk_errors
from medvlm_r1.training import checkpoint, shards
from medvlm_r1.training.checkpoint import Policy
from medvlm_r1.training.distributed import current
from medvlm_r1.training.host import free_memory
from medvlm_r1.training.optim import Optimizer

SPARE = 2  # how many times what is to be copied must be free


@dataclass(frozen=True)
class Writing:
    """A checkpoint under way: its name, and this rank's files with what they hold, once they are written."""

    final: Path
    files: Future[dict[str, list[int]]]

    @property
    def partial(self) -> Path:
        """Where it is until it is whole."""
        return checkpoint.partial_of(self.final)


class Saver:
    """Keeps the checkpoints of a run; a context manager. ``free`` tells the bytes of memory that the host has left.

    An error of the thread is raised behind a later step, at the next save or on leaving, on every rank; the checkpoint before stays what a run resumes from.
    """

    def __init__(self, run_dir: Path, free: Callable[[], int] = free_memory) -> None:
        self.run_dir, self._free = run_dir, free
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Writing | None = None

    def keep(self, policy: Policy, optimizer: Optimizer, is_due: bool) -> None:
        """Behind a step: name what has been written meanwhile, and begin with ``checkpoints/step-N`` if it ``is_due``.

        After a step whose loss was not finite nothing is written. Raises NotFiniteError where a weight is not finite, and RunError
        where the disk does not take it.
        """
        self.settle(wait=is_due)
        if is_due and optimizer.sound:
            self._begin(policy, optimizer)

    def settle(self, wait: bool = True) -> None:
        """Give what was written its name, if all ranks have written theirs; ``wait`` until they have."""
        if self._writing is None or not (wait or not current().most(not self._writing.files.done())):
            return
        writing, self._writing = self._writing, None
        error = writing.files.exception()
        told = current().every({"files": {} if error else writing.files.result(), "error": str(error) if error else ""})
        try:
            if error and not isinstance(error, MedVLMError):
                raise error
            if failed := next((rank["error"] for rank in told if rank["error"]), ""):
                raise RunError(failed)
            with disk_errors(self.run_dir):
                current().first(checkpoint.finish, writing.final, {name: print_ for rank in told for name, print_ in rank["files"].items()})
        except BaseException:
            shutil.rmtree(writing.partial, ignore_errors=True)
            raise

    def _begin(self, policy: Policy, optimizer: Optimizer) -> None:
        checkpoint.check_finite(policy, optimizer.steps)
        world, final = current(), self.run_dir / "checkpoints" / f"step-{optimizer.steps}"
        whole, state = policy.whole(), optimizer.state()
        needed = size_of(state.values()) + (size_of(whole.model.parameters()) if world.leads else 0)
        waits = bool(world.most(SPARE * needed * world.size > self._free()))
        with disk_errors(self.run_dir):
            world.first(checkpoint.begin, whole, checkpoint.partial_of(final))
        part = shards.part(state, optimizer.steps, (world.rank, world.size), (lambda tensor: tensor) if waits else in_memory)
        model = (whole if waits or whole is not policy else whole.held()) if world.leads else None
        self._writing = Writing(final, self._pool.submit(write, self.run_dir, checkpoint.partial_of(final), model, part))
        if waits:
            self.settle()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        all_are_here = error is None or isinstance(error, NotFiniteError) or (current().size == 1 and isinstance(error, Exception))
        try:
            if all_are_here:
                self.settle()
        finally:
            self._pool.shutdown(wait=False)


def write(run_dir: Path, partial: Path, model: Policy | None, part: shards.Part) -> dict[str, list[int]]:
    """This rank's files, by path below the checkpoint, with size and CRC. Raises RunError where the disk does not take them."""
    with disk_errors(run_dir), checkpoint.safetensors_errors():
        files = [part.write(partial / "trainer")]
        if model is not None:
            checkpoint.save_weights(model, partial)
            files += sorted(filter(checkpoint.of_model, partial.rglob("*.safetensors")))
        return {file.relative_to(partial).as_posix(): shards.print_of(file) for file in files}


def in_memory(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in the host's memory."""
    return tensor.detach().to("cpu", copy=True)


def size_of(tensors: Iterable[Any]) -> int:
    """Bytes of these, of those that are cut the part of this rank."""
    return sum(local.numel() * local.element_size() for local in map(shards.local, tensors))
