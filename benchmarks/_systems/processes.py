"""What every benchmark needs around its measurement: trainers in processes of their own, and where and on what they ran."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from protocol import Work

ROOT = Path(__file__).resolve().parents[2]
SYSTEMS = Path(__file__).parent
LOAD_BEFORE = round(os.getloadavg()[0], 2)  # processes that want a core, over the last minute


class Stopped(SystemExit):
    """A trainer's process ended by itself; carries the end of its log. Uncaught, it ends the benchmark."""


def environ(threads: int, gpu: bool = False) -> dict[str, str]:
    """Of every process alike. Threads that wait by spinning slow each other down by two orders of magnitude where cores are shared."""
    shared = {
        "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    return os.environ | shared | ({} if gpu else {"CUDA_VISIBLE_DEVICES": ""})


class System:
    """A trainer in a process of its own, which waits between its steps."""

    def __init__(self, name: str, command: list[str | Path], work: Work, env: dict[str, str]) -> None:
        self.name, self.log, self.steps = name, work.folder / f"{name}.log", []
        with self.log.open("w") as log:
            self.process = subprocess.Popen([*command, work.folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=env)
        self.ready = self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise self._stopped()
        return json.loads(line)

    def _stopped(self) -> Stopped:
        self.process.wait()
        return Stopped(f"{self.name} stopped:\n{self.log.read_text()[-3000:]}")

    def step(self) -> None:
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise self._stopped() from error
        self.steps.append(self._answer())

    def stop(self) -> None:
        """No further step is asked for; the process ends by itself."""
        self.process.stdin.close()
        self.process.wait(60)


def hardware(gpu: str | None = None) -> dict[str, Any]:
    """The processor, and how busy it was: another job on it makes every figure worthless."""
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": model[1] if model else platform.machine(), "cores": len(os.sched_getaffinity(0)), "memory_gib": round(memory / 2**30, 1),
            "gpu": gpu, "load_before": LOAD_BEFORE}  # fmt: skip


def commit() -> str | None:
    """The commit that was measured, with "+changes" where the code differs from it; None where there is no checkout."""
    if not shutil.which("git"):
        return None
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    changes = subprocess.run([*git, "status", "--porcelain", "medvlm_r1", "benchmarks/*.py"], capture_output=True, text=True).stdout
    return head + "+changes" * bool(changes) if head else None


def write_json(file: Path, result: dict[str, Any]) -> None:
    """All or nothing: who is killed while writing leaves the last whole file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f"{file.name}.part")
    fresh.write_text(json.dumps(result, indent=2) + "\n")
    fresh.replace(file)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
