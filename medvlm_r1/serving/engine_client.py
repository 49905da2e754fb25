"""The engine process as the front sees it: one socket, many asks at a time."""

import asyncio
import itertools
import json
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from medvlm_r1.serving.wire import MOST_LINE_BYTES, Ask, Said, ask_line, line, said_of

GONE = Said(0, "", why="the model's process has ended; start the server again", status=503)


class EngineClient:
    """A ``wire.Backend``. ``on_load`` hears of rows under way and waiting."""

    def __init__(self, channel: socket.socket, on_load: Callable[[int, int], None] = lambda rows, waiting: None) -> None:
        self._channel, self._on_load = channel, on_load
        self._about: dict[str, Any] = {}
        self._asks: dict[int, asyncio.Queue[Said]] = {}
        self._numbers = itertools.count()
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._sending = asyncio.Lock()
        self.started, self.ended = asyncio.Event(), asyncio.Event()

    @property
    def ready(self) -> bool:
        """Has the model been loaded, and is its process there?"""
        return bool(self._about) and self._writer is not None

    @property
    def about(self) -> Mapping[str, Any]:
        """What the engine said of itself; empty before it was ready."""
        return self._about

    async def start(self) -> None:
        """Begin to listen."""
        reader, self._writer = await asyncio.open_unix_connection(sock=self._channel, limit=MOST_LINE_BYTES)
        self._reading = asyncio.create_task(self._listen(reader))

    async def close(self) -> None:
        """Hang up, whereupon the engine ends."""
        if self._writer is not None:
            self._writer.close()
        if self._reading is not None:
            await asyncio.wait({self._reading})

    async def ask(self, ask: Ask) -> AsyncGenerator[Said, None]:
        """See Backend.ask."""
        if not self.ready or self._writer is None:
            yield GONE
            return
        number, rows, writer = next(self._numbers), ask.sampling.n, self._writer
        inbox = self._asks[number] = asyncio.Queue()
        try:
            async with self._sending:  # one by one, as fast as the engine reads: hundreds that come at once would lie in the writer's buffer
                writer.write(ask_line(number, ask))
                del ask
                await writer.drain()
            while rows:
                said = await inbox.get()
                rows = 0 if said.why else rows - bool(said.end)
                yield said
        except ConnectionError:
            yield GONE
        finally:
            del self._asks[number]
            if rows and self._writer is not None:
                self._writer.write(line({"do": "cancel", "id": number}))

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while text := await reader.readline():
                self._hear(json.loads(text))
        finally:
            self._end()

    def _end(self) -> None:
        self._writer, self._about = None, {}
        self.started.set()
        self.ended.set()
        for inbox in self._asks.values():
            inbox.put_nowait(GONE)

    def _hear(self, message: Mapping[str, Any]) -> None:
        if message["say"] == "ready":
            self._about = {name: value for name, value in message.items() if name != "say"}
            self.started.set()
        elif message["say"] == "load":
            self._on_load(message["rows"], message["waiting"])
        elif inbox := self._asks.get(message["id"]):
            inbox.put_nowait(said_of(message))
