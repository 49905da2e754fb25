"""What the page may call, beside the files that it is made of. Each route is told who asks and shows that person's reads alone."""

import asyncio
import json
from typing import Any, Literal

from medvlm_r1.reading.reads import FIRST, Read, Reads, stage
from medvlm_r1.reading.reports import fhir, sr
from medvlm_r1.reading.schema import FinalRequest, OpenRequest, OwnRequest
from medvlm_r1.serving.app import Caller, Response, Route, streamed
from medvlm_r1.serving.refusals import Refused


def routes(reads: Reads) -> list[Route]:
    """All of them."""
    return [
        Route("/reading/state", _state(reads)),
        Route("/reading/cases/{id}/picture", _case_picture(reads)),
        *_read_routes(reads),
    ]


def _state(reads: Reads) -> Any:
    async def state(who: Caller) -> dict[str, Any]:
        """What the page begins with: who reads, how, and how far she has come."""
        service, open = reads.service, reads.under_way(who.name)
        return {
            "reader": who.name,
            "read_first": reads.is_first,
            "is_free": reads.is_free,
            "model": service.model,
            "is_recorded": service.audit is not None,
            "cases": [
                {"case": case.id, "question": case.question, "options": case.options, "stage": reads.stage(who.name, case)} for case in reads.order(who.name)
            ],
            "open": view(open, reads.is_first) if open else None,
        }

    return state


def _case_picture(reads: Reads) -> Any:
    async def case_picture(id: str, who: Caller) -> Response:
        """The file of a case, as it lies there."""
        path = next((case.path for case in reads.cases if case.id == id), None)
        if path is None:
            raise Refused(404, "the work list has no such case", "case")
        return Response(await asyncio.to_thread(path.read_bytes), media_type="application/octet-stream")

    return case_picture


def _read_routes(reads: Reads) -> list[Route]:
    async def open_read(body: OpenRequest, who: Caller) -> dict[str, Any]:
        """Begin a read, or go on with it: the model is asked."""
        return view(await reads.open(who.name, body), reads.is_first)

    async def own_answer(id: str, body: OwnRequest, who: Caller) -> dict[str, Any]:
        """The reader's own answer, before the model's is shown."""
        read = reads.found(who.name, id)
        reads.own(read, body.answer)
        return view(read, reads.is_first)

    async def read_events(id: str, who: Caller) -> Response:
        """The model's answer, as it is written."""
        return await streamed(reads.follow(reads.found(who.name, id)))

    async def final_answer(id: str, body: FinalRequest, who: Caller) -> dict[str, Any]:
        """Agree, disagree or skip."""
        read = reads.found(who.name, id)
        reads.end(read, body)
        return view(read, reads.is_first)

    async def seen_picture(id: str, who: Caller) -> Response:
        """The very bytes that the model was given."""
        picture = reads.found(who.name, id).picture
        if picture is None:
            raise Refused(404, "the model was given no picture")
        return Response(picture.png, media_type="image/png")

    async def report(id: str, who: Caller, format: Literal["sr", "fhir"]) -> Response:
        """A read as a hospital's archive takes it; made now, and kept nowhere."""
        read = reads.found(who.name, id)
        if not read.shown_at:
            raise Refused(403, FIRST)
        if format == "sr":
            return Response(await asyncio.to_thread(sr, read, reads.service), media_type="application/dicom")
        found = await asyncio.to_thread(fhir, read, reads.service)
        return Response(json.dumps(found, ensure_ascii=False).encode(), media_type="application/fhir+json")

    return [
        Route("/reading/reads", open_read, ("POST",)),
        Route("/reading/reads/{id}/own", own_answer, ("POST",)),
        Route("/reading/reads/{id}/events", read_events),
        Route("/reading/reads/{id}/final", final_answer, ("POST",)),
        Route("/reading/reads/{id}/picture", seen_picture),
        Route("/reading/reads/{id}/report", report),
    ]


def view(read: Read, is_first: bool) -> dict[str, Any]:
    """A read as its reader may see it; of the model's answer nothing is in it."""
    return {
        "read": read.id,
        "case": read.case.id,
        "question": read.case.question,
        "options": read.case.options,
        "stage": stage(read, is_first),
        "own": read.own,
        "final": read.final,
        "action": read.action,
        "is_listed": read.case.path is not None,
    }
