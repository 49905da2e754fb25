"""A read as DICOM SR and FHIR, by the same record as ``ask`` makes (docs/clinical.md). Whose images they are is in neither."""

import io
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from PIL import Image

from medvlm_r1 import __version__
from medvlm_r1.clinical.bundle import bundle
from medvlm_r1.clinical.record import Feedback, ModelIdentity, Record, Shown, asked_by
from medvlm_r1.data.images import content_hash
from medvlm_r1.errors import DataError, ImageError, install
from medvlm_r1.reading.reads import Read
from medvlm_r1.serving.calibrated import reported
from medvlm_r1.serving.refusals import Refused
from medvlm_r1.serving.service import Service
from medvlm_r1.types import LETTERS


def sr(read: Read, service: Service) -> bytes:
    """DICOM SR. Raises Refused where there can be none."""
    try:
        from medvlm_r1.clinical.report import structured_report
    except ModuleNotFoundError as error:
        raise Refused(404, f"this server writes no DICOM SR; on its machine: {install('highdicom')}") from error
    try:
        return structured_report(record(read, service))
    except (DataError, ImageError) as error:
        raise Refused(422, str(error)) from error


def fhir(read: Read, service: Service) -> Mapping[str, Any]:
    """A FHIR R4 bundle. Raises Refused where there can be none."""
    return bundle(record(read, service))


def record(read: Read, service: Service) -> Record:
    """All that a report is made of. Raises Refused for a picture that no report can name."""
    picture, told = read.picture, read.model
    if read.asked is None or picture is None or picture.instance is None:
        raise Refused(422, "this picture has no UIDs by which a report could name it; read the DICOM file itself")
    instance = picture.instance
    frame = (read.place.frame or 0) if instance.number_of_frames > 1 else None
    identity = re.fullmatch(r"([0-9a-f]+) (\w+)", str(service.backend.about.get("identity", "")))
    sha256, dtype = identity.groups() if identity else ("", "")  # of an upstream it is an address, which is no report's
    window = (f"window={read.place.center:g},{read.place.width:g}",) if read.place.center is not None and read.place.width is not None else ()
    return Record(
        question=read.case.question,
        options=read.case.options,
        images=(Shown(instance, frame, content_hash(Image.open(io.BytesIO(picture.png)).convert("RGB"))),),
        status=told["status"],
        answer=told["answer"] or "",
        answer_text=told["answer_text"],
        model=ModelIdentity(
            service.model, __version__, sha256, (*asked_by(read.asked[0].template or str(service.backend.about.get("template", "")), dtype), *window)
        ),
        asked_at=datetime.fromtimestamp(int(read.shown_at), UTC),
        confidence=reported(told["confidence"], told["calibrated_on"]),
        warnings=tuple(warned["text"] for warned in told["warnings"]),
        feedback=_feedback(read),
        reasoning=str(read.message["reasoning"]) if read.message else "",
    )


def _feedback(read: Read) -> Feedback | None:
    if read.action != "disagree":
        return Feedback.of(read.action, "", read.reader) if read.action else None
    final, options = read.final or "", read.case.options
    return Feedback.of("disagree", options[LETTERS.index(final)] if options and final else final, read.reader)
