"""What the front and whoever answers say to each other: plain values, one JSON object a line. Never pickle.

The front's side of it needs no torch. An ``Ask`` goes one way; ``Said`` comes back, piece by piece.
"""

import base64
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from medvlm_r1.data.study import Instance
from medvlm_r1.rollout.engine import Sampling

MOST_LINE_BYTES = 2**28


@dataclass(frozen=True)
class Picture:
    """What the model is shown, as PNG, and what is to be said of it. ``sha256``: of the bytes of ``png``; ``instance``: its UIDs, if it has any.

    >>> Picture(b"...", "ab12", 512, 512).notes
    ()
    """

    png: bytes = field(repr=False)
    sha256: str
    width: int
    height: int
    notes: tuple[str, ...] = ()
    instance: Instance | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Ask:
    """One question. ``template`` None is the model's own; ``stream``: tell the text as it is written; ``probs``: measure the options; ``token_ids``: show them.

    >>> Ask("Which side?", ("left", "right"), (), None, Sampling(1, 0.0)).probs
    True
    """

    question: str
    options: tuple[str, ...]
    pictures: tuple[Picture, ...]
    template: str | None
    sampling: Sampling
    stream: bool = False
    probs: bool = True
    token_ids: bool = False

    def sent(self) -> "Ask":
        """The same without its pictures' bytes: hundreds may wait for an answer, and whoever answers has them.

        >>> Ask("?", (), (Picture(b"...", "ab12", 4, 4),), None, Sampling(1, 0.0)).sent().pictures[0].png
        b''
        """
        return replace(self, pictures=tuple(replace(picture, png=b"") for picture in self.pictures))


@dataclass(frozen=True)
class Said:
    """What came of row ``k``: a ``text`` that goes on, or with ``end`` ("stop" or "length") the whole text of the row.

    ``why`` is the reason where nothing more will come of the whole request, ``status`` its HTTP status. ``probs``: of the
    options, in order; ``n_tokens`` and ``n_prompt_tokens``: how many. ``seen``: width and height that each picture came to.

    >>> Said(0, "<think>Ears").end
    ''
    """

    k: int
    text: str
    end: str = ""
    n_tokens: int = 0
    n_prompt_tokens: int = 0
    probs: tuple[float, ...] = ()
    ids: tuple[int, ...] = ()
    seen: tuple[tuple[int, int], ...] = ()
    why: str = ""
    status: int = 0


class Backend(Protocol):
    """Whoever answers: the engine behind its socket, or another server."""

    @property
    def ready(self) -> bool:
        """Would a question be answered now?"""
        ...

    @property
    def about(self) -> Mapping[str, Any]:
        """``model``, ``identity`` and ``template``, as far as they are known."""
        ...

    def ask(self, ask: Ask) -> AsyncGenerator[Said, None]:
        """All that is said, until every row has ended or one ``why``. Closing the iterator cancels what is queued and under way."""
        ...


def line(message: Mapping[str, Any]) -> bytes:
    r"""One message.

    >>> line({"do": "cancel", "id": 7})
    b'{"do": "cancel", "id": 7}\n'
    """
    return json.dumps(message).encode() + b"\n"


def ask_line(number: int, ask: Ask) -> bytes:
    """The message that asks."""
    pictures = [{"sha256": picture.sha256, "png": base64.b64encode(picture.png).decode()} for picture in ask.pictures]
    return line({"do": "ask", "id": number, **{**vars(ask), "pictures": pictures, "sampling": asdict(ask.sampling)}})


def said_of(message: Mapping[str, Any]) -> Said:
    """
    >>> said_of({"say": "row", "id": 7, "k": 0, "text": "B", "seen": [[84, 56]]}).seen
    ((84, 56),)
    """
    values = {name: value for name, value in message.items() if name not in ("say", "id")}
    values |= {name: tuple(values[name]) for name in ("probs", "ids") if name in values}
    if "seen" in values:
        values["seen"] = tuple(map(tuple, values["seen"]))
    return Said(**values)
