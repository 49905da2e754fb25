"""Damaged picture files sent to a server: each is answered or refused in time, whatever it is, and the server stays as it was.

    PYTHONPATH=. python tests/mutated_requests.py 10000 --json benchmarks/results/mutated-requests.json

starts ``medvlm-r1 serve --model nano`` and sends it so many files, a quarter of each family of ``mutated_files``.
"""

import argparse
import asyncio
import base64
import collections
import datetime
import json
import random
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mutated_files import FAMILIES, mutated

AT_ONCE, MOST_S, MOST_MB = 4, 2.0, 1024
COMMAND = "PYTHONPATH=. python tests/mutated_requests.py 10000 --json benchmarks/results/mutated-requests.json"


@dataclass
class Came:
    """What came of a family's files."""

    statuses: collections.Counter = field(default_factory=collections.Counter)
    slowest_s: float = 0.0
    slowest: str = ""


def bodies(name: str, n_files: int, folder: Path, model: str):
    """(which file it is, request body) of damaged files, seeded as those of ``mutated_files.open_mutated``."""
    sources = FAMILIES[name](folder)
    for seed in range(n_files):
        draw = random.Random(f"{name} {seed}")
        source, place = draw.choice(sources)
        data = mutated(source.read_bytes(), draw.choice(sources)[0].read_bytes(), draw) or b"\0"
        url = f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"
        pairs = (pair.split("=") for pair in place.removeprefix("#").split("&") if pair)
        keys = {key: int(value) for key, value in pairs if key in ("frame", "axis", "slice")}
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "Which?"}]
        asked = {"model": model, "messages": [{"role": "user", "content": parts}], "max_tokens": 1}
        yield f"seed {seed}, {source.name}", json.dumps(asked | {"medical": {"options": ["a", "b"], "probs": False, "place": keys}}).encode()


async def post(port: int, body: bytes) -> bytes:
    """The whole response, head and all."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    try:
        return await reader.read()
    finally:
        writer.close()


async def send(port: int, name: str, n_files: int, folder: Path, model: str) -> Came:
    """All files of a family, some at a time."""
    came, todo = Came(), bodies(name, n_files, folder, model)

    async def one() -> None:
        for which, body in todo:
            began = time.monotonic()
            text = await post(port, body)
            seconds, status = time.monotonic() - began, int(text[9:12] or 0)
            came.statuses[status] += 1
            if status >= 500 or not text:
                print(f"{name}, {which}: {text[-400:]!r}", file=sys.stderr, flush=True)
            if seconds > came.slowest_s:
                came.slowest_s, came.slowest = seconds, which

    await asyncio.gather(*(one() for _ in range(AT_ONCE)))
    return came


def resident_mb(front: int) -> float:
    """Of the server's processes and their children, all together; pages that forks share are counted for each."""
    rows = {}
    for process in Path("/proc").iterdir():
        with suppress(OSError):  # one that has just ended
            if process.name.isdigit():
                status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
                rows[int(process.name)] = int(status["PPid"]), int(status.get("VmRSS", "0 kB").split()[0]) / 1024
    ours = {front}
    while more := {pid for pid, (parent, _) in rows.items() if parent in ours} - ours:
        ours |= more
    return sum(rows[pid][1] for pid in ours if pid in rows)


async def watched(front: int, work: asyncio.Task) -> float:
    """The most that the server took while ``work`` was under way, in MB."""
    most = 0.0
    while not work.done():
        most = max(most, resident_mb(front))
        await asyncio.wait({work}, timeout=0.2)
    return most


def main() -> int:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks" / "_systems"))
    from our_server import OurServer
    from processes import commit, hardware, write_json

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=int)
    parser.add_argument("--families", nargs="*", choices=list(FAMILIES), default=list(FAMILIES), help="these alone; the file keeps what it says of others")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    async def sent(name: str, server: OurServer) -> tuple[Came, float]:
        with tempfile.TemporaryDirectory() as made:
            work = asyncio.create_task(send(server.port, name, args.files // len(FAMILIES), Path(made), "nano"))
            most = await watched(server.process.pid, work)
            return await work, most

    families = json.loads(args.json.read_text())["families"] if args.json and args.json.exists() else {}
    for name in args.families:
        with tempfile.TemporaryDirectory() as folder, OurServer("nano", Path(folder) / "log") as server:
            before = resident_mb(server.process.pid)
            came, most = asyncio.run(sent(name, server))
            faults = (Path(folder) / "log").read_text().count('"fault"')
        families[name] = {
            "date": datetime.date.today().isoformat(), "commit": commit(), "files": came.statuses.total(), "statuses": dict(sorted(came.statuses.items())),
            "slowest_s": round(came.slowest_s, 3), "slowest": came.slowest, "server_mb": {"before": round(before), "most": round(most)}, "faults_in_log": faults,
            "holds": max(came.statuses) < 500 and min(came.statuses) > 0 and came.slowest_s < MOST_S and most - before < MOST_MB and not faults,
        }  # fmt: skip
        print(name, families[name], flush=True)
        if args.json:
            claim = {"no_5xx": True, "each_s": MOST_S, "above_the_model_mb": MOST_MB, "holds": all(each["holds"] for each in families.values())}
            write_json(args.json, {"command": COMMAND, "hardware": hardware(), "at_once": AT_ONCE, "families": families, "claim": claim})
    return 0 if all(families[name]["holds"] for name in args.families) else 1


if __name__ == "__main__":
    sys.exit(main())
