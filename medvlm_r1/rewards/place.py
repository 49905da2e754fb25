"""How near is the cell of the screen that was answered to the right one?"""

from medvlm_r1.cells import CELLS, steps_apart
from medvlm_r1.reasoning import read
from medvlm_r1.rewards.naming import named_last
from medvlm_r1.types import LETTERS, Completion, Prompt


def place(completion: Completion, prompt: Prompt) -> float:
    """1.0 for the right cell of the 3 x 3 grid, 0.5 for one beside it, diagonals included, 0.0 for any other, for no answer, and where the reference is no cell.

    With options the letter is read as ``choice`` does; without, the cell that the answer names last.

    | answer       | gold upper left | gold centre |
    |--------------|-----------------|-------------|
    | upper left   | 1.0             | 0.5         |
    | upper middle | 0.5             | 0.5         |
    | centre       | 0.5             | 1.0         |
    | lower left   | 0.0             | 0.5         |
    | none         | 0.0             | 0.0         |

    Every cell is beside the centre, so that whoever always answers it has at least 0.5; beside ``strict_accuracy`` a right cell pays more.

    >>> from medvlm_r1.reasoning import render; from medvlm_r1.types import Example
    >>> options = ("upper left", "upper middle", "centre", "lower left")
    >>> prompts = [render(Example("q1", ("a.png",), "Where on screen?", options, gold, "ct"), "think") for gold in ("upper left", "centre")]
    >>> say = lambda body: Completion((7,), (0.0,), f"<answer>{body}</answer>", finished=True)
    >>> [[place(say(body), prompt) for prompt in prompts] for body in ("A", "B", "C", "D", "I cannot tell")]
    [[1.0, 0.5], [0.5, 0.5], [0.5, 1.0], [0.0, 0.5], [0.0, 0.0]]
    >>> free = render(Example("q2", ("a.png",), "Where on screen?", (), "upper left", "ct"), "think")
    >>> [place(say(body), free) for body in ("Upper left.", "Not the upper left but the centre.", "Left.")]
    [1.0, 0.5, 0.0]
    """
    gold, cell = prompt.example.answer.lower(), _answered(completion, prompt)
    if gold not in CELLS or cell not in CELLS:
        return 0.0
    return (1.0, 0.5, 0.0)[steps_apart(gold, cell)]


def _answered(completion: Completion, prompt: Prompt) -> str:
    """The text of the option, or the cell that a free answer names last; "" for none."""
    options, answer = prompt.example.options, read(completion.text, prompt, completion.finished).answer or ""
    if options:
        return options[LETTERS.index(answer)].lower() if answer else ""
    named = named_last(answer, CELLS)
    return CELLS[LETTERS.index(named)] if named else ""
