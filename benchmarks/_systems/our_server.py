"""``medvlm-r1 serve`` as a user starts it, with its processes and what they take."""

import os
import sys
from pathlib import Path

from served import Served

_TICKS = os.sysconf("SC_CLK_TCK")


class OurServer(Served):
    """Ready when entered, stopped when left. ``log``: where its words go."""

    ready = "/ready"

    def __init__(self, model: str, log: Path, *words: str) -> None:
        super().__init__([sys.executable, "-m", "medvlm_r1", "serve", "--model", model, *words], log)

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
