"""Rewards for questions without options: the same functions that evaluation counts by.

A question with options is answered by its letter, so ``exact`` and ``f1`` pay there what
``choice`` pays: one name serves a set that holds both.
"""

from medvlm_r1.reasoning import read
from medvlm_r1.rewards import text
from medvlm_r1.rewards.choice import choice
from medvlm_r1.types import Completion, Prompt


def exact(completion: Completion, prompt: Prompt) -> float:
    """1.0 iff the answer has the reference's words in their order (``text.is_exact``).

    >>> from medvlm_r1.reasoning import render; from medvlm_r1.types import Example
    >>> p = render(Example("q1", ("a.png",), "Where is it?", (), "left lung", "ct"), "think")
    >>> say = lambda body: Completion((7,), (0.0,), f"<answer>{body}</answer>", True)
    >>> exact(say("The left lung."), p), exact(say("lung"), p)
    (1.0, 0.0)
    """
    answer, example = _answer(completion, prompt), prompt.example
    return choice(completion, prompt) if example.options else float(text.is_exact(answer, example.answer))


def right(completion: Completion, prompt: Prompt) -> float:
    """1.0 iff evaluation counts the answer as right: of yes and no the first word decides (``text.is_right``), all else is ``exact``.

    >>> from medvlm_r1.reasoning import render; from medvlm_r1.types import Example
    >>> p = render(Example("q1", ("a.png",), "Is it large?", (), "no", "ct"), "think")
    >>> said = Completion((7,), (0.0,), "<answer>No, the heart is normal.</answer>", True)
    >>> right(said, p), exact(said, p)
    (1.0, 0.0)
    """
    answer, example = _answer(completion, prompt), prompt.example
    return choice(completion, prompt) if example.options else float(text.is_right(answer, example.answer))


def f1(completion: Completion, prompt: Prompt) -> float:
    """How far the words of answer and reference overlap (``text.Overlap``), from 0.0 to 1.0.

    >>> from medvlm_r1.reasoning import render; from medvlm_r1.types import Example
    >>> p = render(Example("q1", ("a.png",), "Where is it?", (), "left lung", "ct"), "think")
    >>> round(f1(Completion((7,), (0.0,), "<answer>lung</answer>", True), p), 3)
    0.667
    """
    answer, example = _answer(completion, prompt), prompt.example
    return choice(completion, prompt) if example.options else text.Overlap.of(answer, example.answer).f1


def yes_no(completion: Completion, prompt: Prompt) -> float:
    """1.0 iff the answer begins with the reference, which is yes or no (``text.yes_no``); 0.0 for any other question.

    >>> from medvlm_r1.reasoning import render; from medvlm_r1.types import Example
    >>> p = render(Example("q1", ("a.png",), "Is it large?", (), "no", "ct"), "think")
    >>> [yes_no(Completion((7,), (0.0,), f"<answer>{body}</answer>", True), p) for body in ("No, small.", "It is not.")]
    [1.0, 0.0]
    """
    example = prompt.example
    return float(not example.options and text.is_yes_no(example.answer) and text.is_right(_answer(completion, prompt), example.answer))


def _answer(completion: Completion, prompt: Prompt) -> str:
    return read(completion.text, prompt, completion.finished).answer or ""
