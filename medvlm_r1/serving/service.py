"""What the server does, without a word of HTTP: a request becomes an ask, what is said becomes events, and every answer is accounted for."""

import asyncio
import base64
import binascii
import re
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from medvlm_r1.errors import ConfigError, RunError, nearest
from medvlm_r1.reasoning import TEMPLATES, render
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.told import Reading, question, tell
from medvlm_r1.serving.audit_log import AuditLog
from medvlm_r1.serving.calibrated import Calibration
from medvlm_r1.serving.guard import Limits
from medvlm_r1.serving.medical import judge, medical
from medvlm_r1.serving.metrics import Metrics
from medvlm_r1.serving.refusals import Refused
from medvlm_r1.serving.schema import MOST_PICTURES, ChatRequest, FeedbackRequest, ImageUrl
from medvlm_r1.serving.splitting import Splitter
from medvlm_r1.serving.wire import Ask, Backend, Picture, Said
from medvlm_r1.types import Prompt

DEFAULT_TOKENS = 512


class Opener(Protocol):
    """Whoever opens files."""

    async def open(self, data: bytes, place: str = "") -> Picture:
        """What the model is to see. Raises Refused."""
        ...


@dataclass(frozen=True)
class Event:
    """Of completion ``k``: more of its ``reasoning``, or at its end the whole ``message`` and why it ended.

    >>> Event(0, reasoning="Fluid is dark.").message is None
    True
    """

    k: int
    reasoning: str = ""
    message: Mapping[str, Any] | None = None
    finish: str = ""
    n_tokens: int = 0
    n_prompt_tokens: int = 0


