"""The routes. The one module that knows fastapi; what a route does is in ``service``.

``more`` lets a page add its routes: they stand behind the same guard.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from fastapi import Request as Request  # what a page's route may be given,
from fastapi import Response as Response  # and answer with
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from medvlm_r1 import INTENDED_USE, __version__
from medvlm_r1.serving.people import ALONE, Person
from medvlm_r1.serving.refusals import Refused, error_body
from medvlm_r1.serving.schema import ChatRequest, ErrorBody, FeedbackRequest, chat_schemas, read_chat
from medvlm_r1.serving.service import Event, Service, new_id, now, readings

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": what}
    for status, what in {
        400: "a picture or a body that cannot be read", 401: "no key, or a wrong one", 403: "a foreign Host or Origin", 404: "no such model or route",
        408: "the request came too slowly", 413: "too large", 415: "a picture of an unknown kind", 422: "a field out of its bounds",
        429: "too many wait; Retry-After says how long", 500: "a fault of the server", 502: "the upstream answered nonsense", 503: "not ready",
        504: "no whole answer in time",
    }.items()
}  # fmt: skip
_REF = "#/components/schemas/{model}"


@dataclass(frozen=True)
class Route:
    """One route more: what ``FastAPI.add_api_route`` takes. ``is_open``: it wants no key, for it shows nothing of anybody."""

    path: str
    endpoint: Callable[..., Any]
    methods: tuple[str, ...] = ("GET",)
    is_open: bool = False


def _caller(request: Request) -> Person:
    found: Person | None = request.scope.get("person")
    return found or Person(ALONE, is_reader=True)


Caller = Annotated[Person, Depends(_caller)]  # a route that takes one is told who asks


async def streamed(events: AsyncGenerator[Mapping[str, Any], None]) -> Response:
    """Server-sent events. What is wrong before the first has its status; what is wrong later is an event: no part passes for the whole."""
    chunks = _encoded(events)
    return _stream(await anext(chunks), chunks)


async def _encoded(events: AsyncGenerator[Mapping[str, Any], None]) -> AsyncGenerator[bytes, None]:
    is_first = True
    try:
        async with aclosing(events):
            async for event in events:
                yield _sse(event)
                is_first = False
    except Refused as refused:
        if is_first:
            raise
        yield _sse(refused.body)


def _stream(first: bytes, chunks: AsyncGenerator[bytes, None]) -> Response:
    async def all_of_them() -> AsyncGenerator[bytes, None]:
        async with aclosing(chunks):
            yield first
            async for chunk in chunks:
                yield chunk

    return StreamingResponse(all_of_them(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def build(service: Service, more: Iterable[Route] = ()) -> FastAPI:
    """The application, without its guard and its measure."""
    app = FastAPI(
        title="medvlm-r1",
        version=__version__,
        description=INTENDED_USE,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    _answer_errors(app)
    _add_status(app, service)
    _add_asking(app, service)
    _describe(app)
    for route in more:
        app.add_api_route(route.path, route.endpoint, methods=list(route.methods))
    return app


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        status = 400 if first["type"] == "json_invalid" else 422
        return JSONResponse(error_body(status, "the body is no JSON" if status == 400 else str(first["msg"]), place[:200] or None), status)

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(error_body(500, "a fault of the server; its log says where"), 500)

    @app.exception_handler(StarletteHTTPException)
    async def plain(request: Request, error: StarletteHTTPException) -> JSONResponse:
        return JSONResponse(error_body(error.status_code, str(error.detail)), error.status_code, dict(error.headers or {}))


def _add_status(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        """Is this process alive?"""
        return {"status": "ok"}

    @app.get("/ready", responses={401: _ERRORS[401], 503: _ERRORS[503]})
    async def ready() -> dict[str, str]:
        """Would a question be answered?"""
        with service.place_for(0):
            return {"status": "ready"}

    @app.get("/metrics", response_class=PlainTextResponse, responses={401: _ERRORS[401]})
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.page(), media_type=service.metrics.content_type)

    @app.get("/v1/models", responses={401: _ERRORS[401]})
    async def models() -> dict[str, Any]:
        """The one model."""
        return {"object": "list", "data": [_model(service)] if service.model else []}

    @app.get("/v1/models/{name}", responses={401: _ERRORS[401], 404: _ERRORS[404]})
    async def model(name: str) -> dict[str, Any]:
        """The same, by its name."""
        if name != service.model:
            raise Refused(404, "this server has no such model; GET /v1/models names it", "model")
        return _model(service)

    @app.post("/v1/feedback", responses=_ERRORS)
    async def feedback(body: FeedbackRequest) -> dict[str, str]:
        """What a reader made of an answer."""
        service.feedback(body)
        return {"status": "recorded"}


def _model(service: Service) -> dict[str, Any]:
    return {"id": service.model, "object": "model", "owned_by": "medvlm-r1", "created": 0, "intended_use": INTENDED_USE}


def _add_asking(app: FastAPI, service: Service) -> None:
    streams: dict[int | str, dict[str, Any]] = {**_ERRORS, 200: {"content": {"text/event-stream": {}}, "description": "the answer, whole or as a stream"}}
    takes = {"requestBody": {"required": True, "content": {"application/json": {"schema": {"$ref": _REF.format(model=ChatRequest.__name__)}}}}}

    @app.post("/v1/chat/completions", responses=streams, openapi_extra=takes)
    async def chat(request: Request) -> Response:
        """Ask about pictures."""
        began, body = time.perf_counter(), await _read(request)
        if not body.stream:
            return JSONResponse(await _unless_gone(request, _whole(service, body)))
        chunks = _chunks(service, body, began)
        return _stream(await _unless_gone(request, anext(chunks)), chunks)  # what is wrong with a request still has its status


async def _read(request: Request) -> ChatRequest:
    """The body. Not by fastapi, which would keep its bytes and its values until the answer has ended: a picture is large, and many wait."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "the body is no JSON; send it with Content-Type: application/json")
    data = b"".join([part async for part in request.stream()])
    return read_chat(data)


