"""Weights & Biases gets a run's numbers and its configuration, and no more: no completion, no host, no code, no screen.

``WANDB_MODE=offline`` keeps them in the run's folder; the library reads that itself.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import wandb

from medvlm_r1.errors import ConfigError, RunError

PROJECT = "medvlm-r1"


class Wandb:
    """One run there for each run here, whenever it goes on: the same steps again are dropped there, and say the same.

    Raises ConfigError where nobody is logged in.
    """

    def __init__(self, run_dir: Path, resumed_step: int = 0) -> None:
        content = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))
        silent = wandb.Settings(
            console="off", silent=True, disable_code=True, disable_git=True, disable_job_creation=True, x_disable_meta=True, x_disable_stats=True,
            x_disable_machine_info=True, x_save_requirements=False,
        )  # fmt: skip
        about = {"name": run_dir.name, "id": f"{run_dir.name}-{content['fingerprint']}", "dir": run_dir, "config": content["config"]}
        try:
            self._run = wandb.init(project=PROJECT, resume="allow", settings=silent, **about)
        except wandb.errors.Error as error:
            raise ConfigError(f"--track wandb cannot begin ({error}); log in with: wandb login, or keep the numbers here with WANDB_MODE=offline") from error

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the numbers of ``step``; what the network does is the library's business. Raises RunError where it has gone."""
        try:
            self._run.log({name: value for name, value in metrics.items() if isinstance(value, int | float)}, step=step)
        except wandb.errors.Error as error:
            raise RunError(f"Weights & Biases takes no more numbers ({error}); go on with --resume and without --track wandb") from error

    def close(self) -> None:
        """All is sent; harmless when done twice."""
        self._run.finish()
