"""What ``medvlm-r1 serve`` starts: the front in this process, which needs no torch, and the two behind it."""

import asyncio
import gc
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medvlm_r1.config import secret
from medvlm_r1.console import notice
from medvlm_r1.errors import ConfigError, EngineError, MedVLMError, install, nearest
from medvlm_r1.reading.study import read_log
from medvlm_r1.reading.worklist import Case, read_worklist
from medvlm_r1.reasoning import TEMPLATES
from medvlm_r1.rollout.calling import Endpoint, check_up, is_here, served_model
from medvlm_r1.rollout.dialect import Dialect
from medvlm_r1.serving import calibrated
from medvlm_r1.serving.audit_log import AuditLog
from medvlm_r1.serving.engine_client import EngineClient
from medvlm_r1.serving.file_client import Files
from medvlm_r1.serving.guard import LOOPBACK, OPEN_PATHS, Guard, Limits
from medvlm_r1.serving.measured import Measured, to_stderr
from medvlm_r1.serving.people import People, read_readers
from medvlm_r1.serving.upstream import Upstream
from medvlm_r1.serving.wire import Backend

KEY, UPSTREAM_KEY = "MEDVLM_SERVE_KEY", "MEDVLM_API_KEY"


@dataclass(frozen=True)
class Reading:
    """Who reads on the page, what, and in which order. ``read_first``: no answer of the model's before the reader's own.

    >>> Reading().read_first
    False
    """

    read_first: bool = False
    worklist: Path | None = None
    readers: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class Serving:
    """What is served, where, and how much of it at a time. ``model`` is a directory, a hub id or nano; ``upstream`` an address in its stead.

    >>> Serving("nano").port
    8000
    """

    model: str = ""
    upstream: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    allow_hosts: tuple[str, ...] = ()
    template: str | None = None
    dtype: str | None = None
    max_pixels: int | None = None
    slots: int = 64
    waiting: int = 256
    keep_bytes: int = 2**28
    timeout_s: float = 300.0
    calibration: Path | None = None
    audit_log: Path | None = None
    page: bool = True
    reading: Reading = field(default_factory=Reading)
    limits: Limits = field(default_factory=Limits)


def check(serving: Serving, key: str) -> None:
    """Raises ConfigError for what would not be safe, or not be possible."""
    if bool(serving.model) == bool(serving.upstream):
        raise ConfigError("name what is to answer: either --model or --upstream URL#MODEL")
    if serving.template and serving.template not in TEMPLATES:
        raise ConfigError(f'unknown template "{serving.template}"{nearest(serving.template, TEMPLATES)}')
    if serving.calibration:
        calibrated.read(serving.calibration)
    if not is_here(serving.host) and not key and not serving.reading.readers:
        raise ConfigError(f"--host {serving.host} can be reached by others, so a key is needed; set the environment variable {KEY}")
    if key and not (len(key) >= 16 and all("!" <= sign <= "~" for sign in key)):
        raise ConfigError(f"the key in {KEY} wants 16 or more signs without spaces; make one with: openssl rand -hex 24")
    if serving.reading.read_first and not serving.audit_log:
        raise ConfigError("--read-first shows the model's answer once the reader's own is in the audit log, and there is none; name one with --audit-log FILE")
    if serving.reading.read_first and key and not serving.reading.readers:
        raise ConfigError(f"the key in {KEY} opens every route, so --read-first would hold nobody back; give readers keys of their own with --readers FILE")
    if (serving.reading.read_first or serving.reading.worklist) and not serving.page:
        raise ConfigError("--read-first and --worklist are about the page, which --no-page turns off; drop one of them")
    if serving.upstream and (serving.dtype or serving.max_pixels or serving.calibration):
        raise ConfigError("--dtype, --max-pixels and --calibration do nothing at an upstream, whose server holds the weights; drop them")


def run(serving: Serving) -> None:
    """Serve until SIGTERM or SIGINT, then answer what is under way. Raises ConfigError, DataError, EngineError or RunError where it cannot go on."""
    key = secret(KEY)
    check(serving, key)
    try:
        asyncio.run(_run(serving, key))
    except ModuleNotFoundError as error:
        raise ConfigError(f"the server needs {error.name}; {install('fastapi', 'uvicorn', 'httptools', 'prometheus-client')}") from error


