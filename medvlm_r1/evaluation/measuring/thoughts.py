"""An answer beside its thought: the finding, the option named last, the letter answered, and the gold one.

A thought that goes through the options until one fits names its letter's option last whatever it found: the finding tells more.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.reasoning import parse
from medvlm_r1.rewards.format import asked_format
from medvlm_r1.rewards.naming import named_first, named_last
from medvlm_r1.types import Completion, Example, Prompt


@dataclass(frozen=True)
class Said:
    """``finding`` is what the thought names first in words of its own, ``named`` what it names last; "" for none. ``letter``: None where none was read.

    >>> luck = Said(letter="B", finding="A", named="B", gold="B")    # "It looks like a glioma. … B) pituitary fits."
    >>> luck.is_right, luck.names_choice, luck.finds_choice, luck.finds_gold, luck.is_right_by_luck
    (True, True, False, False, True)
    """

    letter: str | None
    finding: str
    named: str
    gold: str

    @property
    def is_right(self) -> bool:
        """The letter is the gold one."""
        return self.letter == self.gold

    @property
    def names_choice(self) -> bool:
        """What the thought names last is what was answered."""
        return self.named == self.letter

    @property
    def finds_choice(self) -> bool:
        """The finding is what was answered."""
        return self.finding == self.letter

    @property
    def finds_gold(self) -> bool:
        """The finding is the gold option, whatever was answered."""
        return self.finding == self.gold

    @property
    def is_right_by_luck(self) -> bool:
        """A right letter where the finding, or what is named last, is another option."""
        return self.is_right and not {self.finding, self.named} <= {"", self.gold}


def greedy(sample: Sample) -> Said:
    """The greedy answer."""
    return _said(sample, sample.text, sample.answer)


def drawn(sample: Sample) -> list[Said]:
    """Those of temperature 1."""
    return [_said(sample, text, letter) for text, letter in zip(sample.sampled_texts, sample.sampled_answers, strict=True)]


def _said(sample: Sample, text: str, letter: str | None) -> Said:
    thought = parse(text, len(sample.options)).think
    return Said(letter, named_first(thought, sample.options), named_last(thought, sample.options), sample.gold)


def has_form(text: str, thinks: bool) -> bool:
    """Whether an answer is a thought and a letter in their tags, or the letter alone where no thought was asked for, and nothing else.

    >>> [has_form("<answer>A</answer>", thinks) for thinks in (True, False)], has_form("<think>So.</think>\\n<answer>A</answer>", True)
    ([False, True], True)
    """
    return bool(asked_format(Completion((), (), text, finished=True), Prompt(Example("", (), "", (), "", ""), "", thinks=thinks)))


def by_luck(answers: Iterable[Said]) -> dict[str, Any]:
    """Of the right letters, how many stand under a wrong thought, and what share that is (None: no letter is right).

    | letter, finding, named, gold | right | by luck |
    >>> rows = [Said("A", "A", "A", "A"), Said("B", "A", "B", "B"), Said("B", "", "", "B"), Said("A", "B", "A", "B"), Said("A", "", "B", "A")]
    >>> by_luck(rows)                                   # right: all but the fourth; of them by luck: the second and the last
    {'right': 4, 'by_luck': 2, 'share': 0.5}
    """
    right = [said for said in answers if said.is_right]
    lucky = sum(said.is_right_by_luck for said in right)
    return {"right": len(right), "by_luck": lucky, "share": lucky / len(right) if right else None}
