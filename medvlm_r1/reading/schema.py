"""What the page may send, field by field."""

from typing import Literal

from medvlm_r1.serving.schema import Id, Medical, Strict, Words


class OpenRequest(Strict):
    """``POST /reading/reads``: a ``case`` of the work list, of whose ``medical`` the place alone counts; or a ``picture`` (a data: URL) and a question."""

    case: Id | None = None
    picture: str = ""
    question: Words = "?"
    medical: Medical = Medical()


class OwnRequest(Strict):
    """``POST /reading/reads/{id}/own``: the reader's own answer, a letter, or words where there are no options; "" for one that cannot say."""

    answer: Words | Literal[""]


class FinalRequest(Strict):
    """``POST /reading/reads/{id}/final``: what became of it. ``answer``: the final one of whoever disagrees, the own one where it is left out."""

    action: Literal["agree", "disagree", "skip"]
    answer: Words | Literal[""] | None = None
