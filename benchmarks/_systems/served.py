"""A server in a process of its own, as a user starts it."""

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from processes import ROOT


class Served:
    """Ready when entered, stopped when left. ``ready``: the path that answers then; ``log``: where its words go."""

    ready = "/health"

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        """``command`` is given a free port behind ``--port``."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        with log.open("w") as file:
            self.process = subprocess.Popen([*command, "--port", str(self.port)], stdout=file, stderr=file, cwd=ROOT, env=os.environ | dict(environment or {}))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        until = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"{self.url}{self.ready}", timeout=5).close()
                return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(60)
