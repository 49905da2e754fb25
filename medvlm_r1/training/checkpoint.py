"""Run directories and checkpoints: atomic, exact, and loadable by transformers as they stand.

``checkpoints/step-N/`` holds the model in the Hugging Face layout with
tokenizer and processor, adapters merged. Its folder ``trainer`` holds the
optimiser's moments, ``adapter`` the adapters as they are, in peft's format.
Batches and random numbers are functions of (seed, step), so the step number is
all the rest there is to restore.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from medvlm_r1.config import code, fingerprint, to_dict
from medvlm_r1.console import notice
from medvlm_r1.errors import NotFiniteError, RunError
from medvlm_r1.files import disk_errors
from medvlm_r1.models.runs import best, checkpoints
from medvlm_r1.training import identity, shards
from medvlm_r1.training.distributed import current
from medvlm_r1.training.optim import Optimizer


class Policy(Protocol):
    """What is saved and restored: a model with the encoder that belongs to it."""

    model: Any
    encoder: Any
    version: int

    def whole(self) -> Any:
        """The policy with all weights in this process; all ranks ask."""
        ...

    def held(self) -> Any:
        """A copy in the host's memory, as the weights are now."""
        ...

    def save_weights(self, out: Path) -> None:
        """Write the model in the Hugging Face layout; adapters, where there are any, in the folder ``adapter`` too."""
        ...

    def load_weights(self, weights: dict[str, Any], adapters: dict[str, Any]) -> None:
        """Take over what ``save_weights`` wrote."""
        ...


def check_run(run_dir: Path, config: Any, resume: bool) -> None:
    """Is the directory free for this configuration, or does it hold this very run?

    Raises RunError when another run or a stranger's file is in it, or this run and ``resume`` is off.
    """
    file = run_dir / "config.json"
    mine = fingerprint(config)
    with disk_errors(run_dir):
        if file.exists():
            theirs = _said(file, "fingerprint")
            if theirs != mine:
                _check_code(run_dir, _said(file, "code"), code(config))
                told = identity.listed(identity.changes(_said(file, "config"), to_dict(config))) or f"fingerprint {theirs}, this is {mine}"
                raise RunError(f"{run_dir} holds another run ({told}); choose another --run-dir")
            if not resume:
                raise RunError(f"{run_dir} already holds this run; add --resume to go on, or choose another --run-dir")
        elif run_dir.exists() and any(run_dir.iterdir()):
            raise RunError(f"{run_dir} is not empty and holds no run of ours; choose another --run-dir")


def _said(file: Path, key: str) -> Any:
    try:
        return json.loads(file.read_text())[key]
    except (ValueError, TypeError, KeyError):
        return None  # somebody else's config.json, or nothing of the kind in it


def _check_code(run_dir: Path, theirs: Any, mine: dict[str, str]) -> None:
    """Raises RunError that names the first of the same rewards whose code has changed since the run began."""
    if not isinstance(theirs, dict) or theirs.keys() != mine.keys():
        return
    for name, sha256 in mine.items():
        if theirs[name] != sha256:
            change = f"SHA-256 {theirs[name][:12]}…, now {sha256[:12]}…"
            raise RunError(f'the code of "{name}" has changed since {run_dir} began ({change}); put it back, or choose another --run-dir')


