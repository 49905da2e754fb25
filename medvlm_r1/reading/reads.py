"""A read: a reader has a case before her, the model is asked about it, and what each said, in which order, is accounted for.

Where the reader comes first, nothing of the model's answer leaves this module before hers stands in the audit log, and a case is
read once: a second tab, a page loaded anew and a server started anew find the read that there is.
"""

import asyncio
import base64
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from medvlm_r1.files import digest
from medvlm_r1.reading.schema import FinalRequest, OpenRequest
from medvlm_r1.reading.worklist import Case, order
from medvlm_r1.rollout.told import Reading
from medvlm_r1.serving.people import ALONE
from medvlm_r1.serving.refusals import Refused
from medvlm_r1.serving.schema import ChatRequest, ImageUrl, Medical, Message, Place, Text, Url
from medvlm_r1.serving.service import Service, decoded, new_id, readings
from medvlm_r1.serving.wire import Ask, Picture
from medvlm_r1.types import LETTERS, Prompt

KEPT = 4  # reads of a reader whose pictures and answers are still there, the one that is open among them
WORDS = "text"  # what the log has of an answer without options
WORDS_LOST = "(its words are not in the log of the server that was ended)"
FIRST = "first you answer, then the model's answer is shown"
Asked = tuple[Ask, Prompt, tuple[Reading, ...]]  # and the earlier answers, as the page remembers them


@dataclass(eq=False)
class Read:
    """One reader, one case. ``own`` and ``final``: a letter, words without options, "" for none; None while it is not given."""

    id: str
    reader: str
    case: Case
    number: int
    place: Place
    since: float
    own: str | None = None
    final: str | None = None
    action: str = ""
    asked: Asked | None = None
    thought: list[str] = field(default_factory=list)
    message: Mapping[str, Any] | None = None
    refused: Refused | None = None
    shown_at: float = 0.0
    task: "asyncio.Task[None] | None" = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self) -> None:
        """Wake whoever follows."""
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    @property
    def picture(self) -> Picture | None:
        """What the model is shown."""
        return next(iter(self.asked[0].pictures), None) if self.asked else None

    @property
    def model(self) -> Mapping[str, Any]:
        """What the model was found to say; nothing while it has not ended."""
        return self.message["medical"] if self.message else {}

    def letter(self, answer: str | None) -> str | None:
        """An answer as the log has it: words are not for it."""
        return answer if self.case.options or not answer else WORDS


