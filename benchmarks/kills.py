"""Is a run ever lost? SIGKILLs at random moments of a training on two ranks; each time it resumes, and its end is the undisturbed run's.

    .venv/bin/python benchmarks/kills.py [--kills 5] [--ranks 2] [--json FILE]

The smallest run that has all of it: the embedded model, eight questions, a checkpoint a step. Half of the kills hit one rank (torchrun starts the run again, and it goes on by itself), half all processes at once (the same command
is given again). Purely random times mostly hit the start-up: after each start a new checkpoint is waited for, then a random
moment. Compared bit for bit: the last checkpoint's files, every step's metrics but the seconds, all rollouts. The control leaves the
optimiser's moments out of a resume once, and must differ.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent / "_systems"))

from processes import commit, hardware

from medvlm_r1.data.dataset import load_dataset
from medvlm_r1.data.manifest import write_manifest

ROOT = Path(__file__).resolve().parents[1]
STEPS, SAVE_EVERY, A_RUN, WITHIN_S, MOST_S = 30, 1, 10, 1.0, 600.0  # kills a run: each waits for one more of its 30 checkpoints
VALUES = (f"steps={STEPS}", f"save_every={SAVE_EVERY}", "prompts_per_step=4", "sampling.n=3", "sampling.max_tokens=16")


def command(run: Path, ranks: int) -> list[str]:
    """As medvlm-r1 launch starts it."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "--max-restarts", "3"]
    sets = [word for value in VALUES for word in ("--set", value)]
    return [*torchrun, "-m", "medvlm_r1", "train", "nano", "--data", str(run.parent / "questions.jsonl"), "--run-dir", str(run), *sets, "--resume"]


def start(run: Path, ranks: int) -> subprocess.Popen[bytes]:
    """Its output goes to a file beside the run."""
    there = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    log = (run.parent / f"{run.name}.log").open("ab")
    return subprocess.Popen(command(run, ranks), env=there, stdout=log, stderr=log)


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


def wait(process: subprocess.Popen[bytes], run: Path, before: set[str]) -> None:
    """Until there is a new checkpoint. Raises where the run has ended first, or stands still."""
    until = time.monotonic() + MOST_S
    while checkpoints(run) <= before:
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"no new checkpoint in {run} ({process.returncode}); see {run}.log")
        time.sleep(0.01)


def disturbed(run: Path, kills: int, ranks: int, draw: random.Random) -> list[dict[str, Any]]:
    """Kill, resume, and at last let it end; what each kill hit."""
    process, told = start(run, ranks), []
    for kill in range(kills):
        wait(process, run, checkpoints(run))
        time.sleep(draw.uniform(0, WITHIN_S))
        alive = workers(process.pid)
        is_one = bool(kill % 2 and alive)
        if is_one:
            os.kill(draw.choice(alive), signal.SIGKILL)
        else:
            for pid in (process.pid, *alive):  # torchrun gives each rank a session of its own: killed alone, it leaves them behind
                os.kill(pid, signal.SIGKILL)
            process.wait()
        there = {"hit": "one rank" if is_one else "everything", "checkpoints": len(checkpoints(run)), "while_saving": any(run.glob("checkpoints/*.partial"))}
        told.append(there)
        print(f"  kill {kill + 1}: {there}", flush=True)
        process = process if is_one else start(run, ranks)
    if code := process.wait(timeout=MOST_S):
        raise RuntimeError(f"the run ended with {code}; see {run}.log")
    return told


def control(run: Path, calm: Path, ranks: int) -> bool:
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
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=ROOT / "runs/bench/kills")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    shutil.rmtree(given.work, ignore_errors=True)
    given.work.mkdir(parents=True)
    write_manifest(given.work / "questions.jsonl", load_dataset("phantom:mri?split=train").head(8))
    began = time.monotonic()
    if start(given.work / "calm", given.ranks).wait():
        raise RuntimeError(f"the undisturbed run failed; see {given.work}/calm.log")
    calm = ended(given.work / "calm")
    print(f"undisturbed: {time.monotonic() - began:.0f} s, {calm['rollouts']} rollouts", flush=True)
    draw, equal, told = random.Random(given.seed), list[bool](), list[dict[str, Any]]()
    for left in range(given.kills, 0, -A_RUN):
        run = given.work / f"killed-{len(equal)}"
        told += disturbed(run, min(left, A_RUN), given.ranks, draw)
        equal.append(ended(run) == calm)
        print(f"{run.name}: {'equal' if equal[-1] else 'DIFFERENT'}", flush=True)
    differs = control(given.work / "control", given.work / "calm", given.ranks)
    result = {
        "kills": given.kills, "ranks": given.ranks, "equal": equal, "control_differs": differs, "end": calm,
        "one_rank": sum(each["hit"] == "one rank" for each in told), "while_saving": sum(each["while_saving"] for each in told),
        "seconds": round(time.monotonic() - began), "values": VALUES, "hit": told, "hardware": hardware(), "commit": commit(),
    }  # fmt: skip
    print(f"{given.kills} kills, {sum(equal)} of {len(equal)} runs equal; the control differs: {differs}; {result['seconds']} s")
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if all(equal) and differs else 1


if __name__ == "__main__":
    sys.exit(main())
