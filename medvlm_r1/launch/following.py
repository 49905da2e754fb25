"""The checkpoints of a run, evaluated as they appear: by a process of its own, so that the training waits for nothing."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from medvlm_r1.errors import ConfigError
from medvlm_r1.launch.evaluating import evaluate
from medvlm_r1.launch.request import Request
from medvlm_r1.models.runs import checkpoints

WAIT_S = 20.0


def follow(
    request: Request, run_dir: Path, ask: Callable[[Request], dict[str, Any]] = evaluate, wait: Callable[[float], None] = time.sleep
) -> Iterator[tuple[Request, dict[str, Any]]]:
    """What was asked and what came of it, checkpoint by checkpoint, each in a folder of its name below ``request.out``; until the run has ended.

    Raises ConfigError where the folder holds no run. The same again asks nothing twice.
    """
    if not (run_dir / "config.json").exists():
        raise ConfigError(f'--watch "{run_dir}" holds no run; name the --run-dir of a training that has begun')
    done: set[str] = set()
    while True:
        has_ended = (run_dir / "summary.json").exists()  # looked at first: behind it no checkpoint comes
        for path in checkpoints(run_dir):
            if path.name not in done:
                done.add(path.name)
                asked = replace(request, model=str(path), out=request.out / path.name)
                yield asked, ask(asked)
        if has_ended:
            return
        wait(WAIT_S)
