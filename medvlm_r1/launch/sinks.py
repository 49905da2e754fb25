"""Further places for a run's numbers, by name; each behind a library of its own."""

from importlib import import_module
from typing import TYPE_CHECKING

from medvlm_r1.errors import ConfigError, install, nearest

if TYPE_CHECKING:  # --help names them, and loads no torch
    from medvlm_r1.training.watchers import Open

SINKS = {"wandb": ("medvlm_r1.training.to_wandb", "Wandb"), "trackio": ("medvlm_r1.training.to_trackio", "Trackio")}


def opener(name: str) -> "Open":
    """What opens it. Raises ConfigError where it has no such name, or its library is not here.

    >>> opener("tensorbord")
    Traceback (most recent call last):
    medvlm_r1.errors.ConfigError: unknown tracker "tensorbord"; known are trackio, wandb
    """
    if name not in SINKS:
        raise ConfigError(f'unknown tracker "{name}"{nearest(name, SINKS)}')
    module, kind = SINKS[name]
    try:
        return getattr(import_module(module), kind)
    except ImportError as error:
        raise ConfigError(f"--track {name} needs {error.name}; {install(name)}") from error
