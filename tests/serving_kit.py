"""What tests of the server share: an application over a scripted backend and real files, called in this process or at a port."""

import asyncio
import base64
import io
import json
import threading
from contextlib import asynccontextmanager

import httpx
from PIL import Image

from medvlm_r1.serving import app, http_server
from medvlm_r1.serving.file_client import Files
from medvlm_r1.serving.guard import LOOPBACK, Guard, Limits
from medvlm_r1.serving.measured import Measured
from medvlm_r1.serving.people import People
from medvlm_r1.serving.service import Service
from medvlm_r1.serving.wire import Picture, Said

OPTIONS = ["left", "right", "both"]
WRITTEN = "<think>Dark there. Hence left.</think><answer>A</answer>"


class Scripted:
    """A backend that writes a text, ``size`` signs at a time. ``held``: it waits for that event before each piece."""

    ready = True

    def __init__(self, text=WRITTEN, probs=(0.8, 0.15, 0.05), held=None, why=None, size=1, end="stop"):
        self.text, self.probs, self.held, self.why, self.size, self.end = text, probs, held, why, size, end
        self.about = {"model": "scripted", "identity": "abc float32", "template": "think"}
        self.asked, self.rows = [], 0

    async def ask(self, ask):
        self.asked.append(ask)
        self.rows += ask.sampling.n
        try:
            for k in range(ask.sampling.n):
                for at in range(0, len(self.text), self.size):
                    if self.held:
                        await self.held.wait()
                    if self.why and at == self.why[0]:
                        yield Said(0, "", why="out of order", status=self.why[1])
                        return
                    if ask.stream:
                        yield Said(k, self.text[at : at + self.size])
                yield Said(k, self.text, self.end, 7, 40, self.probs, seen=((28, 28),) * len(ask.pictures))
        finally:
            self.rows -= ask.sampling.n


class NoFiles:
    """Opens whatever it is given as the same picture."""

    def __init__(self):
        self.opened = []

    async def open(self, data, place=""):
        self.opened.append((data, place))
        return Picture(b"png", "ab" * 32, 56, 56)


def service(backend=None, files=None, **changes):
    return Service(backend or Scripted(), files or NoFiles(), **changes)


def guarded(offered, key="", hosts=LOOPBACK, log=lambda line: None):
    return Measured(Guard(app.build(offered), frozenset(hosts), People(key), offered.limits), offered.metrics, log)


def client(offered, **changes):
    """httpx over ASGI: no socket, no server."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(guarded(offered, **changes), raise_app_exceptions=False), base_url="http://localhost")


def post(offered, body, path="/v1/chat/completions", headers=None, **changes):
    async def go():
        async with client(offered, **changes) as http:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            return await http.post(path, content=content, headers={"content-type": "application/json", **(headers or {})})

    return asyncio.run(go())


def get(offered, path, headers=None, **changes):
    async def go():
        async with client(offered, **changes) as http:
            return await http.get(path, headers=headers)

    return asyncio.run(go())


def png(size=(40, 30), mode="L"):
    data = io.BytesIO()
    Image.effect_noise(size, 60).convert(mode).save(data, "PNG")
    return data.getvalue()


def data_url(data, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def question(*urls, text="Which side?", options=OPTIONS, **more):
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in (urls or (data_url(png()),))]
    return {"model": "scripted", "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}], "medical": {"options": options}, **more}


def events(text):
    """The data of server-sent events."""
    return [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: ") and line != "data: [DONE]"]


@asynccontextmanager
async def opened_files():
    files = Files()
    files.start()
    try:
        yield files
    finally:
        files.close()


class Listening:
    """An application at a port of this machine, in a thread; for what only a socket, or a browser, can show."""

    def __init__(self, application, limits=None):
        self._server = http_server.server(application, "127.0.0.1", 0, limits or Limits())
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve()), daemon=True)

    def __enter__(self):
        self._thread.start()
        while not self._server.started:
            threading.Event().wait(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_):
        self._server.should_exit = True
        self._thread.join(10)


class AtAPort(Listening):
    """A service's, behind its guard."""

    def __init__(self, offered, key="", **limits):
        offered.limits = Limits(**limits)
        super().__init__(guarded(offered, key=key), offered.limits)
