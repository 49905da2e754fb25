"""The server under load: answers a second, first tokens, /health beside them, and what is left when clients leave.

    .venv/bin/python benchmarks/serving.py --json benchmarks/results/cpu2-serving.json
    .venv/bin/python benchmarks/serving.py --rounds 1 --seconds 4 --churn 8       # a short look
    … --transformers-serve "env PYTHONPATH=WITH_TORCHVISION .venv/bin/transformers"       # and transformers' own server, behind ours

Rounds of one client, of 64 clients, and of transformers' ``generate`` (one prompt at a time, pictures and tokens prepared
beforehand) in turns; then 200 clients of which half leave at their first token. The generator writes to raw sockets, since an HTTP
library would cost more than the server, and every request has a new picture. It takes its part of the same cores.
"""

import argparse
import asyncio
import base64
import datetime
import io
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medvlm_r1.data.images import load_image
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.told import question

sys.path.insert(0, str(Path(__file__).parent / "_systems"))

from our_server import OurServer
from processes import ROOT, commit, environ, hardware, say, write_json
from transformers_serve import TransformersServe

OPTIONS = ["sagittal", "coronal", "axial"]
BASE = ROOT / "medvlm_r1" / "models" / "nano_base"
MANY, CROWD = 64, 200
PARTS = ("front", "engine", "file_process")
CLAIMS = {
    "64 clients to one, at least": 4.0, "64 clients to generate, at least": 8.0, "first text of one client, p50 s": 0.1, "first text of 64, p50 s": 0.5,
    "/health beside 200 clients, p99 s": 0.1, "front, most MB": 100.0, "engine, MB more": 50.0, "rows left after 1 s": 0.0,
}  # fmt: skip


