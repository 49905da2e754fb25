"""The HTTP server: the one module that knows uvicorn. It gives a client little time to say what it wants, and little to take the answer."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from medvlm_r1.serving.guard import App, Limits

SHUTDOWN_S = 20  # for answers under way, after SIGTERM


def protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """uvicorn's, with deadlines for headers and for a client that takes nothing."""

    class Impatient(HttpToolsProtocol):
        _late: asyncio.TimerHandle | None = None
        _stuck: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            if self._late is None and (self.cycle is None or self.cycle.response_complete):
                self._wait()
            super().data_received(data)

        def on_headers_complete(self) -> None:
            self._late = _without(self._late)
            super().on_headers_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stuck = self.loop.call_later(limits.write_s, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._stuck = _without(self._stuck)

        def connection_lost(self, exc: Exception | None) -> None:
            self._late, self._stuck = _without(self._late), _without(self._stuck)
            super().connection_lost(exc)

        def _wait(self) -> None:
            self._late = self.loop.call_later(limits.header_s, self._give_up)

        def _give_up(self) -> None:
            if not self.transport.is_closing():
                self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
                self.transport.close()

    return Impatient


def _without(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """What is left of a timer that is not wanted any more: nothing."""
    if timer is not None:
        timer.cancel()
    return None


class _Server(uvicorn.Server):
    """Signals are the business of whoever starts it: uvicorn's own way would end the process before its helpers are told."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def server(app: App, host: str, port: int, limits: Limits) -> uvicorn.Server:
    """Ready to ``serve``; it stops once ``should_exit`` is set, after the answers under way. uvicorn's own log could show a request, and is silent."""
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL + 1)
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=protocol(limits),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=1024,
        timeout_graceful_shutdown=SHUTDOWN_S,
        h11_max_incomplete_event_size=2**16,
    )  # fmt: skip
    return _Server(config)
