"""Questions that cannot be put are left out one by one; a run that would lose many of them is refused."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from medvlm_r1.data.images import load_image
from medvlm_r1.errors import DataError, ImageError, RunError
from medvlm_r1.files import disk_errors, read_rows, utf8
from medvlm_r1.types import Example

MOST = 0.1  # of the questions. A file that is broken happens; where a tenth is, a folder, a decoder or a setting is wrong, and what is left is another question set
FILE = "left_out.jsonl"


@dataclass(frozen=True)
class Lost:
    """A question that cannot be put, and why; ``max_pixels``: the image budget with which it could, if that is known.

    >>> Lost("q2", 'image "gone.png" is missing').id
    'q2'
    """

    id: str
    reason: str
    max_pixels: int | None = None


def sift(examples: Iterable[Example], check: Callable[[Example], object]) -> tuple[list[Example], list[Lost]]:
    """The questions that pass, in order, and the others. ``check`` raises DataError or ImageError for what is wrong with one of them."""
    kept, lost = [], []
    for example in examples:
        try:
            check(example)
        except (DataError, ImageError) as error:
            lost.append(Lost(example.id, named(example.id, str(error)), getattr(error, "max_pixels", None)))
        else:
            kept.append(example)
    return kept, lost


def named(id: str, reason: str) -> str:
    """The reason with the question's id, where it does not name it already.

    >>> named("q2", 'image "gone.png" is missing'), named("q2", 'question "q2" is too long')
    ('question "q2": image "gone.png" is missing', 'question "q2" is too long')
    """
    return reason if f'"{id}"' in reason else f'question "{id}": {reason}'


def told(lost: Sequence[Lost], total: int, fate: str = "") -> str:
    """How many, what becomes of them, and the first.

    >>> told([Lost("q2", 'question "q2": image "gone.png" is missing')], 600, " will have no answer")
    '1 of 600 questions will have no answer: question "q2": image "gone.png" is missing'
    """
    return f"{len(lost)} of {total} questions{fate}{', the first' if len(lost) > 1 else ''}: {lost[0].reason}"


def require_enough(lost: Sequence[Lost], total: int) -> None:
    """Raises DataError where more than a tenth of the questions, or all of them, are lost."""
    if lost and (len(lost) > MOST * total or len(lost) == total):
        raise DataError(f"too many questions cannot be used, {told(lost, total)}")


def openable(examples: Iterable[Example]) -> tuple[list[Example], list[Lost]]:
    """``sift`` by the pictures, each opened once."""
    faults: dict[str, str] = {}

    def fault_of(reference: str) -> str:
        if reference not in faults:
            faults[reference] = ""
            try:
                load_image(reference)
            except ImageError as error:
                faults[reference] = str(error)
        return faults[reference]

    def check(example: Example) -> None:
        if fault := next(filter(None, map(fault_of, example.images)), ""):
            raise ImageError(fault)

    return sift(examples, check)


def keep(run_dir: Path, lost: Sequence[Lost], fresh: bool) -> None:
    """Writes down what a new run leaves out. Raises RunError where one that goes on would leave out others: its steps would be other ones."""
    file, ids = run_dir / FILE, [question.id for question in lost]
    differing = sorted({row["id"] for row in read_rows(file)} ^ set(ids)) if not fresh else []
    if differing:
        what = "cannot be used any more" if differing[0] in ids else "can be used again"
        raise RunError(f'{run_dir} began with other questions: "{differing[0]}" {what}; restore it as it was, or start anew in another --run-dir')
    with disk_errors(run_dir):
        if lost:
            file.write_bytes(utf8("".join(json.dumps(asdict(question)) + "\n" for question in lost)))
        else:
            file.unlink(missing_ok=True)
