"""Did the completion keep to the contract? (Pan et al. 2025: 1 for exactly think then answer.)"""

import re

from medvlm_r1.types import Completion, Example

_THINK = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
_DIRECT = re.compile(r"<answer>.*?</answer>", re.DOTALL)


def think_format(completion: Completion, example: Example) -> float:
    """1.0 iff the whole completion is ``<think>…</think> <answer>…</answer>`` (the paper's pattern).

    >>> say = lambda text: Completion((7,), (0.0,), text, finished=True)
    >>> e = Example("q1", ("a.png",), "Which plane?", ("axial", "coronal"), "axial", "mri")
    >>> think_format(say("<think>Ears.</think>\\n<answer>A</answer>"), e), think_format(say("<answer>A</answer>"), e)
    (1.0, 0.0)
    """
    return float(_THINK.fullmatch(completion.text) is not None)


def direct_format(completion: Completion, example: Example) -> float:
    """1.0 iff the whole completion is ``<answer>…</answer>``: the contract without a thought."""
    return float(_DIRECT.fullmatch(completion.text) is not None)
