"""The server under load: answers a second, first tokens, /health beside them, and what is left when clients leave.

A raw generator on asyncio sockets, since an HTTP library would cost more than the server. Every request has a new picture.

    python benchmarks/serving.py --json runs/bench/serving.json
    python benchmarks/serving.py --rounds 1 --seconds 5 --churn 10       a short look
"""

import argparse
import asyncio
import base64
import io
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from medvlm_r1.data.images import load_image

OPTIONS = ["sagittal", "coronal", "axial"]
PORT = 8765


@dataclass
class Heard:
    """What a part of the load came to."""

    seconds: float = 0.0
    first_s: list[float] = field(default_factory=list)
    whole: int = 0
    cut: int = 0
    statuses: dict[int, int] = field(default_factory=dict)


class Pictures:
    """A new picture each time: a phantom with one pixel changed."""

    def __init__(self) -> None:
        self._base = [np.asarray(load_image(f"phantom:mri/test/{n}")) for n in range(8)]
        self._n = 0

    def body(self, stream: bool) -> bytes:
        self._n += 1
        levels = self._base[self._n % len(self._base)].copy()
        levels[0, :3] = [[self._n % 251, self._n // 251 % 251, 7]] * 3
        data = io.BytesIO()
        Image.fromarray(levels).save(data, "PNG", compress_level=1)
        url = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is the imaging plane?"}]
        asked = {"model": "nano", "messages": [{"role": "user", "content": parts}], "medical": {"options": OPTIONS}, "stream": stream, "max_tokens": 48}
        body = json.dumps(asked).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{PORT}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body


async def ask(request: bytes, heard: Heard, leave: bool = False) -> None:
    """One stream to its end, or to its first token where the client leaves then."""
    began, first, text = time.perf_counter(), 0.0, b""
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT, limit=2**22)
    try:
        writer.write(request)
        while b"[DONE]" not in text and (part := await reader.read(65536)):
            text = text[-4096:] + part
            if not first:
                first = time.perf_counter() - began
                status = int(text[9:12])
                heard.statuses[status] = heard.statuses.get(status, 0) + 1
                if status != 200:
                    return
                heard.first_s.append(first)
                if leave:
                    heard.cut += 1
                    return
        heard.whole += b"[DONE]" in text
    finally:
        writer.close()


async def load(pictures: Pictures, clients: int, seconds: float, leaving: float = 0.0) -> Heard:
    """So many clients, each asking again as soon as it is answered; a share of requests is cut off."""
    heard, until = Heard(), time.perf_counter() + seconds
    began, rng = time.perf_counter(), np.random.default_rng(0)

    async def one() -> None:
        while time.perf_counter() < until:
            await ask(pictures.body(stream=True), heard, leave=rng.random() < leaving)

    await asyncio.gather(*(one() for _ in range(clients)))
    heard.seconds = time.perf_counter() - began
    return heard


async def health(until: float, found: list[float]) -> None:
    """Seconds of /health, ten times a second."""
    request = f"GET /health HTTP/1.1\r\nHost: 127.0.0.1:{PORT}\r\nConnection: close\r\n\r\n".encode()
    while time.perf_counter() < until:
        began = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
        writer.write(request)
        await reader.read()
        writer.close()
        found.append(time.perf_counter() - began)
        await asyncio.sleep(0.1)


async def number(name: str) -> float:
    """One value of /metrics."""
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
    writer.write(f"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:{PORT}\r\nConnection: close\r\n\r\n".encode())
    page = (await reader.read()).decode()
    writer.close()
    return next(float(line.split()[-1]) for line in page.splitlines() if line.startswith(f"{name} "))


def resident_mb(pid: int) -> float:
    """Of one process."""
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(row.split()[1]) / 1024 for row in rows if row.startswith("VmRSS"))


def engine_of(front: int) -> int:
    """The front's child that holds the model."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and (process / "status").exists():
            status = (process / "status").read_text()
            if f"PPid:\t{front}\n" in status and b"engine_main" in (process / "cmdline").read_bytes():
                return int(process.name)
    raise RuntimeError("no engine")


async def measure(arguments: argparse.Namespace, front: int) -> dict[str, object]:
    """All that is to be shown of the server."""
    pictures, ratios, one, many = Pictures(), [], [], []
    await load(pictures, 8, 3.0)  # warm
    for _ in range(arguments.rounds):
        one.append(await load(pictures, 1, arguments.seconds))
        many.append(await load(pictures, 64, arguments.seconds))
        ratios.append((many[-1].whole / many[-1].seconds) / (one[-1].whole / one[-1].seconds))
    before = resident_mb(front), resident_mb(engine_of(front))
    waits: list[float] = []
    beside = asyncio.create_task(health(time.perf_counter() + arguments.churn, waits))
    churn = await load(pictures, 200, arguments.churn, leaving=0.5)
    await beside
    await asyncio.sleep(1.0)
    return {
        "answers_s_1": statistics.median(h.whole / h.seconds for h in one),
        "answers_s_64": statistics.median(h.whole / h.seconds for h in many),
        "ratio_64_to_1": statistics.median(ratios),
        "first_token_p50_s_1": statistics.median(s for h in one for s in h.first_s),
        "first_token_p50_s_64": statistics.median(s for h in many for s in h.first_s),
        "churn": {"clients": 200, "seconds": arguments.churn, "whole": churn.whole, "cut": churn.cut, "statuses": churn.statuses},
        "health_p99_s": float(np.quantile(waits, 0.99)),
        "front_mb": {"before": before[0], "after": resident_mb(front)},
        "engine_mb": {"before": before[1], "after": resident_mb(engine_of(front))},
        "rows_left_after_1_s": await number("medvlm_rows"),
    }


async def until_ready(process: "subprocess.Popen[bytes]") -> None:
    """Wait for the model."""
    for _ in range(1200):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
            writer.write(f"GET /ready HTTP/1.1\r\nHost: 127.0.0.1:{PORT}\r\nConnection: close\r\n\r\n".encode())
            ready = b" 200 " in await reader.read()
            writer.close()
            if ready:
                return
        except ConnectionError:
            if process.poll() is not None:
                raise
        await asyncio.sleep(0.1)
    raise TimeoutError("the server is not ready after 120 s")


async def main(arguments: argparse.Namespace) -> None:
    words = [sys.executable, "-m", "medvlm_r1", "serve", "--model", "nano", "--port", str(PORT)]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    try:
        await until_ready(process)
        found = await measure(arguments, process.pid)
    finally:
        process.terminate()
        process.wait(60)
    print(json.dumps(found, indent=2))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"command": " ".join(sys.argv), "systems": {"ours": found}}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each part of a round")
    parser.add_argument("--churn", type=float, default=60.0, help="seconds of 200 clients of which half leave")
    parser.add_argument("--json", type=Path)
    asyncio.run(main(parser.parse_args()))