def open_run(run_dir: Path, config: Any, resume: bool) -> None:
    """Claim a run directory for a configuration. Raises RunError as ``check_run`` does."""
    check_run(run_dir, config, resume)
    with disk_errors(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        if not (run_dir / "config.json").exists():
            named = {"code": code(config)} if code(config) else {}
            content = {"fingerprint": fingerprint(config), **named, "config": to_dict(config)}
            (run_dir / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def check_space(run_dir: Path, policy: Policy) -> None:
    """Raises RunError where the disk of a claimed run has no room for one checkpoint: weights, and of those that learn two moments and a master copy of short ones."""
    state = {p: 8 if p.dtype == torch.float32 else 12 for p in policy.model.parameters() if p.requires_grad}
    needed = sum(p.numel() * (p.element_size() + state.get(p, 0)) for p in policy.model.parameters())
    free = shutil.disk_usage(run_dir).free
    if free < needed:
        raise RunError(
            f'the disk of "{run_dir}" has {free / 1e9:.2f} GB free and a checkpoint needs {needed / 1e9:.2f}; '
            "free some and go on with --resume, or choose another --run-dir"
        )


def partial_of(final: Path) -> Path:
    """Where a checkpoint is written until it is whole.

    >>> partial_of(Path("runs/mine/checkpoints/step-300")).name
    'step-300.partial'
    """
    return final.with_name(f"{final.name}.partial")


def begin(policy: Policy, partial: Path) -> None:
    """An empty place for a checkpoint, with all that is small."""
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "trainer").mkdir(parents=True)  # a folder of its own: vLLM loads every safetensors file beside config.json as weights
    policy.encoder.save(partial)


def finish(final: Path, prints: dict[str, list[int]]) -> None:
    """Note what was written, give it its name, and free what neither the last two need nor the best."""
    partial, run_dir = partial_of(final), final.parent.parent
    shards.note(partial, dict(sorted(prints.items())))
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    for older in checkpoints(run_dir)[:-2]:
        if older != best(run_dir):
            shutil.rmtree(older / "trainer", ignore_errors=True)


def check_finite(policy: Policy, steps: int) -> None:
    """Raises NotFiniteError that names the first weight of step ``steps`` that is not finite.

    A step with a finite gradient leaves finite weights, unless its rate overflows them or the model came with others. One
    maximum over all weights, which are about to be copied and written, tells for certain.
    """
    named = {name: p.to_local() if isinstance(p, DTensor) else p for name, p in policy.model.named_parameters()}
    is_finite = torch.nn.utils.get_total_norm([p.detach() for p in named.values() if p.numel()], norm_type=torch.inf).isfinite()
    found = current().every("" if is_finite else next(name for name, p in named.items() if not p.isfinite().all()))
    if not any(found):
        return
    bad = next(filter(None, found))
    raise NotFiniteError(
        f'after step {steps} the weight "{bad}" is not finite, so it is not saved; earlier checkpoints are kept: lower optim.lr, or use another --model'
    )


def save_model(policy: Policy, out: Path) -> None:
    """The model with tokenizer and processor, loadable as it stands."""
    save_weights(policy, out)
    policy.encoder.save(out)


def save_weights(policy: Policy, out: Path) -> None:
    """The model alone."""
    policy.save_weights(out)
    for file in filter(of_model, out.rglob("*.safetensors")):  # safetensors makes them private; who may read the rest may read these
        file.chmod((out / "config.json").stat().st_mode)


def of_model(file: Path) -> bool:
    """Does a checkpoint's file belong to the model, and not to the training?

    >>> of_model(Path("step-3/adapter/adapter_model.safetensors")), of_model(Path("step-3/trainer/state.safetensors"))
    (True, False)
    """
    return file.parent.name != "trainer"


def latest(run_dir: Path) -> Path | None:
    """The newest checkpoint that can be resumed from."""
    return next(iter(resumable(run_dir)), None)


def resumable(run_dir: Path) -> list[Path]:
    """The checkpoints with an optimiser's state, newest first."""
    return [path for path in reversed(checkpoints(run_dir)) if any((path / "trainer").glob("state*.safetensors"))]


def resume(run_dir: Path, policy: Policy, optimizer: Optimizer) -> int:
    """Restore the newest checkpoint that is whole, if any; returns the steps done. Raises RunError where there are some and none is whole."""
    step = current().first(_newest_whole, run_dir)
    return restore(run_dir / "checkpoints" / f"step-{step}", policy, optimizer) if step else 0


def _newest_whole(run_dir: Path) -> int:
    """Its step; 0 where there is none. Damaged ones that are newer are set aside."""
    damaged: list[tuple[Path, str]] = []
    for path in resumable(run_dir):
        if fault := shards.damage(path):
            damaged.append((path, fault))
            continue
        for bad, why in damaged:
            with disk_errors(run_dir):
                bad.rename(bad.with_name(f"{bad.name}.damaged"))
            notice(f'warning: {bad} is damaged ({why}) and was set aside as "{bad.name}.damaged"; going on from {path.name}')
        return int(path.name.removeprefix("step-"))
    if damaged:
        bad, why = damaged[0]
        raise RunError(f"{bad} is damaged ({why}); copy it back from a backup, or start again in another --run-dir")
    return 0


def restore(checkpoint: Path, policy: Policy, optimizer: Optimizer) -> int:
    """Load weights and optimiser; returns the number of steps done. Raises RunError where a file is damaged."""
    steps = int(checkpoint.name.removeprefix("step-"))
    weights: dict[str, Any] = {}
    try:
        for file in sorted(checkpoint.glob("model*.safetensors")):
            weights |= load_file(file)
        adapters = {name: value for file in checkpoint.glob("adapter/*.safetensors") for name, value in load_file(file).items()}
        state = shards.Stored(checkpoint / "trainer")
    except (SafetensorError, OSError) as error:
        raise RunError(f"{checkpoint} is damaged ({error}); copy it back from a backup, or start again in another --run-dir") from error
    policy.load_weights(weights, adapters)
    optimizer.load(state, steps)
    policy.version = steps
    return steps


@contextmanager
def safetensors_errors() -> Iterator[None]:
    """safetensors buries the disk's error in a text; this brings it back as the OSError that it was."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
