"""One process writes a run's files: a second one that is started beside it waits a little, and is then refused.

What is locked is config.json, which every run has. A process that is gone, however it went, has let go of it; where a machine was lost, a file
server may take a minute or two to notice, so that a run which was started again waits longer.
"""

import time
from collections.abc import Callable
from pathlib import Path

from medvlm_r1.errors import RunError
from medvlm_r1.files import AppendFile

BESIDE_S, AGAIN_S = 5.0, 180.0


class Claim:
    """The right to write into a run's folder, until it is left; a context manager. ``wait`` is how one waits so many seconds. Raises RunError where another has it."""

    def __init__(self, run_dir: Path, patience_s: float, wait: Callable[[float], None] = time.sleep) -> None:
        self._file = AppendFile(run_dir / "config.json")
        waited_s = 0.0
        while not self._file.lock():
            if waited_s >= patience_s:
                self._file.close()
                raise RunError(f"another process trains in {run_dir}; wait for its end or stop it, or choose another --run-dir")
            wait(0.5)
            waited_s += 0.5

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
