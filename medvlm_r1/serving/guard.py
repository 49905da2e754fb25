"""What stands before every route: who may ask, how much, and how slowly. Plain ASGI, before anything reads a body.

A page of another site that a reader has open must not reach a server on her machine: the Host is one that was named (against
DNS rebinding), and an Origin is that of the Host. No cookie is set or read, and no header allows another site anything.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from medvlm_r1.serving.people import People, Person
from medvlm_r1.serving.refusals import Refused

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

OPEN_PATHS = ("/health",)
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"cache-control": b"no-store",
    b"referrer-policy": b"no-referrer",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
}


@dataclass(frozen=True)
class Limits:
    """How much, and how slowly.

    >>> Limits().body_bytes >> 20
    32
    """

    header_s: float = 5.0
    body_s: float = 10.0
    write_s: float = 30.0  # how long a reader may take nothing
    answer_s: float = 300.0
    body_bytes: int = 2**25
    body_parts: int = 20_000  # of JSON; 32 MiB of empty ones would hold everybody up for ten seconds, in three gigabytes
    rows: int = 320  # under way and waiting


@dataclass
class Guard:
    """Wraps an application, which finds in its scope who the ``person`` is. ``hosts``: names it may be called by; ``open_paths`` want no key."""

    app: App
    hosts: frozenset[str]
    people: People = field(default_factory=People)
    limits: Limits = field(default_factory=Limits)
    open_paths: frozenset[str] = frozenset(OPEN_PATHS)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        try:
            scope["person"] = self._admit(scope["path"], headers)
            bodies = [await self._body(receive, headers) if scope["method"] in ("POST", "PUT", "PATCH", "DELETE") else b""]
        except Refused as refused:
            await refuse(send, refused)
            return

        async def replay() -> Message:
            if not bodies:
                return await receive()
            return {"type": "http.request", "body": bodies.pop(), "more_body": False}  # kept no longer than whoever reads it wants

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                has = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *((name, value) for name, value in _HEADERS.items() if name not in has)]
            await send(message)

        await self.app(scope, replay, guarded)

    def _admit(self, path: str, headers: Mapping[bytes, bytes]) -> Person | None:
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if name_of(host) not in self.hosts:
            raise Refused(403, "this server does not go by that name; start it with --allow-host NAME")
        if b"origin" in headers and _host_of(headers[b"origin"].decode("latin-1").lower()) != host:
            raise Refused(403, "a page of another site may not ask this server")
        person = self.people.of(headers.get(b"authorization", b"").decode("latin-1"))
        if person is None and path not in self.open_paths:
            raise Refused(401, "the key is missing or wrong; send Authorization: Bearer KEY")
        if person is not None and not self.people.may(person, path):
            raise Refused(403, "here a reader answers before the model's answer is shown, and so asks through the page alone")
        return person

    async def _body(self, receive: Receive, headers: Mapping[bytes, bytes]) -> bytes:
        """The whole of it, in time and within bounds, whatever its length was said to be."""
        length, most = headers.get(b"content-length", b"0"), self.limits.body_bytes
        too_much = Refused(413, f"the request is larger than {most >> 20} MiB; send a smaller picture")
        if not length.isdigit() or int(length) > most:
            raise too_much
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.limits.body_s):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise Refused(400, "the request broke off")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise too_much
                    if not message.get("more_body", False):
                        break
        except TimeoutError as error:
            raise Refused(408, f"the request took longer than {self.limits.body_s:g} s to come; send it faster, or a smaller picture") from error
        body = b"".join(parts)
        if b"json" in headers.get(b"content-type", b"").lower() and parts_of(body) > self.limits.body_parts:
            raise Refused(413, f"the request has more than {self.limits.body_parts} parts; ask less at once")
        return body


def _host_of(origin: str) -> str:
    """
    >>> _host_of("https://localhost:8000"), _host_of("http://[")
    ('localhost:8000', '')
    """
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""  # nobody's


async def refuse(send: Send, refused: Refused) -> None:
    """Answer without the application, and let the connection end: what is left of the request is not read."""
    body = json.dumps(refused.body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"connection", b"close"), *_HEADERS.items()]
    headers += [(name.lower().encode(), value.encode()) for name, value in refused.headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def parts_of(body: bytes) -> int:
    """No fewer than the values in it, counted without reading it: each but the first stands behind one of these signs, of which base64 has none; commas of texts count, too.

    >>> parts_of(b'{"n": [1, 2], "asked": "left or right?"}'), parts_of(b'{"n": [1, 2], "asked": "left, or right?"}')
    (5, 6)
    """
    return 1 + sum(body.count(sign) for sign in (b",", b"[", b"{"))


def name_of(host: str) -> str:
    """A host without its port.

    >>> name_of("localhost:8000"), name_of("[::1]:8000"), name_of("reader.local"), name_of("::1")
    ('localhost', '::1', 'reader.local', '::1')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host
