"""What was asked, of which images, what was answered and how sure it is: all that a report is made of."""

import re
import uuid
from dataclasses import dataclass, field
from datetime import datetime

from medvlm_r1.data.study import Instance, Patient, is_uid
from medvlm_r1.errors import DataError
from medvlm_r1.reasoning import EXTRACTION

ASSESSMENTS = ("accepted", "rejected", "supplemented")


@dataclass(frozen=True)
class Shown:
    """An image that the model saw. ``frame`` counts from 0, as references do; None for a single frame. ``sha256``: of the decoded picture.

    >>> Shown(Instance("1.2.1", "1.2.2", "1.2.840.10008.5.1.4.1.1.2", "1.2.3"), sha256="9f…").frame is None
    True
    """

    instance: Instance
    frame: int | None = None
    sha256: str = ""


@dataclass(frozen=True)
class Calibration:
    """On what a confidence was measured: of ``n`` answers to the set ``name`` that were as sure, that share was right; its 95 % interval.

    >>> Calibration("held-out MRI", 40, (0.68, 0.91), 300).n
    40
    """

    name: str
    n: int
    ci95: tuple[float, float]
    n_of_set: int


@dataclass(frozen=True)
class Confidence:
    """How likely the answer is right, 0 to 1; without a ``calibration`` it is only what the model says of itself.

    >>> Confidence(0.82, Calibration("held-out MRI", 40, (0.68, 0.91), 300)).value
    0.82
    """

    value: float
    calibration: Calibration | None = None


@dataclass(frozen=True)
class ModelIdentity:
    """Who answered: the name that readers know, our version, a hash of the files that decide its answers, and how it was asked.

    >>> ModelIdentity("nano", "0.1.0", "ab" * 32, ("template=think", "temperature=0")).name
    'nano'
    """

    name: str
    version: str
    fingerprint: str  # of its files; "" where they are not here
    parameters: tuple[str, ...] = (f"extraction={EXTRACTION}",)


def asked_by(template: str, dtype: str) -> tuple[str, ...]:
    """What every report says of how a model was asked; ``dtype``: "" where nobody knows.

    >>> asked_by("think", "float32")[0], len(asked_by("think", ""))
    ('template=think', 3)
    """
    return (f"template={template}", "temperature=0", f"extraction={EXTRACTION}", *([f"dtype={dtype}"] if dtype else []))


@dataclass(frozen=True)
class Feedback:
    """What a reader made of the answer: accepted, rejected or supplemented, with the reader's own ``answer``. ``reader`` is a pseudonym.

    >>> Feedback.of("agree"), Feedback.of("disagree", "left").assessment, Feedback.of("agree", "left, and small").assessment, Feedback.of("skip")
    (Feedback(assessment='accepted', answer='', reader=''), 'rejected', 'supplemented', None)
    """

    assessment: str
    answer: str = ""
    reader: str = ""

    def __post_init__(self) -> None:
        if self.assessment not in ASSESSMENTS:
            raise DataError(f'feedback "{self.assessment}" is none of {", ".join(ASSESSMENTS)}')

    @staticmethod
    def of(action: str, answer: str = "", reader: str = "") -> "Feedback | None":
        """From what a reader does on the page: agree, disagree or skip. Raises DataError for anything else."""
        actions = {"agree": "supplemented" if answer else "accepted", "disagree": "rejected", "skip": ""}
        if action not in actions:
            raise DataError(f'feedback "{action}" is none of {", ".join(actions)}')
        return Feedback(actions[action], answer, reader) if actions[action] else None


@dataclass(frozen=True)
class Record:
    """One question and what came of it. Equal records give equal reports, byte by byte: a repeated sending is seen as one.

    ``status``: answered | abstained | unparsed | truncated | contradicted. ``answer`` is the letter, "" without options.
    ``asked_at`` knows its time zone. ``reasoning`` goes into no report unless it is asked for.

    >>> from datetime import UTC
    >>> image = Shown(Instance("1.2.1", "1.2.2", "1.2.840.10008.5.1.4.1.1.2", "1.2.3"))
    >>> record = Record("Which side?", ("left", "right"), (image,), "answered", "B", "right", ModelIdentity("nano", "0.1.0", "ab" * 32),
    ...                 datetime(2026, 11, 25, 9, tzinfo=UTC), Confidence(0.82))
    >>> record.stands, is_uid(record.uid("report")), record.uid("report") == record.uid("series")
    (True, True, False)
    """

    question: str
    options: tuple[str, ...]
    images: tuple[Shown, ...]
    status: str
    answer: str
    answer_text: str
    model: ModelIdentity
    asked_at: datetime
    confidence: Confidence | None = None
    warnings: tuple[str, ...] = ()
    feedback: Feedback | None = None
    reasoning: str = ""
    patient: Patient = field(default_factory=Patient)

    def __post_init__(self) -> None:
        if not self.images:
            raise DataError("a report names the images that were asked about; there is none")
        for image in self.images:
            known = image.instance
            if bad := [uid for uid in (known.study_uid, known.series_uid, known.sop_class_uid, known.sop_instance_uid) if not is_uid(uid)]:
                raise DataError(f"a report names its images by UID, and {bad[0]!r:.70} is none")
        if self.asked_at.tzinfo is None:
            raise DataError("asked_at has no time zone; a report is read elsewhere")
        if self.confidence and not 0 <= self.confidence.value <= 1:
            raise DataError(f"a confidence lies between 0 and 1, got {self.confidence.value}")

    @property
    def stands(self) -> bool:
        """Is there an answer that may be shown as one: the model gave it, and no reader has rejected it."""
        return self.status == "answered" and bool(self.answer_text) and (self.feedback is None or self.feedback.assessment != "rejected")

    def name(self, part: str) -> uuid.UUID:
        """A name for a part of the report, by the record's content; of a patient it knows only whether there is one."""
        return name(f"{part} {self!r} {self.patient != Patient()}")

    def uid(self, part: str) -> str:
        """The same as a UID (PS3.5 B.2)."""
        return f"2.25.{self.name(part).int}"


def name(text: str) -> uuid.UUID:
    """A name that says nothing and is the same for the same text (RFC 9562, version 5).

    >>> name("a") == name("a") != name("b")
    True
    """
    return uuid.uuid5(uuid.NAMESPACE_OID, f"medvlm-r1 {text}")


def plain(text: str) -> str:
    r"""Without the signs that neither standard allows, or that a screen would obey; line breaks stay, and no run of white space.

    >>> plain("a\x1b[31m  red\n\n\nfox\0 \ud83d")
    'a[31m red\nfox'
    """
    lines = ("".join(sign if sign.isprintable() else " " if sign.isspace() else "" for sign in line) for line in re.split(r"[\r\n]+", text))
    return "\n".join(" ".join(line.split()) for line in lines).strip()
