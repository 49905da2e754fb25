"""Two machines as two network namespaces: a rank is killed, a machine is lost and comes back, the link is cut. The run goes on, to the undisturbed end.

    .venv/bin/python benchmarks/two_nodes.py [--json FILE]          as root: namespaces are made, and taken away at the end

The form is that of ``medvlm-r1 launch --nodes 2``, with what namespaces need beside it: each node says by which address it is reached, and one
of them that it hosts the meeting. Told for each event: seconds until a new checkpoint; and whether the last checkpoint's files, the metrics and
all rollouts are those of a run that nothing happened to.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "_systems"))

from kills import MOST_S, ROOT, VALUES, checkpoints, ended, workers
from processes import commit, hardware

from medvlm_r1.data.dataset import load_dataset
from medvlm_r1.data.manifest import write_manifest
from medvlm_r1.launch.cluster import ENVIRONMENT, Job, torchrun

HEAD, PATIENCE_S, AWAY_S, CUT_S, MOST_AGAIN = "10.99.0.1", 20, 4, 25, 6
EVENTS = ("rank", "machine", "link")


def ip(*words: str) -> None:
    """One change of the network. Raises CalledProcessError where it is not permitted."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


def name(node: int) -> str:
    """Of a node's namespace."""
    return f"medvlm{os.getpid()}-{node}"


@contextmanager
def network() -> Iterator[None]:
    """Two namespaces with one link between them; gone at the end."""
    try:
        for node in (0, 1):
            ip("netns", "add", name(node))
        ip("link", "add", "mv0", "netns", name(0), "type", "veth", "peer", "name", "mv1", "netns", name(1))
        for node in (0, 1):
            ip("-n", name(node), "addr", "add", f"10.99.0.{node + 1}/24", "dev", f"mv{node}")
            for link in ("lo", f"mv{node}"):
                ip("-n", name(node), "link", "set", link, "up")
        yield
    finally:
        for node in (0, 1):
            subprocess.run(["ip", "netns", "del", name(node)], check=False, capture_output=True)


def start(run: Path, node: int) -> subprocess.Popen[bytes]:
    """One node's torchrun, as ``launch`` writes it."""
    sets = [word for value in VALUES for word in ("--set", value)]
    words = ("train", "nano", "--data", str(run.parent / "questions.jsonl"), "--run-dir", str(run), *sets, "--resume")
    form = torchrun(Job(words, nodes=2, gpus=1, restarts=6, head=HEAD))[1:]
    meet = ["--local-addr", f"10.99.0.{node + 1}", "--rdzv-conf", f"is_host={1 - node},timeout=120,join_timeout=120,last_call_timeout=2"]
    there = (
        os.environ | ENVIRONMENT | {"GLOO_SOCKET_IFNAME": f"mv{node}", "MEDVLM_PATIENCE_S": str(PATIENCE_S), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    )
    log = (run.parent / f"{run.name}-node{node}.log").open("ab")
    command = ["ip", "netns", "exec", name(node), sys.executable, "-m", "torch.distributed.run", *meet, *form]  # exec: the agent has this process's number
    return subprocess.Popen(command, env=there, stdout=log, stderr=log)


def happen(event: str, run: Path, nodes: list[subprocess.Popen[bytes]]) -> None:
    """Something happens to node 1. Its rank goes with its torchrun."""
    if event == "rank":
        os.kill(workers(nodes[1].pid)[0], signal.SIGKILL)
    elif event == "machine":
        nodes[1].kill()
        nodes[1].wait()
        time.sleep(AWAY_S)
        nodes[1] = start(run, 1)
    else:
        ip("-n", name(1), "link", "set", "mv1", "down")
        time.sleep(CUT_S)
        ip("-n", name(1), "link", "set", "mv1", "up")


def supervise(run: Path, nodes: list[subprocess.Popen[bytes]]) -> int:
    """Give the command again where a torchrun has ended with an error, as Slurm and Kubernetes do; how many."""
    lost = [node for node, process in enumerate(nodes) if process.poll()]
    for node in lost:
        nodes[node] = start(run, node)
    return len(lost)


def wait(run: Path, nodes: list[subprocess.Popen[bytes]], before: set[str] | None) -> int:
    """Until there is a new checkpoint, or without ``before`` until the end; how often a torchrun had to be started again."""
    until, again = time.monotonic() + MOST_S, 0
    while any(process.poll() is None for process in nodes) if before is None else checkpoints(run) <= before:
        again += supervise(run, nodes)
        if again > MOST_AGAIN or time.monotonic() > until:
            raise RuntimeError(f"{run} gets nowhere; see {run}-node*.log")
        time.sleep(0.05)
    return again


def trained(run: Path, events: tuple[str, ...]) -> list[dict[str, Any]]:
    """A run to its end, each event behind a new checkpoint; seconds until the next checkpoint, from where the event began."""
    nodes, told = [start(run, node) for node in (0, 1)], []
    try:
        for event in events:
            wait(run, nodes, checkpoints(run))
            began = time.monotonic()
            happen(event, run, nodes)
            again = wait(run, nodes, checkpoints(run))
            told.append({"event": event, "next_checkpoint_after_s": round(time.monotonic() - began, 1), "torchruns_given_again": again + (event == "machine")})
            print(f"  {told[-1]}", flush=True)
        wait(run, nodes, None)
    finally:
        for process in nodes:
            process.kill()  # where it has not ended
    return told


def main() -> int:
    """0 where the disturbed run's end is the undisturbed one's, or where namespaces are not permitted, which is said."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "runs/bench/two_nodes")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    shutil.rmtree(given.work, ignore_errors=True)
    given.work.mkdir(parents=True)
    write_manifest(given.work / "questions.jsonl", load_dataset("phantom:mri?split=train").head(8))
    began = time.monotonic()
    try:
        with network():
            trained(given.work / "calm", ())
            print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)
            told = trained(given.work / "disturbed", EVENTS)
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        print(f"no network namespaces here, so nothing was measured: {error}")
        return 0
    is_equal = ended(given.work / "disturbed") == ended(given.work / "calm")
    print(f"{len(told)} events, the end is {'equal' if is_equal else 'DIFFERENT'}; {time.monotonic() - began:.0f} s")
    if given.json:
        about = {"values": VALUES, "patience_s": PATIENCE_S, "away_s": AWAY_S, "cut_s": CUT_S, "hardware": hardware(), "commit": commit()}
        given.json.write_text(json.dumps({"events": told, "equal": is_equal} | about, indent=1) + "\n", encoding="utf-8")
    return 0 if is_equal else 1


if __name__ == "__main__":
    sys.exit(main())
