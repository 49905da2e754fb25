"""Is a run ever lost? SIGKILLs at random moments of a training on two ranks; each time it resumes, and its end is the undisturbed run's.

    .venv/bin/python benchmarks/kills.py [--kills 5] [--ranks 2] [--forked] [--json FILE]

The smallest run that has all of it: the embedded model, eight questions, a checkpoint a step. Half of the kills hit one rank (torchrun
starts the run again, and it goes on by itself), half torchrun itself, whose ranks must not outlive it (the same command is given
again). ``--forked`` has all of it but torchrun, at a fraction of the time. Purely random times mostly hit the start-up: after each
start a new checkpoint is waited for, then a random moment. Compared bit for bit: the last checkpoint's files, every step's metrics
but the seconds, all rollouts. The control leaves the optimiser's moments out of a resume once, and must differ.
"""

import argparse
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent / "_systems"))

from processes import commit, hardware

from medvlm_r1.commands import main as commands
from medvlm_r1.data.dataset import load_dataset
from medvlm_r1.data.manifest import write_manifest
from medvlm_r1.launch.loading import load_model
from medvlm_r1.preflight.sifting import openable
from medvlm_r1.recipes import named

ROOT = Path(__file__).resolve().parents[1]
STEPS, SAVE_EVERY, A_RUN, WITHIN_S, MOST_S = 30, 1, 10, 1.0, 600.0  # kills a run: each waits for one more of its 30 checkpoints
VALUES = (f"steps={STEPS}", f"save_every={SAVE_EVERY}", "prompts_per_step=4", "sampling.n=3", "sampling.max_tokens=16")


def words(run: Path) -> list[str]:
    """The training."""
    sets = [word for value in VALUES for word in ("--set", value)]
    return ["train", "nano", "--data", str(run.parent / "questions.jsonl"), "--run-dir", str(run), *sets, "--resume"]


def command(run: Path, ranks: int) -> list[str]:
    """As medvlm-r1 launch starts it."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "--max-restarts", "3"]
    return [*torchrun, "-m", "medvlm_r1", *words(run)]


class Torchrun:
    """The run as ``medvlm-r1 launch`` starts it. A rank that is lost is its business: it starts all of them again."""

    def __init__(self, run: Path, ranks: int) -> None:
        there = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        log = (run.parent / f"{run.name}.log").open("ab")
        self.run, self.ranks = run, ranks
        self.process = subprocess.Popen(command(run, ranks), env=there, stdout=log, stderr=log)

    def poll(self) -> int | None:
        """The exit code, None while it goes on."""
        return self.process.poll()

    def wait(self) -> int:
        """For the end; the exit code."""
        return self.process.wait(timeout=MOST_S)

    def lose_one(self, draw: random.Random) -> "Torchrun":
        """One rank is killed; what goes on."""
        if alive := workers(self.process.pid):
            os.kill(draw.choice(alive), signal.SIGKILL)
        return self

    def lose_all(self) -> "Torchrun":
        """torchrun is killed outright, its ranks have to go with it; and the same command is given again."""
        self.process.kill()
        self.process.wait()
        return Torchrun(self.run, self.ranks)


class Forked:
    """The same ranks without torchrun, forked from a process that has imported everything, for what no kill can spoil takes most of a start.

    A lost rank ends the others, which they have to notice by themselves; then all are started again.
    """

    def __init__(self, run: Path, ranks: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.run, self.ranks, self.codes = run, ranks, dict[int, int]()
        self.pids = [_fork(run, rank, ranks, port) for rank in range(ranks)]

    def poll(self) -> int | None:
        """The worst exit code of its ranks, None while one goes on."""
        for pid in self.pids:
            if pid not in self.codes and (found := os.waitpid(pid, os.WNOHANG))[0]:
                self.codes[pid] = abs(os.waitstatus_to_exitcode(found[1]))
        return max(self.codes.values()) if len(self.codes) == len(self.pids) else None

    def wait(self) -> int:
        """For the end; the exit code."""
        until = time.monotonic() + MOST_S
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise RuntimeError(f"{self.run} stands still; see its log")
            time.sleep(0.02)
        return code

    def _kill(self, pids: list[int]) -> None:
        for pid in pids:
            if pid not in self.codes:  # else the number may be another's by now
                os.kill(pid, signal.SIGKILL)

    def lose_one(self, draw: random.Random) -> "Forked":
        """One rank is killed, the others end; and all start again."""
        self._kill([draw.choice(self.pids)])
        self.wait()
        return Forked(self.run, self.ranks)

    def lose_all(self) -> "Forked":
        """All ranks are killed, and start again."""
        self._kill(self.pids)
        self.wait()
        return Forked(self.run, self.ranks)


def warm(questions: Path) -> None:
    """Import and read what every start does, once. No backward pass: after one, PyTorch refuses them in what is forked."""
    for module in ("launch.training", "training.events", "report.learning", "preflight.rehearsal"):
        importlib.import_module(f"medvlm_r1.{module}")
    named.find("nano", "grpo")
    openable(load_dataset(str(questions)))
    load_model("nano")


def _fork(run: Path, rank: int, ranks: int, port: int) -> int:
    if pid := os.fork():
        return pid
    log = os.open(run.parent / f"{run.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    code = 1
    try:
        code = commands.main(words(run))
    except SystemExit as ended_by:
        code = int(ended_by.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(run: Path) -> dict[str, Any]:
    """What a run came to: digests of what must be equal, and counts of what must be complete."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    same = [{key: value for key, value in row.items() if not key.startswith("seconds")} for row in rows]
    last = run / f"checkpoints/step-{STEPS}"
    files = {file.relative_to(last).as_posix(): _digest(file.read_bytes()) for file in sorted(last.rglob("*.safetensors"))}
    rollouts = (run / "rollouts.jsonl").read_bytes()
    counts = {"steps": [row["step"] for row in rows] == list(range(1, STEPS + 1)), "rollouts": rollouts.count(b"\n")}
    return counts | {"metrics": _digest(json.dumps(same).encode()), "rollout_bytes": _digest(rollouts), "files": files}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def checkpoints(run: Path) -> set[str]:
    """The whole ones."""
    return {path.name for path in run.glob("checkpoints/step-*") if path.name.removeprefix("step-").isdecimal()}


