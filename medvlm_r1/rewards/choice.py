"""Is the chosen letter the gold one? The paper's rule, and ours under its own name."""

import re

from medvlm_r1.reasoning import read
from medvlm_r1.types import Completion, Prompt

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_LETTER = re.compile(r"[A-J]")


def paper_choice(completion: Completion, prompt: Prompt) -> float:
    """The paper's accuracy reward (authors' code, 2025-09-17).

    The first answer's body, upper-cased, must hold exactly one character of
    A to J, and that the gold letter: 1.0 if nothing else remains, else 0.5.
    Where no tags were asked for and none came, the whole completion is the body.

    | body              | gold B |
    |-------------------|--------|
    | ``B``, ``b``      | 1.0    |
    | ``B)``            | 0.5    |
    | ``B) Breast``     | 0.0 (a second letter of A to J: the text's own) |
    | ``Option B``      | 0.0 (I is a letter of A to J too) |

    >>> from medvlm_r1.types import Example
    >>> e = Example("q1", ("a.png",), "Which?", ("x", "y"), "y", "mri")
    >>> bodies = ("B", " b ", "B)", "B) Breast", "Option B", "A")
    >>> [paper_choice(Completion((7,), (0.0,), f"<answer>{body}</answer>", True), Prompt(e, "…")) for body in bodies]
    [1.0, 1.0, 0.5, 0.0, 0.0, 0.0]
    >>> [paper_choice(Completion((7,), (0.0,), "B", True), Prompt(e, "…", bare=is_bare)) for is_bare in (True, False)]
    [1.0, 0.0]
    """
    found, letter = _ANSWER.search(completion.text), prompt.example.letter
    body = (found[1] if found else completion.text if prompt.bare else "").strip().upper()  # half a tag holds A and E, and earns nothing
    if _LETTER.findall(body) != [letter]:
        return 0.0
    return 1.0 if body == letter else 0.5


def paper_verdict(text: str) -> str | None:
    """The letter that the authors' evaluation reads, or None: the first answer's body must be one bare capital of A to J.

    Not the rule of their training: ``B)`` earned 0.5 there and is no answer here, ``b`` earned 1.0. White
    space around the letter does not count.

    >>> [paper_verdict(f"<answer>{body}</answer>") for body in ("B", " B ", "B)", "b", "B) Breast")]
    ['B', 'B', None, None, None]
    """
    found = _ANSWER.search(text)
    body = found[1].strip() if found else ""
    return body if _LETTER.fullmatch(body) else None


def choice(completion: Completion, prompt: Prompt) -> float:
    """1.0 iff ``reasoning.read`` finds the gold letter: the rule of evaluation and serving."""
    return float(read(completion.text, prompt).answer == prompt.example.letter)
