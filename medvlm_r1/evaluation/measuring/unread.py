"""Answers in which nothing could be read: where they are most, the accuracy says nothing of the model, and one sentence says why."""

from collections.abc import Callable, Sequence

from medvlm_r1.evaluation.samples import Sample

READ = ("answered", "abstained")
HALF = 0.5
SHOWN = 80
CAUSES: tuple[tuple[Callable[[Sample], bool], str], ...] = (  # what the first such answer looks like, and what to do
    (lambda s: s.text.rstrip().endswith("</think>"), "all of it came as a thought; start the server without a reasoning parser, or with the one of this model"),
    (lambda s: s.status == "truncated", "it was cut off; raise --max-tokens"),
    (lambda s: len(s.text.strip()) <= 3, "the prompt asks for tags and none came; --template paper-direct reads a letter alone"),
    (lambda s: True, "the model does not write the tags that the prompt asks for; name the --template that it was trained with"),
)


def unread(samples: Sequence[Sample]) -> str:
    """How many of an arm's answers could not be read, the first of them, and what may help; "" where at least half could.

    Questions that failed have no answer. Those without options are asked for words, not for a letter.

    >>> from dataclasses import replace
    >>> s = Sample("q1", "ct", "", "", "Which?", ("a", "b"), "A", (), "image", "A", None, "unparsed", False, 1)
    >>> unread([s, s])
    'no letter could be read in 2 of 2 answers, the first: "A"; the prompt asks for tags and none came; --template paper-direct reads a letter alone'
    >>> unread([s, replace(s, status="answered"), replace(s, status="failed")])
    ''
    """
    answers = [s for s in samples if s.status != "failed"]
    silent = [s for s in answers if s.status not in READ]
    if len(silent) <= HALF * len(answers):
        return ""
    text = " ".join(silent[0].text.split())
    shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
    cause = next(words for fits, words in CAUSES if fits(silent[0]))
    wanted = "answer" if silent[0].is_open else "letter"
    return f'no {wanted} could be read in {len(silent)} of {len(answers)} answers, the first: "{shown}"; {cause}'