def workers(group: int) -> list[int]:
    """The ranks below a torchrun: processes of its children, the oldest first."""
    told = subprocess.run(["ps", "-o", "pid=", "--ppid", str(group)], capture_output=True, text=True, check=False).stdout
    return [int(pid) for pid in told.split()]


def wait(process: Torchrun | Forked, run: Path, before: set[str]) -> bool:
    """Until there is a new checkpoint; False where the run came to its end. Raises where it failed, or stands still."""
    until = time.monotonic() + MOST_S
    while checkpoints(run) <= before:
        if (code := process.poll()) == 0:
            return False
        if code is not None or time.monotonic() > until:
            raise RuntimeError(f"no new checkpoint in {run} ({code}); see {run}.log")
        time.sleep(0.01)
    return True


def disturbed(run: Path, kills: int, process: Torchrun | Forked, draw: random.Random) -> list[dict[str, Any]]:
    """Kill, resume, and at last let it end; what each kill hit."""
    told = list[dict[str, Any]]()
    for kill in range(kills):
        if not wait(process, run, checkpoints(run)):
            break  # a fast machine: the rest are for the next run
        time.sleep(draw.uniform(0, WITHIN_S))
        told.append({"checkpoints": len(checkpoints(run)), "while_saving": any(run.glob("checkpoints/*.partial")), "one_rank": bool(kill % 2)})
        process = process.lose_one(draw) if kill % 2 else process.lose_all()
        print(f"  kill {kill + 1}: {told[-1]}", flush=True)
    if code := process.wait():
        raise RuntimeError(f"the run ended with {code}; see {run}.log")
    return told


def control(run: Path, calm: Path, ranks: int, start: type[Torchrun | Forked]) -> bool:
    """Does a run whose moments were lost before its last two steps end elsewhere? Then the comparison can see something."""
    shutil.copytree(calm, run)
    shutil.rmtree(run / f"checkpoints/step-{STEPS}")
    kept = run / f"checkpoints/step-{STEPS - SAVE_EVERY}/trainer"
    for file in kept.glob("state*.safetensors"):
        save_file({name: value * 0 if name.startswith("exp_avg/") else value for name, value in load_file(file).items()}, file)
    (kept / "files.json").unlink()
    if code := start(run, ranks).wait():
        raise RuntimeError(f"the control ended with {code}; see {run}.log")
    return ended(run) != ended(calm)


def main() -> int:
    """0 where every end is the undisturbed run's and the control's is not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--forked", action="store_true", help="start ranks from a process that has imported everything, without torchrun")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=ROOT / "runs/bench/kills")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    shutil.rmtree(given.work, ignore_errors=True)
    given.work.mkdir(parents=True)
    write_manifest(given.work / "questions.jsonl", load_dataset("phantom:mri?split=train").head(8))
    start: type[Torchrun | Forked] = Forked if given.forked else Torchrun
    if given.forked:
        warm(given.work / "questions.jsonl")
    began = time.monotonic()
    if start(given.work / "calm", given.ranks).wait():
        raise RuntimeError(f"the undisturbed run failed; see {given.work}/calm.log")
    calm = ended(given.work / "calm")
    print(f"undisturbed: {time.monotonic() - began:.0f} s, {calm['rollouts']} rollouts", flush=True)
    draw, equal, told = random.Random(given.seed), list[bool](), list[dict[str, Any]]()
    while len(told) < given.kills:
        run = given.work / f"killed-{len(equal)}"
        told += disturbed(run, min(given.kills - len(told), A_RUN), start(run, given.ranks), draw)
        equal.append(ended(run) == calm)
        print(f"{run.name}: {'equal' if equal[-1] else 'DIFFERENT'}", flush=True)
    differs = control(given.work / "control", given.work / "calm", given.ranks, start)
    result = {
        "kills": given.kills, "ranks": given.ranks, "started_by": start.__name__, "equal": equal, "control_differs": differs, "end": calm,
        "one_rank": sum(each["one_rank"] for each in told), "while_saving": sum(each["while_saving"] for each in told),
        "seconds": round(time.monotonic() - began), "values": VALUES, "hit": told, "hardware": hardware(), "commit": commit(),
    }  # fmt: skip
    print(f"{given.kills} kills, {sum(equal)} of {len(equal)} runs equal; the control differs: {differs}; {result['seconds']} s")
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if all(equal) and differs else 1


if __name__ == "__main__":
    sys.exit(main())
