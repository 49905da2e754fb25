"""Did the completion keep to the form that it was asked for, and add nothing?

A special token behind the answer (``<|endoftext|>``) is text like any other: it costs the form. Which
tokens are special is a tokenizer's own affair, and to some ``<think>`` is one.
"""

import re

from medvlm_r1.reasoning import read
from medvlm_r1.types import Completion, Prompt

_THINK = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
_DIRECT = re.compile(r"<answer>.*?</answer>", re.DOTALL)


def asked_format(completion: Completion, prompt: Prompt) -> float:
    """1.0 iff the whole completion is ``<think>…</think> <answer>…</answer>`` (the pattern of Pan et al. 2025).

    A prompt that asks for no thought wants ``direct_format``.

    >>> from medvlm_r1.types import Example
    >>> e = Example("q1", ("a.png",), "Which plane?", ("axial", "coronal"), "axial", "mri")
    >>> say = lambda text: Completion((7,), (0.0,), text, finished=True)
    >>> asked_format(say("<think>Ears.</think>\\n<answer>A</answer>"), Prompt(e, "…")), asked_format(say("<answer>A</answer>"), Prompt(e, "…"))
    (1.0, 0.0)
    >>> asked_format(say("<answer>A</answer>"), Prompt(e, "…", thinks=False))
    1.0
    """
    if prompt.thinks is False:
        return direct_format(completion, prompt)
    return float(_THINK.fullmatch(completion.text) is not None)


def direct_format(completion: Completion, prompt: Prompt) -> float:
    """1.0 iff the whole completion is ``<answer>…</answer>``: the contract without a thought.

    Where no tags were asked for, what evaluation reads as an answer without them will do as well.

    >>> from medvlm_r1.types import Example
    >>> e = Example("q1", ("a.png",), "Which plane?", ("axial", "coronal"), "axial", "mri")
    >>> bare, tagged = Completion((7,), (0.0,), "A", finished=True), Completion((7,), (0.0,), "<answer>A</answer>", finished=True)
    >>> [[direct_format(c, Prompt(e, "…", bare=is_bare)) for c in (bare, tagged)] for is_bare in (True, False)]
    [[1.0, 1.0], [0.0, 1.0]]
    """
    is_untagged = prompt.bare and "<answer>" not in completion.text
    is_bare = is_untagged and read(completion.text, prompt, completion.finished).status == "answered"
    return float(is_bare or _DIRECT.fullmatch(completion.text) is not None)
