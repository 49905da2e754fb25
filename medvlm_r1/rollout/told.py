"""What a reader is told of a completion: an answer, or why there is none. A contradiction is never shown as an answer.

Pure functions over text, for whoever asks one question: ``ask``, the server, a page. The letter is read by the one
parser (``reasoning``); what is added here are the reasons not to believe it.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from medvlm_r1.errors import ConfigError
from medvlm_r1.reasoning import read
from medvlm_r1.rewards.naming import contradicted, key
from medvlm_r1.types import LETTERS, Example, Prompt
from medvlm_r1.wording import normal

CONTRADICTED = "contradicted"  # a status of its own, beside those of the parser


@dataclass(frozen=True)
class Warned:
    """A reason not to take an answer for one. ``code`` is "thought", "earlier-reading" or "presupposition".

    >>> Warned("thought", "The thought names A) left, the answer written was B) right.").code
    'thought'
    """

    code: str
    text: str


@dataclass(frozen=True)
class Reading:
    """An earlier answer about the same picture, as whoever asks again remembers it.

    >>> Reading("Is there a lesion?", ("yes", "no"), "no").answer_text
    'no'
    """

    question: str
    options: tuple[str, ...]
    answer_text: str


@dataclass(frozen=True)
class Told:
    """A completion as a reader gets it.

    ``answer`` and ``answer_text`` are empty unless ``status`` is "answered"; ``written`` is the letter, or without options the
    words, that stand in the answer's tag all the same. ``status``: answered | abstained | unparsed | truncated | contradicted.

    >>> asked = Prompt(Example("q1", (), "Which side?", ("left", "right"), "left", "mri"), "…")
    >>> told = tell("<think>A nodule on the left. Hence left.</think><answer>B</answer>", asked)
    >>> told.status, told.answer, told.written, told.warnings[0].text
    ('contradicted', None, 'B', 'The thought names A) left, the answer written was B) right.')
    """

    reasoning: str
    answer: str | None
    answer_text: str
    status: str
    written: str = ""
    warnings: tuple[Warned, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def question(image: str, text: str, options: tuple[str, ...]) -> Example:
    """What a user asks, as an example without a known answer.

    Raises ConfigError for an empty question, and for options that are no choice: fewer than
    two, more than there are letters, empty or repeated ones. No options at all ask for free text.
    """
    if not text.strip():
        raise ConfigError("the question is empty; put it in quotes after the image")
    if options and not 2 <= len(options) <= len(LETTERS):
        raise ConfigError(f"--options wants 2 to {len(LETTERS)} answers, got {len(options)}; leave it out to ask for free text")
    if len({option.strip() for option in options} - {""}) < len(options):
        raise ConfigError("--options holds an empty or a repeated answer; every letter needs its own")
    return Example("ask", (image,), text, options, options[0] if options else "", "")


def tell(text: str, prompt: Prompt, finished: bool = True, earlier: Sequence[Reading] = ()) -> Told:
    """Read a whole completion. ``finished`` is False where the token limit cut it off; ``earlier``: answers about the same picture."""
    options, found = prompt.example.options, read(text, prompt)
    status = found.status if finished or (found.answer and options) else "truncated"
    if options:
        letter, written = found.answer, found.answer or ""
        option = options[LETTERS.index(letter)] if letter else ""
    else:
        letter, behind = None, text.rpartition("</think>")[2]
        written = "" if "<think>" in behind else behind.rpartition("<answer>")[2].partition("</answer>")[0].strip()
        status = "answered" if status == "unparsed" and written else status  # without the tags that were asked for, and an answer all the same
        option = written if status == "answered" else ""
    warnings = _warnings(found.think, letter, option, prompt, earlier)
    if warnings and status == "answered":
        return Told(found.think, None, "", CONTRADICTED, written, warnings)
    return Told(found.think, letter, option, status, written, warnings)


def _warnings(thought: str, letter: str | None, option: str, prompt: Prompt, earlier: Sequence[Reading]) -> tuple[Warned, ...]:
    options, found = prompt.example.options, []
    if letter and (meant := contradicted(thought, letter, options)):
        texts = (f"{name}) {options[LETTERS.index(name)]}" for name in (meant, letter))
        found.append(Warned("thought", "The thought names {}, the answer written was {}.".format(*texts)))
    if option and (other := otherwise(prompt.example.question, options, option, earlier)):
        found.append(Warned("earlier-reading", f'The same was asked of this picture before, and answered "{other}".'))
    if said := unseen(prompt.example.question, earlier):
        found.append(Warned("presupposition", f'The question takes for granted what an earlier answer about this picture denied: "{said}".'))
    return tuple(found)


def otherwise(question: str, options: Sequence[str], answer_text: str, earlier: Sequence[Reading]) -> str:
    """The earlier answer that says something else to the same question; "" for none.

    The same question is one of the same words and the same options in any order; "yes" and "no" are options of too many
    questions to go by alone, and so are none.

    >>> before = [Reading("Which side is it on?", ("left", "right"), "left")]
    >>> otherwise("which side  is it on?", ("right", "left"), "Right.", before), otherwise("Which side?", ("left", "right"), "left", before)
    ('left', '')
    """
    offered = {normal(option) for option in options}
    for reading in earlier:
        is_same = key(reading.question) == key(question) and {normal(option) for option in reading.options} == offered
        if is_same and normal(reading.answer_text) != normal(answer_text):
            return reading.answer_text
    return ""


_PRESUPPOSED = re.compile(
    r"\b(?:the|this|these|that)\s+(?:\w+\s+)?(?:lesions?|abnormalit(?:y|ies)|finding|findings|nodules?|mass|masses|tumou?rs?|fractures?|effusions?|opacit(?:y|ies))\b",
    re.IGNORECASE,
)
_ASKS = re.compile(r"\b(?:is|are|does|do|any)\b", re.IGNORECASE)
_WHETHER = re.compile(r"\b(?:abnormal\w*|lesions?|findings?|normal|patholog\w+)\b", re.IGNORECASE)
_NOTHING = {"normal", "none", "no finding", "no findings", "no lesion", "no abnormality", "healthy", "unremarkable"}


def unseen(question: str, earlier: Sequence[Reading]) -> str:
    """The earlier answer that denies what a question takes for granted; "" for none. It knows words, no grammar.

    "The lesion", "this nodule" and their like take something abnormal for granted; "normal", "none" and their like deny it, and
    so does "no" to a question whether something is abnormal.

    >>> healthy = [Reading("Is there an abnormality?", ("yes", "no"), "no")]
    >>> unseen("Which side is the lesion on?", healthy), unseen("Which plane is this?", healthy), unseen("Which side is the lesion on?", ())
    ('no', '', '')
    """
    if not _PRESUPPOSED.search(question):
        return ""
    for reading in earlier:
        said = normal(reading.answer_text)
        first = _ASKS.search(reading.question)
        asks = bool(first and _WHETHER.search(reading.question, first.end())) and not re.search(r"\bnormal\b", reading.question, re.IGNORECASE)
        if said in _NOTHING or (said == "no" and asks):
            return reading.answer_text
    return ""
