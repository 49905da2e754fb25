"""An answer beside its thought: the option that the thought names last, the letter answered, and the gold one."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.reasoning import parse
from medvlm_r1.rewards.format import asked_format
from medvlm_r1.rewards.naming import named_last
from medvlm_r1.types import Completion, Example, Prompt


@dataclass(frozen=True)
class Said:
    """``named`` is "" where the thought names no option, ``letter`` None where none was read.

    >>> luck = Said(letter="B", named="A", gold="B")
    >>> luck.is_right, luck.names_gold, luck.names_choice, luck.is_right_by_luck
    (True, False, False, True)
    """

    letter: str | None
    named: str
    gold: str

    @property
    def is_right(self) -> bool:
        """The letter is the gold one."""
        return self.letter == self.gold

    @property
    def names_gold(self) -> bool:
        """The thought names the gold option, whatever was answered."""
        return self.named == self.gold

    @property
    def names_choice(self) -> bool:
        """The thought names what was answered."""
        return bool(self.named) and self.named == self.letter

    @property
    def is_right_by_luck(self) -> bool:
        """A right letter under a thought that names another option."""
        return self.is_right and self.named not in ("", self.gold)


def greedy(sample: Sample) -> Said:
    """The greedy answer."""
    return _said(sample, sample.text, sample.answer)


def drawn(sample: Sample) -> list[Said]:
    """Those of temperature 1."""
    return [_said(sample, text, letter) for text, letter in zip(sample.sampled_texts, sample.sampled_answers, strict=True)]


def _said(sample: Sample, text: str, letter: str | None) -> Said:
    return Said(letter, named_last(parse(text, len(sample.options)).think, sample.options), sample.gold)


def has_form(text: str, thinks: bool) -> bool:
    """Whether an answer is a thought and a letter in their tags, or the letter alone where no thought was asked for, and nothing else.

    >>> [has_form("<answer>A</answer>", thinks) for thinks in (True, False)], has_form("<think>So.</think>\\n<answer>A</answer>", True)
    ([False, True], True)
    """
    return bool(asked_format(Completion((), (), text, finished=True), Prompt(Example("", (), "", (), "", ""), "", thinks=thinks)))


def by_luck(answers: Iterable[Said]) -> dict[str, Any]:
    """Of the right letters, how many stand under a wrong thought, and what share that is (None: no letter is right).

    | letter, named, gold | right | by luck |
    >>> rows = [Said("A", "A", "A"), Said("B", "A", "B"), Said("B", "", "B"), Said("A", "B", "B"), Said(None, "B", "B")]
    >>> by_luck(rows)                                   # right: the first three; of them the second's thought names A
    {'right': 3, 'by_luck': 1, 'share': 0.3333333333333333}
    """
    right = [said for said in answers if said.is_right]
    lucky = sum(said.is_right_by_luck for said in right)
    return {"right": len(right), "by_luck": lucky, "share": lucky / len(right) if right else None}