@dataclass
class Service:
    """``prepare`` a request, then ``events`` of it."""

    backend: Backend
    files: Opener
    metrics: Metrics = field(default_factory=Metrics)
    limits: Limits = field(default_factory=Limits)
    calibration: Calibration | None = None
    audit: AuditLog | None = None
    stopping: bool = False
    _rows: int = 0

    @property
    def model(self) -> str:
        """What the model is called."""
        return str(self.backend.about.get("model", ""))

    @contextmanager
    def place_for(self, rows: int) -> Iterator[None]:
        """A bounded queue: who finds it full is told to come again. Raises Refused."""
        if self.stopping or not self.backend.ready:
            raise Refused(503, "the model is not ready; try again later", retry_after_s=5)
        if self._rows + rows > self.limits.rows:
            raise Refused(429, "too many questions are waiting; try again later", retry_after_s=1 + self._rows // 100)
        self._rows += rows
        try:
            yield
        finally:
            self._rows -= rows

    async def prepare(self, request: ChatRequest) -> tuple[Ask, Prompt]:
        """The ask, its pictures opened, and its prompt as it will be read. Raises Refused for what cannot be asked."""
        if request.model != self.model:
            raise Refused(404, "this server has no such model; GET /v1/models names it", "model")
        turns = [message for message in request.messages if message.role == "user"]
        if len(turns) != 1 or request.messages[-1].role != "user":
            raise Refused(422, "one question is asked at a time: send one user message, the last", "messages")
        parts = [part for message in request.messages for part in ([message.content] if isinstance(message.content, str) else message.content)]
        text = "\n".join(part if isinstance(part, str) else part.text for part in parts if not isinstance(part, ImageUrl))
        shown = [part.image_url for part in parts if isinstance(part, ImageUrl)]
        if len(shown) > MOST_PICTURES:
            raise Refused(422, f"at most {MOST_PICTURES} pictures go with a question", "messages")
        template, options = request.medical.template, tuple(request.medical.options)
        if template is not None and template not in TEMPLATES:
            raise Refused(422, f"unknown template{nearest(template, TEMPLATES)}", "medical.template")
        template = template or (str(self.backend.about["template"]) if options else "plain")
        try:
            prompt = render(question("", text, options), template)
        except ConfigError as error:
            raise Refused(
                422, re.sub(r"--options", "medical.options", str(error)).replace("; put it in quotes after the image", ""), "medical.options"
            ) from error
        sampling = Sampling(
            request.n or 1,
            request.temperature or 0.0,
            request.max_completion_tokens or request.max_tokens or DEFAULT_TOKENS,
            request.seed or 0,
            request.min_tokens or 0,
        )
        pictures = []
        for each in shown:
            pictures.append(await self.files.open(decoded(each.url), request.medical.place.reference()))
            each.url = ""  # hundreds may wait for an answer: none holds its file meanwhile
        return Ask(text, options, tuple(pictures), template, sampling, bool(request.stream), request.medical.probs, request.medical.token_ids), prompt

    async def events(self, ask: Ask, prompt: Prompt, id: str, earlier: tuple[Reading, ...] = ()) -> AsyncGenerator[Event, None]:
        """What comes of an ask. Raises Refused where nothing more will come; closing it cancels what is queued and under way."""
        splitters, until = [Splitter() for _ in range(ask.sampling.n)], time.monotonic() + self.limits.answer_s
        async with aclosing(self.backend.ask(ask)) as saying:
            ask = ask.sent()
            while (said := await _next(saying, until, self.limits.answer_s)) is not None:
                if said.why:
                    raise Refused(said.status, said.why)
                if said.end:
                    yield self._ended(said, splitters[said.k], ask, prompt, (id, earlier))
                elif new := splitters[said.k].feed(said.text):
                    yield Event(said.k, new)

    def _ended(self, said: Said, splitter: Splitter, ask: Ask, prompt: Prompt, about: tuple[str, tuple[Reading, ...]]) -> Event:
        id, earlier = about
        judged = judge(tell(said.text, prompt, said.end == "stop", earlier), said, self.calibration)
        told, audit_id = judged.told, f"{id}-{said.k}"
        content = (told.answer or "") if ask.options else told.answer_text
        fields = medical(judged, said, ask, audit_id)
        self.metrics.answer(told.status, said.n_tokens)
        self.record("answer", {
            "audit_id": audit_id, "model": self.backend.about.get("identity", self.model), "template": ask.template, "status": told.status,
            "answer": told.answer if ask.options else None, "written": told.written if ask.options else None, "confidence": judged.confidence,
            "n_options": len(ask.options), "warnings": [warned.code for warned in told.warnings], "image_sha256": fields["image_sha256"],
        })  # fmt: skip
        message = {"role": "assistant", "content": content, "reasoning": told.reasoning, "reasoning_content": told.reasoning, "medical": fields}
        return Event(said.k, splitter.rest(told.reasoning), message, said.end, said.n_tokens, said.n_prompt_tokens)

    def feedback(self, request: FeedbackRequest) -> None:
        """What a reader made of an answer goes to the audit log."""
        if self.audit is None:
            raise Refused(404, "this server keeps no audit log; start it with --audit-log FILE")
        self.record("feedback", request.model_dump())

    def record(self, event: str, values: Mapping[str, Any]) -> None:
        """Where there is an audit log, nothing is shown that is not in it. Raises Refused where it cannot be written."""
        if self.audit is None:
            return
        try:
            self.audit.write(event, values)
        except RunError as error:
            raise Refused(503, "the audit log cannot be written, and without it nothing is answered") from error


async def _next(saying: AsyncIterator[Said], until: float, whole_s: float) -> Said | None:
    """What is said next; None at the end. Each wait has a deadline of its own: a generator may be resumed by another task than began it."""
    try:
        async with asyncio.timeout(until - time.monotonic()):
            return await anext(saying, None)
    except TimeoutError as error:
        raise Refused(504, f"no whole answer within {whole_s:g} s; lower max_tokens, or try again later") from error


def readings(request: ChatRequest) -> tuple[Reading, ...]:
    """The earlier answers that a client remembers."""
    return tuple(Reading(earlier.question, tuple(earlier.options), earlier.answer_text) for earlier in request.medical.earlier)


def new_id() -> str:
    """24 hex digits that nobody can guess."""
    return secrets.token_hex(12)


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())


def decoded(url: str) -> bytes:
    """The bytes of a ``data:`` URL. Raises Refused for any other: nothing is ever fetched, from wherever.

    >>> decoded("data:image/png;base64,iVBO")
    b'\\x89PN'
    >>> decoded("http://127.0.0.1/a.png")
    Traceback (most recent call last):
    medvlm_r1.serving.refusals.Refused: no picture is fetched; send it as data:image/png;base64,…
    """
    head, comma, content = url.partition(",")
    if not re.fullmatch(r"(?i)data:([\w.+-]+(/[\w.+-]*)?)?(;[\w.+=-]+)*", head) or not comma:  # no two ways to read a sign, or a long one takes minutes
        raise Refused(400, "no picture is fetched; send it as data:image/png;base64,…", "messages")
    try:
        data = base64.b64decode(content, validate=True) if head.lower().endswith(";base64") else unquote_to_bytes(content)
    except (binascii.Error, ValueError) as error:
        raise Refused(400, "the picture is no base64; send it as data:image/png;base64,…", "messages") from error
    if not data:
        raise Refused(400, "the picture is empty; send it as data:image/png;base64,…", "messages")
    return data
