"""What every report says, in words: an answer, or why there is none, what it is worth, and that it is no diagnosis."""

from medvlm_r1 import INTENDED_USE
from medvlm_r1.clinical.record import Calibration, Record, plain

NOT_REVIEWED = "Written by a machine, reviewed by nobody."
REVIEWED = "Written by a machine; a reader has {} it, which verifies nothing."
# Why no answer stands, at most 64 signs (PS3.5 6.2, LO), by status.
REASONS = {
    "abstained": "No answer: the model abstained",
    "unparsed": "No answer: none could be read in what the model wrote",
    "truncated": "No answer: the model was cut off before it answered",
    "contradicted": "No answer: it contradicts its own thought or an earlier reading",
    "rejected": "No answer: the reader rejected what the model answered",
}
OTHER = "No answer: the model gave none"


def reason(record: Record) -> tuple[str, str]:
    """Why no answer stands: (name, words); ("", "") where one does.

    >>> [len(words) <= 64 for words in REASONS.values()]
    [True, True, True, True, True]
    """
    if record.stands:
        return "", ""
    name = "rejected" if record.status == "answered" and record.feedback else record.status
    return (name, REASONS[name]) if name in REASONS else ("none", OTHER)


def percent(record: Record) -> float | None:
    """The certainty in per cent. Withheld unless an answer stands and the number was calibrated: nobody may take it for more than it is."""
    confidence = record.confidence
    return round(100 * confidence.value, 1) if record.stands and confidence and confidence.calibration else None


def calibrated(calibration: Calibration) -> str:
    """On what the certainty rests.

    >>> calibrated(Calibration("held-out MRI", 40, (0.68, 0.91), 300))
    'The share right of 40 answers as sure as this (95 % interval 68.0 to 91.0 %), among 300 to held-out MRI.'
    """
    low, high = (100 * bound for bound in calibration.ci95)
    among = f"among {calibration.n_of_set} to {plain(calibration.name)}"
    return f"The share right of {calibration.n} answers as sure as this (95 % interval {low:.1f} to {high:.1f} %), {among}."


def question(record: Record) -> str:
    """The question with all that could be answered to it."""
    offered = "; ".join(f"{letter}) {plain(option)}" for letter, option in zip("ABCDEFGHIJ", record.options, strict=False))
    return f"Asked: {plain(record.question)}" + (f"\nOffered: {offered}" if offered else "\nNo options were offered.")


def outcome(record: Record) -> str:
    """The answer in one line, or why there is none."""
    if not record.stands:
        return f"{reason(record)[1]}."
    return f"The model answered: {f'{record.answer}) ' if record.answer else ''}{plain(record.answer_text)}"


def notes(record: Record, *, reasoning: bool = False) -> list[str]:
    """All that stands beside the answer, each a paragraph; the first says what this is."""
    feedback = record.feedback
    reviewed = REVIEWED.format(feedback.assessment) if feedback else NOT_REVIEWED
    found = [f"{INTENDED_USE} {reviewed}", question(record), outcome(record)]
    found += [f"Warning: {plain(warning)}" for warning in record.warnings]
    if record.stands and percent(record) is None:
        found.append("No certainty is given: none was calibrated for this model.")
    if feedback and feedback.assessment == "rejected" and record.answer_text:
        found.append(f"The model had answered, and the reader rejected: {plain(record.answer_text)}")
    if feedback and feedback.answer:
        found.append(f"The reader's own answer: {plain(feedback.answer)}")
    if reasoning and record.reasoning:
        found.append(f"The model's reasoning, verified by nobody: {plain(record.reasoning)}")
    return found
