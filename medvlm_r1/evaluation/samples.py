"""One evaluated question: what was asked, what was written, how it was read.

A file of samples is JSON Lines, one sample a line; every number of a report is
computed from such files and from nothing else.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from medvlm_r1.errors import DataError, nearest
from medvlm_r1.rewards import text as free
from medvlm_r1.types import LETTERS

STATUSES = ("answered", "unparsed", "truncated", "abstained", "failed")  # the last: an endpoint gave no completion


@dataclass(frozen=True)
class Sample:
    """A question under one arm, its greedy completion, and K sampled ones.

    ``arm`` says what the model was shown and how it was asked: "image", "blank", …; see ``evaluation.arms``.
    ``images``, ``options`` and ``gold`` are those of the arm.
    ``text`` is all that stands in the model's turn, ``answer`` and ``status`` how ``reasoning.read`` read it.
    ``sampled_texts`` and the letters in them, ``sampled_answers``, are of temperature 1; both may be empty.
    ``option_probs`` is the probability of each option after the greedy thought; empty if not measured.
    Without options ``gold`` and the answers are texts, ``correct`` is what ``rewards.text.is_right`` says, and
    ``judged`` what a judge said of the greedy answer (None: it was not asked, or gave no verdict).

    >>> s = Sample("mri-00017", "mri", "side", "patient-0031", "Which side?", ("left", "right"), "B",
    ...            ("images/00017.png",), "image", "<think>…</think><answer>B</answer>", "B", "answered", True,
    ...            21, ("B", "A", "B", "B"))
    >>> s.sampled_accuracy
    0.75
    >>> Sample("q2", "ct", "", "", "Where is it?", (), "left lung", (), "image", "…", "Left lung.", "answered", True, 9, ("lung",)).sampled_correct
    (False,)
    """

    id: str
    modality: str
    question_type: str
    group: str
    question: str
    options: tuple[str, ...]
    gold: str
    images: tuple[str, ...]
    arm: str
    text: str
    answer: str | None
    status: str
    correct: bool
    n_tokens: int
    sampled_answers: tuple[str | None, ...] = ()
    sampled_texts: tuple[str, ...] = ()
    option_probs: tuple[float, ...] = ()
    judged: bool | None = None

    @property
    def is_open(self) -> bool:
        """Whether the question has no options."""
        return not self.options

    @property
    def sampled_correct(self) -> tuple[bool, ...]:
        """Which of the K sampled completions are right."""
        return tuple(free.is_right(answer, self.gold) if self.is_open else answer == self.gold for answer in self.sampled_answers)

    @property
    def sampled_accuracy(self) -> float | None:
        """The share of the K sampled completions that are right; None where there are none."""
        return sum(self.sampled_correct) / len(self.sampled_correct) if self.sampled_correct else None

    @property
    def cluster(self) -> str:
        """What is resampled as one piece: the group, or the question where no group is known."""
        return self.group or f"id:{self.id}"

    @property
    def gold_text(self) -> str:
        """The text of the right option, or the reference of a question without options."""
        if self.is_open:
            return self.gold
        index = LETTERS.find(self.gold) if self.gold else -1
        return self.options[index] if 0 <= index < len(self.options) else ""


def write_samples(path: str | Path, samples: Iterable[Sample]) -> None:
    """Write one sample a line; the same samples give the same bytes."""
    lines = (json.dumps(_row(sample), ensure_ascii=False) + "\n" for sample in samples)
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:  # half a surrogate pair becomes JSON's own escape
        file.writelines(lines)


def _row(sample: Sample) -> dict[str, Any]:
    return {name: value for name, value in asdict(sample).items() if name != "judged" or value is not None}


def read_samples(path: str | Path) -> list[Sample]:
    """Read what ``write_samples`` wrote.

    Raises DataError, with file and line, for a line that is no sample.
    """
    samples = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                samples.append(_parse_line(line, f"{path}, line {number}"))
    return samples


_KINDS: dict[str, type | tuple[type, ...]] = {
    "options": list, "images": list, "sampled_answers": list, "sampled_texts": list, "option_probs": list,
    "answer": (str, type(None)), "correct": bool, "n_tokens": int, "judged": (bool, type(None)),
}  # fmt: skip
_MAY_BE_MISSING = {"sampled_answers", "sampled_texts", "option_probs", "judged"}


def _parse_line(line: str, place: str) -> Sample:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place}: no JSON ({error}); evaluate again, or delete the line") from error
    if not isinstance(row, dict):
        raise DataError(f"{place}: a sample is a JSON object, this is {line.strip()[:60]}")
    known = {f.name for f in fields(Sample)}
    for name in row.keys() - known:
        raise DataError(f'{place}: unknown key "{name}"{nearest(name, known)}')
    for name in sorted(known - row.keys() - _MAY_BE_MISSING):
        raise DataError(f'{place}: the key "{name}" is missing; was the file written by another version?')
    for name, value in row.items():
        if not isinstance(value, _KINDS.get(name, str)):
            raise DataError(f'{place}: "{name}" has the value {value!r:.60} of the wrong type')
    if row["status"] not in STATUSES:
        raise DataError(f'{place}: unknown status "{row["status"]}"{nearest(row["status"], STATUSES)}')
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return Sample(**values)
