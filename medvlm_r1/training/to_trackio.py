"""Trackio gets a run's numbers and its configuration: a data base on this machine, which ``trackio show`` draws."""

import json
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path

import trackio

PROJECT = "medvlm-r1"


class Trackio:
    """One run there for each run here; where one goes on, steps that are written again stand there twice, with the same numbers."""

    def __init__(self, run_dir: Path, resumed_step: int = 0) -> None:
        content = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))
        about = {"name": f"{run_dir.name}-{content['fingerprint']}", "config": content["config"]}
        with redirect_stdout(sys.stderr):  # results alone go to stdout
            self._run = trackio.init(project=PROJECT, resume="allow", embed=False, auto_log_gpu=False, auto_log_cpu=False, **about)

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the numbers of ``step``."""
        self._run.log({name: value for name, value in metrics.items() if isinstance(value, int | float)}, step=step)

    def close(self) -> None:
        """All is written; harmless when done twice."""
        with redirect_stdout(sys.stderr):
            self._run.finish()
