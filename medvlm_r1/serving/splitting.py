"""Reasoning apart from the answer while both are still being written: rule ``strict-1`` over pieces of text.

What has been given out can never turn out to be wrong: a sign is given as thought once it is thought whatever follows. The
answer can be told at the end alone, since a later ``</think>`` makes a thought of everything before it; it is read there by
the one parser.
"""

from dataclasses import dataclass, field

OPEN, CLOSE = "<think>", "</think>"


@dataclass
class Splitter:
    """Give it the text as it comes; it gives back what is certain to be thought.

    Between the first ``<think>`` and the last ``</think>`` all is thought. So what stands behind a ``</think>`` waits for
    another, or for a ``<think>``; white space waits for what follows it; and half a tag waits for its other half. A text
    without ``<think>`` is thought up to its last ``</think>``, which shows at the end: of it, nothing is given out before.

    >>> splitter = Splitter()
    >>> [splitter.feed(piece) for piece in ("<thi", "nk> Fluid is", " dark. </th", "ink><answer>", "A</answer>")]
    ['', 'Fluid is', ' dark.', '', '']
    >>> splitter.rest("Fluid is dark.")
    ''
    """

    given: str = ""
    _text: str = field(default="", repr=False)
    _at: int = field(default=-1, repr=False)  # where the thought begins; -1: not yet
    _sure: int = field(default=0, repr=False)  # how far the text is thought for certain

    def feed(self, piece: str) -> str:
        """The next piece of text; returns what of the thought is new, often nothing."""
        self._text += piece
        if self._at < 0:
            opened = self._text.find(OPEN)
            if opened < 0:
                return ""
            self._at = self._sure = opened + len(OPEN)
        self._sure = max(self._sure, self._certain())
        thought = self._text[self._at : self._sure].strip()
        new, self.given = thought[len(self.given) :], thought
        return new

    def _certain(self) -> int:
        """How far the text is thought whatever follows."""
        closed = self._text.rfind(CLOSE)
        if closed < self._at or OPEN in self._text[closed:]:  # no end of the thought, or a thought behind it that has none
            whole = self._text.rstrip()
            return len(whole) - _half_a_tag(whole)
        return closed

    def rest(self, think: str) -> str:
        """What is left to give of the whole thought, as the parser reads it."""
        return think[len(self.given) :]


def _half_a_tag(text: str) -> int:
    """How many signs at the end could be the beginning of a ``</think>``.

    >>> _half_a_tag("dark </thi"), _half_a_tag("dark <"), _half_a_tag("dark")
    (5, 1, 0)
    """
    return next((size for size in range(len(CLOSE) - 1, 0, -1) if text.endswith(CLOSE[:size])), 0)
