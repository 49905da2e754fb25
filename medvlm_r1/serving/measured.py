"""One number and one line of log for every request, by the route's name and never by what was sent. Plain ASGI."""

import json
import sys
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from medvlm_r1.serving.guard import App, Message, Receive, Send


class Fault(RuntimeError):
    """Where the server failed: the kind of error and its lines, without its message, which may hold what was sent."""


class Requests(Protocol):
    """Whoever counts."""

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request has ended."""
        ...


@dataclass
class Measured:
    """Wraps an application; ``log`` gets a line of JSON, of which no sign is obeyed by a terminal."""

    app: App
    metrics: Requests
    log: Callable[[str], None] = lambda line: None

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, place = time.perf_counter(), 499, ""

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception as error:
            status, place = 500, where(error)
            raise Fault(place) from None
        finally:
            route, seconds = getattr(scope.get("route"), "name", "none"), time.perf_counter() - began
            self.metrics.request(route, status, seconds)
            told = {"time": round(time.time(), 3), "route": route, "status": status, "ms": round(1000 * seconds, 1)}
            self.log(json.dumps(told | ({"fault": place} if place else {})))


def where(error: Exception) -> str:
    """
    >>> try:
    ...     int("DOE^JANE")
    ... except ValueError as error:
    ...     where(error).split()[0]
    'ValueError'
    """
    trace: TracebackType | None = error.__traceback__
    lines = []
    while trace is not None:
        lines.append(f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " ".join([type(error).__name__, *lines])


def to_stderr(line: str) -> None:
    """Where log lines go."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