@dataclass
class Reads:
    """Of everybody. ``readers``: their names, in the order that gives each an order of cases."""

    service: Service
    cases: tuple[Case, ...] = ()
    readers: tuple[str, ...] = (ALONE,)
    is_first: bool = False
    seed: int = 0
    clock: Callable[[], float] = time.time
    _reads: dict[tuple[str, str], Read] = field(default_factory=dict)  # by reader and case
    _earlier: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)  # from the log of a server that has ended
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)

    @property
    def is_free(self) -> bool:
        """May a reader ask about pictures of her own? Not in a study: she could ask about one of its cases."""
        return not (self.is_first and self.cases)

    def recall(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Go on where the log of a server that has ended stops."""
        by_id: dict[str, dict[str, Any]] = {}
        for row in rows:
            if row["event"] == "read-opened":
                by_id[row["read"]] = self._earlier[row["reader"], row["case"]] = {"read": row["read"], "own": None, "final": None}
            elif row["event"] in ("read-own", "read-final") and row["read"] in by_id:
                name = row["event"].removeprefix("read-")
                by_id[row["read"]][name] = WORDS_LOST if row[name] == WORDS else row[name]

    def order(self, reader: str) -> list[Case]:
        """The cases as this reader reads them."""
        number, by_id = self.readers.index(reader) if reader in self.readers else 0, {case.id: case for case in self.cases}
        return [by_id[id] for id in order(tuple(by_id), number, self.seed)]

    def stage(self, reader: str, case: Case) -> str:
        """One of "new", "open", "shown" and "done"."""
        read, earlier = self._reads.get((reader, case.id)), self._earlier.get((reader, case.id))
        if read:
            return stage(read, self.is_first)
        if earlier is None:
            return "new"
        return "open" if earlier["final"] is None else "done"

    def under_way(self, reader: str) -> Read | None:
        """The read that this reader has begun and not ended."""
        return next((read for (name, _), read in reversed(self._reads.items()) if name == reader and read.final is None), None)

    async def open(self, reader: str, request: OpenRequest) -> Read:
        """Begin to read, or go on. Raises Refused."""
        async with self._locks.setdefault(reader, asyncio.Lock()):
            case, picture = self._case(reader, request)
            read = self._reads.get((reader, case.id))
            if self.stage(reader, case) == "done" and self.is_first:
                raise Refused(409, "this has been read; go on to something else", "case")
            place = request.medical.place if request.medical.place != Place() else case.place
            if read and read.final is None and (self.is_first or read.place == place):
                return read
            waiting = self.under_way(reader)
            if self.is_first and waiting and waiting.own is None and waiting is not read:
                raise Refused(409, "a read is open; end it before you begin another", "case")
            asked = await self._prepare(case, picture, request, place)
            return self._begin(reader, case, place, asked)

    def own(self, read: Read, answer: str) -> None:
        """The reader's own answer, given once. Raises Refused."""
        if read.own is not None:
            raise Refused(409, "your answer stands; it is given once", "answer")
        check(read, answer)
        seconds = round(self.clock() - read.since, 1)
        self.service.record("read-own", {"read": read.id, "own": read.letter(answer), "seconds": seconds})
        read.own = answer
        read.tell()

    async def follow(self, read: Read) -> AsyncGenerator[Mapping[str, Any], None]:
        """The thought as it is written, then the whole answer; nothing before the reader's own where that comes first. Raises Refused."""
        if self.is_first and read.own is None:
            raise Refused(403, FIRST)
        if read.refused:  # whoever asks again is answered again
            self._start(read)
        told = 0
        while True:
            changed = read.changed
            if told < len(read.thought):
                yield {"reasoning": "".join(read.thought[told:])}
                told = len(read.thought)
            elif read.refused:
                raise read.refused
            elif read.message:
                self._show(read)
                yield {"message": read.message}
                return
            else:
                await changed.wait()

    def end(self, read: Read, request: FinalRequest) -> None:
        """What the reader made of it, given once. Raises Refused."""
        if not read.shown_at:
            raise Refused(403, FIRST if self.is_first else "the model has not answered yet")
        if read.final is not None:
            raise Refused(409, "this read has ended", "action")
        own, stands = read.own or "", str(read.model["answer"] or read.model["answer_text"] or "")
        final = {"agree": stands, "skip": own, "disagree": own if request.answer is None else request.answer}[request.action]
        if request.action == "agree" and not stands:
            raise Refused(422, "there is no answer to agree with", "action")
        if request.action == "disagree" and final:
            check(read, final)
            if final == stands:
                raise Refused(422, "that is the model's answer; agree with it, or choose another", "answer")
        seconds = round(self.clock() - read.shown_at, 1)
        self.service.record("read-final", {
            "read": read.id, "action": request.action, "final": read.letter(final), "seconds": seconds, "reference": read.case.reference or None,
        })  # fmt: skip
        read.final, read.action = final, request.action

    def found(self, reader: str, id: str) -> Read:
        """A read of this reader's. Raises Refused for any other."""
        read = next((read for (name, _), read in self._reads.items() if name == reader and read.id == id), None)
        if read is None:
            raise Refused(404, "there is no such read, or it is no longer kept; open the case again")
        return read

    def _case(self, reader: str, request: OpenRequest) -> tuple[Case, str]:
        if request.case is not None:
            case = next((case for case in self.cases if case.id == request.case), None)
            if case is None or case.path is None:
                raise Refused(404, "the work list has no such case", "case")
            return case, f"data:;base64,{base64.b64encode(case.path.read_bytes()).decode()}"
        if not self.is_free:
            raise Refused(403, "in a study only its cases are read", "picture")
        decoded(request.picture)
        name = digest(repr(request))[:16]
        return Case(f"own-{name}", request.question, tuple(request.medical.options)), request.picture

    async def _prepare(self, case: Case, picture: str, request: OpenRequest, place: Place) -> Asked:
        content: list[Text | ImageUrl] = [ImageUrl(type="image_url", image_url=Url(url=picture)), Text(type="text", text=case.question)]
        medical = Medical(options=list(case.options), place=place) if case.path else request.medical
        chat = ChatRequest(model=self.service.model, messages=[Message(role="user", content=content)], stream=True, medical=medical)
        with self.service.place_for(1):
            return *await self.service.prepare(chat), readings(chat)

    def _begin(self, reader: str, case: Case, place: Place, asked: Asked) -> Read:
        earlier, cases = self._earlier.get((reader, case.id)), self.order(reader)
        number = cases.index(case) + 1 if case in cases else 0
        read = Read(new_id(), reader, case, number, place, self.clock(), asked=asked)
        if earlier and earlier["final"] is None:
            read.id, read.own = earlier["read"], earlier["own"]
        else:
            opened = {"reader": reader, "case": case.id, "order": number, "n_options": len(case.options), "read_first": self.is_first}
            self.service.record("read-opened", {"read": read.id, **opened})
        self._reads.pop((reader, case.id), None)
        self._reads[reader, case.id] = read
        self._forget(reader)
        self._start(read)
        return read

    def _forget(self, reader: str) -> None:
        """The pictures and answers of reads that ended long ago."""
        mine = [key for key in self._reads if key[0] == reader]
        for key in mine[:-KEPT]:
            read = self._reads.pop(key)
            self._earlier[key] = {"read": read.id, "own": read.own, "final": read.final}

    def _start(self, read: Read) -> None:
        if read.asked:
            read.thought, read.refused = [], None
            read.task = asyncio.create_task(self._run(read, read.asked))

    async def _run(self, read: Read, asked: Asked) -> None:
        ask, prompt, earlier = asked
        try:
            with self.service.place_for(1):
                async with aclosing(self.service.events(ask, prompt, new_id(), earlier)) as events:
                    async for event in events:
                        read.thought += [event.reasoning] if event.reasoning else []
                        read.message = event.message
                        read.tell()
            if read.message is None:
                raise Refused(502, "the model said nothing")
        except Refused as refused:
            read.refused = refused
            read.tell()

    def _show(self, read: Read) -> None:
        """In the log before it is on the screen."""
        if not read.shown_at:
            told = read.model
            model = told["answer"] if read.case.options else read.letter(told["answer_text"])
            self.service.record("read-shown", {"read": read.id, "audit_id": told["audit_id"], "status": told["status"], "model": model or ""})
            read.shown_at = self.clock()


def stage(read: Read, is_first: bool) -> str:
    """How far it has come."""
    if read.final is not None:
        return "done"
    return "open" if is_first and read.own is None else "shown"


def check(read: Read, answer: str) -> None:
    """Is it an answer to this question? Raises Refused."""
    letters = LETTERS[: len(read.case.options)]
    if letters and answer and (len(answer) != 1 or answer not in letters):
        raise Refused(422, f"the answer is one of {', '.join(letters)}, or empty for one that cannot say", "answer")