@dataclass
class Heard:
    """What a part of the load came to. ``first_byte_s`` is the response's, ``first_s`` that of the first piece of a thought."""

    seconds: float = 0.0
    first_byte_s: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    whole: int = 0
    cut: int = 0
    statuses: dict[int, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Whole answers a second."""
        return self.whole / self.seconds


class Load:
    """Clients of one server. A new picture for each request: a phantom with one pixel changed."""

    begin, end = b'"reasoning"', b"[DONE]"  # what text begins with, and what a whole answer ends with

    def __init__(self, port: int) -> None:
        self.port, self._n = port, 0
        self._base = [np.asarray(load_image(f"phantom:mri/test/{n}"))[..., 0] for n in range(8)]

    def request(self) -> bytes:
        self._n += 1
        levels = self._base[self._n % len(self._base)].copy()
        levels[0, :3] = self._n % 251, self._n // 251 % 251, 7
        data = io.BytesIO()
        Image.fromarray(levels).save(data, "PNG", compress_level=1)
        url = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
        body = json.dumps(self.asked(url)).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    def asked(self, url: str) -> dict[str, Any]:
        """The body of a request."""
        return {"model": "nano", "medical": {"options": OPTIONS}, **chat(url, "What is the imaging plane?")}

    async def ask(self, heard: Heard, leave: bool = False) -> None:
        """One stream to its end, or to its first token where the client leaves then."""
        request = self.request()
        began, text, is_first, has_text = time.perf_counter(), b"", True, False
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**22)
        try:
            writer.write(request)
            while self.end not in text and (part := await reader.read(65536)):
                text = text[-4096:] + part
                if is_first:
                    is_first, status = False, int(text[9:12])
                    heard.statuses[status] = heard.statuses.get(status, 0) + 1
                    if status != 200:
                        await asyncio.sleep(0.5)  # told to come again
                        return
                    heard.first_byte_s.append(time.perf_counter() - began)
                if not has_text and self.begin in text:
                    has_text = True
                    heard.first_s.append(time.perf_counter() - began)
                    if leave:
                        heard.cut += 1
                        return
            heard.whole += self.end in text
        finally:
            writer.close()

    async def of(self, clients: int, seconds: float, leaving: float = 0.0) -> Heard:
        """So many clients, each asking again as soon as it is answered; a share of requests is cut off."""
        heard, until = Heard(), time.perf_counter() + seconds
        began, rng = time.perf_counter(), np.random.default_rng(0)

        async def one() -> None:
            while time.perf_counter() < until:
                await self.ask(heard, leave=rng.random() < leaving)

        await asyncio.gather(*(one() for _ in range(clients)))
        heard.seconds = time.perf_counter() - began
        return heard

    async def get(self, path: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nConnection: close\r\n\r\n".encode())
        try:
            return await reader.read()
        finally:
            writer.close()

    async def rows(self) -> float:
        """Those under way, as /metrics tells."""
        page = (await self.get("/metrics")).decode()
        return next(float(line.split()[-1]) for line in page.splitlines() if line.startswith("medvlm_rows "))


def chat(url: str, text: str) -> dict[str, Any]:
    """What every server of OpenAI's protocol is asked."""
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    return {"messages": [{"role": "user", "content": parts}], "stream": True, "max_tokens": 48}


class TheirLoad(Load):
    """Clients of transformers' server: the prompt as ours writes it, and its own marks."""

    begin, end = b'"content"', b'"finish_reason":"'

    def asked(self, url: str) -> dict[str, Any]:
        return {"model": str(BASE), **chat(url, render(question("", "What is the imaging plane?", tuple(OPTIONS)), "think").text)}


async def their_server(port: int, seconds: float) -> dict[str, Any]:
    """Answers a second and first texts of one client and of 64."""
    load, found = TheirLoad(port), {}
    await load.of(1, 2.0)
    for clients in (1, MANY):
        heard = await load.of(clients, seconds)
        found[str(clients)] = {"answers_s": heard.rate, "first_p50_s": statistics.median(heard.first_s), "statuses": heard.statuses}
    return found


async def beside(load: Load, server: OurServer, work: "asyncio.Task[Heard]") -> tuple[list[float], list[tuple[float, ...]]]:
    """While ``work`` is under way: the seconds of /health, ten times a second, and MB of front and engine, once a second."""
    waits, sizes = [], []
    while not work.done():
        began = time.perf_counter()
        await load.get("/health")
        waits.append(time.perf_counter() - began)
        if len(waits) % 10 == 0:
            sizes.append(tuple(map(server.resident_mb, PARTS[:2])))
        await asyncio.sleep(0.1)
    return waits, sizes


class Generate:
    """transformers' own ``generate`` in a process of its own, which waits while others are measured."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, __file__, "--generate"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ(2))

    def rate(self, seconds: float) -> float:
        """Answers a second."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def generate() -> None:
    """What ``Generate`` starts: for each line of seconds, the answers a second."""
    from evaluate import Bench

    bench, row = Bench(100, 48), 0
    bench.one_at_a_time(range(2))
    for line in sys.stdin:
        began, answered = time.perf_counter(), 0
        while time.perf_counter() - began < float(line):
            bench.one_at_a_time([row % len(bench.examples)])  # the arm with pictures comes first
            row, answered = row + 1, answered + 1
        print(answered / (time.perf_counter() - began), flush=True)


async def measure(arguments: argparse.Namespace, server: OurServer, theirs: Generate) -> dict[str, Any]:
    """All that is to be shown of the server."""
    load, one, many, alone = Load(server.port), [], [], []
    theirs.rate(0.5)
    await load.of(CROWD, 8.0, leaving=0.5)  # warm
    engine_before, cpu_ms = server.resident_mb("engine"), []
    for _ in range(arguments.rounds):
        one.append(await load.of(1, arguments.seconds))
        alone.append(theirs.rate(arguments.seconds / 2))
        before = [*map(server.cpu_s, PARTS), time.process_time()]
        many.append(await load.of(MANY, arguments.seconds))
        after = [*map(server.cpu_s, PARTS), time.process_time()]
        cpu_ms.append([1000 * (b - a) / many[-1].whole for a, b in zip(before, after, strict=True)])
        say(f"1 client {one[-1].rate:.1f}/s, {MANY} clients {many[-1].rate:.1f}/s, generate {alone[-1]:.1f}/s")
    front_before = server.resident_mb("front")
    waits, sizes = await beside(load, server, work := asyncio.create_task(load.of(CROWD, arguments.churn, leaving=0.5)))
    (front, engine), churn = zip(*sizes, strict=True), await work
    await asyncio.sleep(1.0)
    median = statistics.median
    return {
        "answers_s_1": median(h.rate for h in one), "answers_s_64": median(h.rate for h in many), "answers_s_generate": median(alone),
        "ratio_64_to_1": median(m.rate / o.rate for m, o in zip(many, one, strict=True)),
        "ratio_64_to_generate": median(m.rate / a for m, a in zip(many, alone, strict=True)),
        "rounds": [[o.rate, m.rate, a] for o, m, a in zip(one, many, alone, strict=True)],
        "first_p50_s_1": median(s for h in one for s in h.first_s), "first_p50_s_64": median(s for h in many for s in h.first_s),
        "first_byte_p50_s_1": median(s for h in one for s in h.first_byte_s), "first_byte_p50_s_64": median(s for h in many for s in h.first_byte_s),
        "cpu_ms_an_answer_64": dict(zip((*PARTS[:2], "file_process without its children", "generator"), map(median, zip(*cpu_ms, strict=True)), strict=True)),
        "statuses": {key: sum(h.statuses.get(key, 0) for h in (*one, *many)) for key in {k for h in (*one, *many) for k in h.statuses}},
        "churn": {"clients": CROWD, "seconds": arguments.churn, "whole": churn.whole, "cut": churn.cut, "statuses": churn.statuses},
        "health_s": {"p50": median(waits), "p99": float(np.quantile(waits, 0.99)), "n": len(waits)},
        "front_mb": {"before": front_before, "most": max(front), "each_tenth": front[:: max(1, len(front) // 10)], "after": server.resident_mb("front")},
        "engine_mb": {"before": engine_before, "most": max(engine), "after": server.resident_mb("engine")},
        "rows_left_after_1_s": await load.rows(),
    }  # fmt: skip


def claims(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is wanted, what was found, and whether that is enough."""
    values = (
        found["ratio_64_to_1"], found["ratio_64_to_generate"], found["first_p50_s_1"], found["first_p50_s_64"], found["health_s"]["p99"],
        found["front_mb"]["most"], found["engine_mb"]["after"] - found["engine_mb"]["before"], found["rows_left_after_1_s"],
    )  # fmt: skip
    rows = {}
    for (name, wanted), value in zip(CLAIMS.items(), values, strict=True):
        holds = value >= wanted if "at least" in name else value <= wanted
        rows[name] = {"wanted": wanted, "found": round(value, 3), "holds": holds}
    rows["only 200 and 429"] = {"wanted": True, "found": sorted(found["churn"]["statuses"]), "holds": set(found["churn"]["statuses"]) <= {200, 429}}
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each part of a round")
    parser.add_argument("--churn", type=float, default=60.0, help="seconds of 200 clients of which half leave")
    parser.add_argument("--transformers-serve", metavar="COMMAND", help="how transformers is called where its server starts")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--generate", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.generate:
        generate()
        return 0
    theirs = Generate()
    with tempfile.TemporaryDirectory() as folder, OurServer("nano", Path(folder) / "log") as server:
        found = asyncio.run(measure(arguments, server, theirs))
    theirs.stop()
    if arguments.transformers_serve:
        with tempfile.TemporaryDirectory() as folder, TransformersServe(arguments.transformers_serve, BASE, Path(folder) / "log") as other:
            found["transformers_serve"] = asyncio.run(their_server(other.port, arguments.seconds))
    claimed = claims(found)
    result = {
        "date": datetime.date.today().isoformat(), "command": shlex.join(["benchmarks/serving.py", *sys.argv[1:]]),
        "commit": commit(), "hardware": hardware(), "found": found, "claims": claimed,
    }  # fmt: skip
    print(json.dumps(found, indent=2))
    if arguments.json:
        write_json(arguments.json, result)
    for name, row in claimed.items():
        say(f"{'yes' if row['holds'] else 'NO '}  {name}: {row['found']} (wanted {row['wanted']})")
    return 0 if all(row["holds"] for row in claimed.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
