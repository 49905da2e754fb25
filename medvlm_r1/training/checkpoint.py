"""Run directories and checkpoints: atomic, exact, and loadable by transformers as they stand.

``checkpoints/step-N/`` holds the model in the Hugging Face layout with
tokenizer and processor; ``trainer.safetensors`` beside it holds the optimiser's
moments. Batches and random numbers are functions of (seed, step), so the step
number is all the rest there is to restore.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import load_file, save_file

from medvlm_r1.config import fingerprint, to_dict
from medvlm_r1.errors import RunError
from medvlm_r1.training.appending import disk_errors
from medvlm_r1.training.optim import Optimizer


class Policy(Protocol):
    """What is saved and restored: a model with the encoder that belongs to it."""

    model: Any
    encoder: Any
    version: int

    def load_weights(self, weights: dict[str, Any]) -> None:
        """Take over weights by the names of a checkpoint."""
        ...


def open_run(run_dir: Path, config: Any, resume: bool) -> None:
    """Claim a run directory for a configuration, or check that it is this run's.

    Raises RunError when another run is in it, or this one and ``resume`` is off.
    """
    file = run_dir / "config.json"
    mine = fingerprint(config)
    if file.exists():
        theirs = json.loads(file.read_text()).get("fingerprint")
        if theirs != mine:
            raise RunError(f"{run_dir} holds another run (fingerprint {theirs}, this is {mine}); choose another --run-dir")
        if not resume:
            raise RunError(f"{run_dir} already holds this run; add --resume to go on, or choose another --run-dir")
        return
    if run_dir.exists() and any(run_dir.iterdir()):
        raise RunError(f"{run_dir} is not empty and holds no run of ours; choose another --run-dir")
    with disk_errors(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"fingerprint": mine, "config": to_dict(config)}, indent=2) + "\n")


def save(run_dir: Path, policy: Policy, optimizer: Optimizer) -> Path:
    """Write ``checkpoints/step-N`` whole or not at all; older ones lose their optimiser state."""
    final = run_dir / "checkpoints" / f"step-{optimizer.steps}"
    partial = final.with_name(final.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with disk_errors(run_dir), whole_or_gone(partial):
        save_model(policy, partial)
        save_file(optimizer.state(), partial / "trainer.safetensors", metadata={"steps": str(optimizer.steps)})
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    for older in final.parent.glob("step-*/trainer.safetensors"):
        if older.parent != final:
            older.unlink()
    return final


def save_model(policy: Policy, out: Path) -> None:
    """The model with tokenizer and processor, loadable as it stands."""
    policy.model.save_pretrained(out)
    policy.encoder.tokenizer.save_pretrained(out)
    policy.encoder.image_processor.save_pretrained(out)


def latest(run_dir: Path) -> Path | None:
    """The newest checkpoint that can be resumed from."""
    found = [file.parent for file in (run_dir / "checkpoints").glob("step-*/trainer.safetensors") if file.parent.suffix != ".partial"]
    return max(found, key=lambda path: int(path.name.removeprefix("step-")), default=None)


def restore(checkpoint: Path, policy: Policy, optimizer: Optimizer) -> int:
    """Load weights and optimiser; returns the number of steps done."""
    steps = int(checkpoint.name.removeprefix("step-"))
    weights: dict[str, Any] = {}
    for file in sorted(checkpoint.glob("model*.safetensors")):
        weights |= load_file(file)
    policy.load_weights(weights)
    optimizer.load(load_file(checkpoint / "trainer.safetensors"), steps)
    policy.version = steps
    return steps


@contextmanager
def whole_or_gone(folder: Path) -> Iterator[None]:
    """Remove a folder that could not be written to its end."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
