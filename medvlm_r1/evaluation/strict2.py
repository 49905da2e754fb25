"""The second rule of reading, strict-2: what a fair human reads as one letter although it has not the form that was asked for.

It stands beside strict-1 and never in its place: training pays, and the headline counts, by strict-1.
A letter that strict-1 reads is never changed. It guesses nothing either: whatever could be two letters is none.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from medvlm_r1.reasoning import Reasoned, parse, parts
from medvlm_r1.types import LETTERS

STRICT_2 = "strict-2"
_WIDE = {0xFF01 + i: 0x21 + i for i in range(94)} | {0x3002: ".", 0x3010: "[", 0x3011: "]", 0x3000: " "}
_TAG = re.compile(r"[<\uff1c]\s{0,3}(/?)\s{0,3}(think|answer)\s{0,3}[>\uff1e]", re.IGNORECASE)
_PAIRS = (
    ("```", "```"), ("**", "**"), ("__", "__"), ("$$", "$$"), ("\\boxed{", "}"), ("\\text{", "}"), ("\\(", "\\)"), ("\\[", "\\]"), ("*", "*"), ("_", "_"),
    ("`", "`"), ("$", "$"), ('"', '"'), ("'", "'"), ("\u201c", "\u201d"), ("\u2018", "\u2019"), ("\u00ab", "\u00bb"), ("(", ")"), ("[", "]"), ("{", "}"), ("<", ">"),
)  # fmt: skip
_BEFORE = re.compile(r"(?:the\s+)?(?:(?:final|correct)\s+)?(?:answer|option|choice|letter)(?:\s+is\b|\s*:)?\s*", re.IGNORECASE)
_LABELLED = re.compile(r"[(\[]?([A-Ja-j])(?:[)\].:]{1,2}\s*|\s*[-\u2013\u2014:]\s+|\s+)(?=\S)", re.DOTALL)
_SPARE = 80  # characters that marks and words around an option's text may take; a longer body is no more than one


def parse_2(text: str, options: Sequence[str]) -> Reasoned:
    """Read a completion by rule ``strict-2``.

    1. What strict-1 reads as a letter, as an abstention or as cut off stays so.
    2. Tags may have capitals, spaces inside and full-width brackets. Where no answer tag stands, all that stands behind
       ``</think>`` is the body; in a text without any tag, all of it.
    3. The body is a letter where marks, quotes, brackets, ``$`` or ``\\boxed{}`` around the whole of it and
       "Answer:", "Option", "The answer is" before it leave one letter of the options; full-width forms count as ASCII.
    4. "B) text" is B where the text is that of option B, and the text of exactly one option is its letter; capitals,
       white space and a full stop at the end do not matter.
    5. Where 3 and 4 read two letters, and for anything else, none is read: "B, because", several letters, look-alikes of
       other scripts, a last line of reasoning.

    >>> options = ("axial", "coronal", "sagittal")
    >>> [parse_2(f"<answer>{body}</answer>", options).answer for body in ("(B).", "B) coronal", "B) axial", "Coronal.", "Option b", "B, because", "A or B")]
    ['B', 'B', None, 'B', 'B', None, None]
    >>> [parse_2(text, options).answer for text in ("<think>Ears.</think> **B**", "<Answer >B</ANSWER>", "Ear to ear, so the answer is B.")]
    ['B', 'B', None]
    """
    first = parse(text, len(options))
    if first.status != "unparsed":
        return first
    think, body = _body(_TAG.sub(lambda tag: f"<{tag[1]}{tag[2].lower()}>", text))
    letter = None if body is None else _letter(body, options)
    return first if letter is None else replace(first, think=think, answer=letter, status="answered")


def is_untagged(text: str) -> bool:
    """Whether no answer tag of any spelling opens in a text.

    >>> is_untagged("<think>x</think>B"), is_untagged("< Answer>B</answer>")
    (True, False)
    """
    return not any(tag[2].lower() == "answer" and not tag[1] for tag in _TAG.finditer(text))


def _body(text: str) -> tuple[str, str | None]:
    think, body, status = parts(text)
    if body is not None or status == "truncated" or "<answer>" in text:
        return think, body
    rest = text.rpartition("</think>")[2]
    return think, None if _TAG.search(rest) else rest.strip()


def _letter(body: str, options: Sequence[str]) -> str | None:
    if len(body) > max(map(len, options), default=0) + _SPARE:
        return None
    known = LETTERS[: len(options)]
    texts = [_plain(option) for option in options[: len(known)]]
    bare = _peeled(body.translate(_WIDE))
    found = {bare.upper()} if len(bare) == 1 and bare.upper() in known and bare.isascii() else set()
    for form in {_plain(body), _plain(bare)}:
        found |= {letter for letter, text in zip(known, texts, strict=True) if text == form}
    if (label := _LABELLED.match(bare)) and label[1].upper() in known and _plain(bare[label.end() :]) == texts[known.index(label[1].upper())]:
        found.add(label[1].upper())
    return found.pop() if len(found) == 1 else None


def _peeled(body: str) -> str:
    """Without what stands around the whole of it, and without "Answer:" before it."""
    while True:
        inner = body.strip().rstrip(".,;:!").strip()
        before = _BEFORE.match(inner)
        if before and inner[before.end() :]:
            inner = inner[before.end() :]
        for left, right in _PAIRS:
            if len(inner) > len(left) + len(right) and inner.startswith(left) and inner.endswith(right) and _closes(inner, left, right):
                inner = inner[len(left) : -len(right)]
                break
        if len(inner) == 2 and inner[1] in ")]" and inner[0].isalpha():
            inner = inner[0]
        if inner == body:
            return body
        body = inner


def _closes(text: str, left: str, right: str) -> bool:
    """The pair stands around the whole, not around two parts of it."""
    inside = text[len(left) : -len(right)]
    return right not in inside or (left[-1] in "([{" and inside.count(left[-1]) == inside.count(right[-1]) and not inside.startswith(right))


def _plain(text: str) -> str:
    return " ".join(_peeled_text(text.translate(_WIDE)).casefold().split())


def _peeled_text(text: str) -> str:
    return text.strip().removesuffix(".").strip()
