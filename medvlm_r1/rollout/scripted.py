"""An engine that says what a script tells it: for tests, and for whoever wants to see the harness return numbers known beforehand."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.types import LETTERS, Completion, Prompt

Script = Callable[[Prompt, int], Completion]
"""A prompt, and the number of its answer (0 is the greedy one, 1, 2, … are those drawn), to what is written."""


@dataclass
class ScriptedEngine:
    """Writes by ``script``, one prompt after another. ``asked`` lists the id and number of all that it wrote.

    >>> from medvlm_r1.types import Example
    >>> e = Example("q1", (), "Which plane?", ("axial", "coronal"), "coronal", "mri")
    >>> engine = ScriptedEngine(lambda prompt, k: written(prompt, prompt.example.letter))
    >>> engine.generate([Prompt(e, "Which plane?")], Sampling(1, temperature=0))[0][0].text, engine.asked
    ('<think>As scripted.</think>\\n<answer>B</answer>', [('q1', 0)])
    """

    script: Script
    asked: list[tuple[str, int]] = field(default_factory=list)

    def sync(self, policy: Any) -> None:
        """A script has no weights."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """See Engine.generate."""
        return list(self.stream(prompts, sampling))

    def stream(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[list[Completion]]:
        """See Streaming.stream."""
        first = 0 if sampling.temperature == 0 else 1
        for prompt in prompts:
            yield [self._write(prompt, first + g) for g in range(sampling.n)]

    def _write(self, prompt: Prompt, k: int) -> Completion:
        completion = self.script(prompt, k)
        self.asked.append((prompt.example.id, k))
        return completion


def written(prompt: Prompt, letter: str, thought: str = "As scripted.") -> Completion:
    """A finished answer in the form that the prompt asks for, or begins.

    >>> from medvlm_r1.types import Example
    >>> e = Example("q1", (), "Which plane?", ("axial", "coronal"), "coronal", "mri")
    >>> written(Prompt(e, "Which plane?", opening="<think></think><answer>"), "A").text
    'A</answer>'
    """
    if prompt.opening:
        text = f"{letter}</answer>"
    else:
        text = letter if prompt.bare else f"<think>{thought}</think>\n<answer>{letter}</answer>"
    ids = tuple(text.encode())
    return Completion(ids, (0.0,) * len(ids), text, finished=True)


def by_table(right: Mapping[str, Sequence[bool]]) -> Script:
    """Id -> whether the greedy answer is right, and each drawn one. A wrong answer is the letter after the right one.

    >>> from medvlm_r1.types import Example
    >>> e = Example("q1", (), "Which plane?", ("axial", "coronal"), "coronal", "mri")
    >>> script = by_table({"q1": [True, False]})
    >>> [script(Prompt(e, "Which plane?"), k).text[-10:] for k in (0, 1)]
    ['B</answer>', 'A</answer>']
    """

    def script(prompt: Prompt, k: int) -> Completion:
        example = prompt.example
        gold = LETTERS.index(example.letter)
        return written(prompt, LETTERS[gold if right[example.id][k] else (gold + 1) % len(example.options)])

    return script


def share_right(count: int, share: float) -> list[bool]:
    """Exactly this share of ``count`` questions, rounded down, spread evenly.

    >>> share_right(8, 0.25)
    [False, False, False, True, False, False, False, True]
    """
    reached = [int(i * share + 1e-9) for i in range(count + 1)]
    return [after > before for before, after in itertools.pairwise(reached)]