async def _run(serving: Serving, key: str) -> None:
    from medvlm_r1.serving import app, http_server, metrics, service  # with fastapi and its kin, which are an extra

    people = People(key, read_readers(serving.reading.readers) if serving.reading.readers else {}, serving.reading.read_first)
    cases = read_worklist(serving.reading.worklist) if serving.reading.worklist else ()
    numbers = metrics.Metrics()
    async with AsyncExitStack() as stack:
        stack.callback((files := Files()).close)
        files.start()
        backend = _upstream(serving) if serving.upstream else _engine(serving, numbers.load, stack)
        audit = AuditLog(serving.audit_log) if serving.audit_log else None
        if audit:
            stack.callback(audit.close)
        offered = service.Service(backend, files, numbers, serving.limits, audit=audit)
        page = _page(serving, offered, people, cases)
        guard = Guard(
            app.build(offered, page), hosts(serving), people, serving.limits, frozenset({*OPEN_PATHS, *(route.path for route in page if route.is_open)})
        )
        guarded = Measured(guard, numbers, to_stderr)
        server = http_server.server(guarded, serving.host, serving.port, serving.limits)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, _stop, server, offered)
        watch = asyncio.create_task(_watch(backend, serving, offered, server))
        gc.collect()
        gc.freeze()  # what was loaded is not looked through again and again for garbage
        offered.record("start", {"model": serving.model or serving.upstream})
        await server.serve()
        is_asked_to = offered.stopping
        offered.stopping = True
        if isinstance(backend, EngineClient):
            await backend.close()
        await watch
        if not is_asked_to:
            raise EngineError(f"nothing can be served at {serving.host}:{serving.port}; is the port in use? choose another --port")


def _page(serving: Serving, offered: Any, people: People, cases: tuple[Case, ...]) -> list[Any]:
    """Its routes; none where there is to be no page."""
    if not serving.page:
        return []
    from medvlm_r1.reading import pictures, reads, routes, static_files

    found = reads.Reads(offered, cases, people.names, people.read_first, serving.reading.seed)
    if serving.audit_log:
        found.recall(read_log(serving.audit_log))
    return [*static_files.static(), pictures.route(offered.files), *routes.routes(found)]


def _stop(server: Any, offered: Any) -> None:
    offered.stopping = server.should_exit = True


async def _watch(backend: Backend, serving: Serving, offered: Any, server: Any) -> None:
    """Say when the model is there, and end the server where it is not any more."""
    if isinstance(backend, EngineClient):
        await backend.start()
        await backend.started.wait()
    try:
        if serving.calibration and backend.ready:
            offered.calibration = calibrated.read(serving.calibration)
            calibrated.require(offered.calibration, backend.about, serving.calibration)
        if backend.ready:
            address = f"http://{serving.host}:{serving.port}"
            notice(f"{backend.about['model']} is served at {address}/v1{f', its page is {address}/' if serving.page else ''}; Ctrl-C stops it")
        if isinstance(backend, EngineClient):
            await backend.ended.wait()
            if not offered.stopping:
                raise EngineError("the model's process has ended; what it wrote above says why")
    except MedVLMError:
        _stop(server, offered)
        raise


def _upstream(serving: Serving) -> Upstream:
    url, _, name = serving.upstream.partition("#")
    endpoint = Endpoint(url, name, secret(UPSTREAM_KEY), serving.timeout_s, attempts=2, concurrency=serving.slots)
    check_up(endpoint)
    endpoint = endpoint if name else replace(endpoint, model=served_model(url, endpoint.key))
    return Upstream(endpoint, serving.template or "paper-eval", Dialect(notice))


def _engine(serving: Serving, on_load: Callable[[int, int], None], stack: AsyncExitStack) -> EngineClient:
    """The engine process, starting; it ends when its socket closes, and is waited for."""
    ours, theirs = socket.socketpair()
    names = ("model", "dtype", "max_pixels", "template", "slots", "keep_bytes")
    settings = json.dumps({name: getattr(serving, name) for name in names})
    with theirs:
        process = subprocess.Popen([sys.executable, "-m", "medvlm_r1.launch.engine_main", str(theirs.fileno()), settings], pass_fds=[theirs.fileno()])
    stack.callback(process.wait)
    stack.callback(ours.close)
    return EngineClient(ours, on_load)


def hosts(serving: Serving) -> frozenset[str]:
    """The names that the server may be called by: of this machine, of where it listens, and those that were allowed.

    >>> sorted(hosts(Serving("nano", host="10.0.0.7", allow_hosts=("Reader.local",))))
    ['10.0.0.7', '127.0.0.1', '::1', 'localhost', 'reader.local']
    """
    return frozenset(name.lower() for name in (*LOOPBACK, serving.host, *serving.allow_hosts)) - {"0.0.0.0", "::"}
