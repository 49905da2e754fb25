"""``medvlm-r1 serve`` as a user starts it, with its processes and what they take."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Self

from processes import ROOT

_TICKS = os.sysconf("SC_CLK_TCK")


class OurServer:
    """Ready when entered, stopped when left. ``log``: where its stderr goes."""

    def __init__(self, model: str, log: Path, *words: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "medvlm_r1", "serve", "--model", model, "--port", str(self.port), *words]
        with log.open("w") as file:
            self.process = subprocess.Popen(command, stderr=file, cwd=ROOT)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        until = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/ready", timeout=5).close()
                return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(60)

    def pid(self, part: str) -> int:
        """Of "front", "engine" or "file_process"."""
        if part == "front":
            return self.process.pid
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return next(int(pid) for pid in children if part.encode() in Path(f"/proc/{pid}/cmdline").read_bytes())

    def resident_mb(self, part: str) -> float:
        """What a process holds in memory, the libraries that it shares with others included."""
        rows = Path(f"/proc/{self.pid(part)}/status").read_text().splitlines()
        return next(int(row.split()[1]) / 1024 for row in rows if row.startswith("VmRSS"))

    def cpu_s(self, part: str) -> float:
        """Seconds of processor time that a process has taken; of a child that has ended, none."""
        fields = Path(f"/proc/{self.pid(part)}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
