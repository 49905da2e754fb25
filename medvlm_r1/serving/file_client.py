"""The file process as the front sees it."""

import asyncio
import hashlib
import json
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import Any

from medvlm_r1.data.study import Instance
from medvlm_r1.serving.plain_png import plain, work_of
from medvlm_r1.serving.refusals import Refused
from medvlm_r1.serving.wire import Picture

AT_ONCE = 4
MOST_BYTES_HERE = 2**19  # are looked at in a millisecond or two; more is for another thread
PATIENCE_S = 12.0  # a child ends itself before
_STATUS = {"unsupported": 415, "large": 413, "corrupt": 400}
_MOST_REPLY_BYTES = 2**27
_TOO_MUCH = "the picture takes too much time or memory to open; send it smaller"


@dataclass
class Files:
    """Opens files in a process of its own, but for plain PNGs, which are passed on as they are; ``start`` it first.

    ``patience_s``: how long a file may take, once the process has loaded what it opens files with.
    """

    patience_s: float = PATIENCE_S
    _channel: socket.socket = field(init=False)
    _process: "subprocess.Popen[bytes]" = field(init=False)
    _has_begun: bool = field(default=False, init=False)
    _beginning: threading.Lock = field(default_factory=threading.Lock, init=False)
    _at_once: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE), init=False)

    def start(self) -> None:
        """Start the process; it ends when this one does."""
        self._channel, theirs = socket.socketpair()
        words = [sys.executable, "-m", "medvlm_r1.serving.file_process", str(theirs.fileno())]
        with theirs:  # one thread of OpenBLAS: a fork has no others
            self._process = subprocess.Popen(["env", "OPENBLAS_NUM_THREADS=1", "OMP_NUM_THREADS=1", *words], pass_fds=[theirs.fileno()])

    def close(self) -> None:
        """End it."""
        self._channel.shutdown(socket.SHUT_RDWR)
        self._channel.close()
        self._process.wait(PATIENCE_S)

    async def open(self, data: bytes, place: str = "") -> Picture:
        """What the model is to see of a file. ``place``: "#frame=3" and the like. Raises Refused."""
        if not place:
            long = work_of(data) > MOST_BYTES_HERE
            if picture := await asyncio.to_thread(as_it_is, data) if long else as_it_is(data):
                return picture
        told, png = await self._asked(data, {"whole": False, "place": place}, "messages")
        known = Instance(**told["instance"]) if told["instance"] else None
        return Picture(png, told["sha256"], told["width"], told["height"], instance=known)

    async def whole(self, data: bytes) -> bytes:
        """Header and samples of all that is in a file (``reading.pictures``). Raises Refused."""
        return (await self._asked(data, {"whole": True}, None))[1]

    def _begin(self) -> None:
        """Wait for its byte; the first file is not to pay for the start of a slow machine."""
        with self._beginning:
            self._has_begun = self._has_begun or bool(self._channel.recv(1))

    async def _asked(self, data: bytes, asked: dict[str, Any], param: str | None) -> tuple[dict[str, Any], bytes]:
        async with self._at_once:
            if not self._has_begun:
                await asyncio.to_thread(self._begin)
            ours, theirs = socket.socketpair()
            with theirs:
                socket.send_fds(self._channel, [b"f"], [theirs.fileno()])
            reader, writer = await asyncio.open_connection(sock=ours, limit=_MOST_REPLY_BYTES)
            try:
                async with asyncio.timeout(self.patience_s):
                    writer.write(json.dumps({"size": len(data), **asked}).encode() + b"\n" + data)
                    reply = await reader.readline()
                    told: dict[str, Any] = json.loads(reply or json.dumps({"code": "corrupt", "why": _TOO_MUCH}))
                    if told["code"]:
                        raise Refused(_STATUS[told["code"]], told["why"], param)
                    return told, await reader.readexactly(told["size"])
            except (ConnectionError, TimeoutError, asyncio.IncompleteReadError) as error:
                raise Refused(400, _TOO_MUCH, param) from error
            finally:
                writer.close()


def as_it_is(data: bytes) -> Picture | None:
    """A file that is a plain PNG, as the model is to see it; None for any other."""
    found = plain(data)
    if found is None or not found.is_whole():
        return None
    return Picture(found.png, hashlib.sha256(found.png).hexdigest(), found.head.width, found.head.height)