def _describe(app: FastAPI) -> None:
    """The OpenAPI document, with what ``_read`` reads."""
    of_fastapi = app.openapi

    def described() -> dict[str, Any]:
        document = of_fastapi()
        document["components"]["schemas"] |= chat_schemas(_REF)
        return document

    app.openapi = described  # type: ignore[method-assign]


async def _unless_gone(request: Request, work: Awaitable[Any]) -> Any:
    """The result of ``work``, which is cancelled as soon as the client has left."""
    task, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refused(499, "the client has left")
        return task.result()
    finally:
        for each in (task, leaving):
            each.cancel()
        await asyncio.wait({task, leaving})


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        await asyncio.sleep(0)


async def _whole(service: Service, body: ChatRequest) -> dict[str, Any]:
    with service.place_for(body.n or 1):
        id, ended = new_id(), dict[int, Event]()
        async with aclosing(service.events(*await service.prepare(body), id, readings(body))) as events:
            async for event in events:
                if event.message is not None:
                    ended[event.k] = event
    choices = [{"index": k, "message": ended[k].message, "finish_reason": ended[k].finish, "logprobs": None} for k in sorted(ended)]
    return {**_head(service, id, "chat.completion"), "choices": choices, "usage": _usage(ended.values())}


async def _chunks(service: Service, body: ChatRequest, began: float) -> AsyncGenerator[bytes, None]:
    """Server-sent events. A fault after the first is one too: no part of an answer passes for a whole one."""
    with service.place_for(body.n or 1):
        events_of = service.events(*await service.prepare(body), id := new_id(), readings(body))  # it alone has the pictures, until they are sent
        ended, is_first, head = dict[int, Event](), True, _head(service, id, "chat.completion.chunk")
        try:
            async with aclosing(events_of) as events:
                async for event in events:
                    if is_first:
                        service.metrics.first(time.perf_counter() - began)
                    for delta in _deltas(event):
                        yield _sse({**head, "choices": [{"index": event.k, "delta": delta, "finish_reason": None, "logprobs": None}]})
                    is_first = False
                    if event.message is not None:
                        ended[event.k] = event
                        yield _sse({**head, "choices": [{"index": event.k, "delta": {}, "finish_reason": event.finish, "logprobs": None}]})
        except Refused as refused:
            if is_first:
                raise
            yield _sse(refused.body)
        else:
            if body.stream_options and body.stream_options.include_usage:
                yield _sse({**head, "choices": [], "usage": _usage(ended.values())})
        yield b"data: [DONE]\n\n"


def _deltas(event: Event) -> list[dict[str, Any]]:
    thought = [{"role": "assistant", "reasoning": event.reasoning, "reasoning_content": event.reasoning}] if event.reasoning else []
    if event.message is None:
        return thought
    return [*thought, {"role": "assistant", "content": event.message["content"], "medical": event.message["medical"]}]


def _head(service: Service, id: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{id}", "object": kind, "created": now(), "model": service.model}


def _usage(ended: Iterable[Event]) -> dict[str, int]:
    events = list(ended)
    prompt, written = max((e.n_prompt_tokens for e in events), default=0), sum(e.n_tokens for e in events)
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def _sse(data: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"
