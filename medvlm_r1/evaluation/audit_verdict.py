"""What the findings mean, in the words of a careful reviewer. Every threshold has a name here."""

from collections.abc import Callable, Sequence
from typing import Any

from medvlm_r1.evaluation.story import modality_name as name
from medvlm_r1.evaluation.story import percent as _percent

TEXT_DECIDES = 0.5  # of the way from chance to 100 %: above it, an accuracy says nothing about seeing
TEXT_HELPS = 0.03  # above chance, in accuracy; nearer than this, the texts tell nothing
LETTER_BIASED = 0.05  # above chance, by always giving the best letter
LETTER_P = 0.01  # and by χ² no accident
CUE_BIASED = 0.10  # above chance, by the longest option or another sign of form
NEVER_GOLD = 0.5  # of the questions without one distractor that is ever an answer
COMMONEST = 0.2  # above chance, by always giving the commonest answer
LEAKS = 0.01  # of the questions
COPIES = 0.01  # of the pictures that have a twin in another group of the same set

CUE_WORDS = {"longest": "the longest option", "shortest": "the shortest option", "full_stop": "an option that ends in a full stop"}
LEAK_WORDS = {
    "names_source": "name the source they come from in their own words",
    "path_names_answer": "have the answer in the picture's file or folder name; keep paths from the model",
    "wording_fixes_answer": "have a wording that always goes with the same answer, so the question alone decides",
    "source_fixes_answer": "come from a source that has one answer only; whoever tells sources apart needs no finding",
}


def verdict(report: dict[str, Any]) -> list[str]:
    """Sentences, the gravest kind first: what the texts tell, what training has seen of the test, then smaller shortcuts.

    ``report`` is what ``auditing.audit`` returns.
    """
    return [*_text(report), *_split(report), *_shortcuts(report), *_leaks(report), *_unseen(report)]


def grade(prior: float, low: float, chance: float) -> str:
    """How much a text prior gives away: "decides", "helps" or "nothing".

    ======  =====  ========  ==========
    prior   low    chance
    ======  =====  ========  ==========
    0.992   0.98   0.25      decides
    0.60    0.55   0.3025    helps
    0.30    0.26   0.26      nothing
    ======  =====  ========  ==========

    >>> [grade(0.992, 0.98, 0.25), grade(0.60, 0.55, 0.3025), grade(0.30, 0.26, 0.26)]
    ['decides', 'helps', 'nothing']
    """
    if prior - chance >= TEXT_DECIDES * (1 - chance):
        return "decides"
    return "helps" if prior - chance > TEXT_HELPS and low > chance else "nothing"


def _text(report: dict[str, Any]) -> list[str]:
    sentences, grades = [], {}
    for modality, cell in report["text_prior"].items():
        chance = report["chance"][modality]
        grades[modality] = grade(cell["accuracy"], cell["ci95"][0], chance)
        text, guess = percent(cell["accuracy"]), percent(chance)
        if grades[modality] == "decides":
            sentences.append(
                f"In {name(modality)}, {text} of the questions can be answered from the option texts alone, chance is {guess}: "
                "accuracy on this set does not show that a model looks at the image."
            )
        elif grades[modality] == "helps":
            sentences.append(
                f"In {name(modality)}, the option texts alone reach {text}, chance is {guess}: "
                "only what a model gains over the text, not over chance, can come from the image."
            )
    plain = [m for m, kind in grades.items() if kind == "nothing"]
    if plain:
        figures = listed([f"{name(m)} ({percent(report['text_prior'][m]['accuracy'])}, chance {percent(report['chance'][m])})" for m in plain])
        sentences.append(f"The option texts alone do not tell the answer in {figures}.")
    return sentences + _within(report, grades)


def _within(report: dict[str, Any], grades: dict[str, str]) -> list[str]:
    """What a model that learnt from questions of the same modality would know, where the training set said less."""
    told = [
        m for m, cell in report["within"].items()
        if grades.get(m) != "decides" and grade(cell["accuracy"], cell["ci95"][0], report["chance"][m]) == "decides"
    ]  # fmt: skip
    if not told:
        return []
    figures = listed([f"{percent(report['within'][m]['accuracy'])} in {name(m)}" for m in told])
    return [f"Learnt from other questions of the same modality, the option texts alone reach {figures}: do not train on that modality and test here."]


def _split(report: dict[str, Any]) -> list[str]:
    found, sentences = report["duplicates"], []
    if found["across"] and found["across"]["near"]:
        n, exact = found["across"]["near"], found["across"]["exact"]
        sentences.append(
            f"{n} of the {found['hashed']} pictures ({percent(n / found['hashed'])}) stand in the training set too, {exact} of them "
            "pixel for pixel: an accuracy on them measures memory."
        )
    elif found["shared_references"]:
        n = found["shared_references"]
        sentences.append(f"The training set shows {n} of the {found['pictures']} pictures too: an accuracy on them measures memory.")
    if cut := report["groups_cut"]:
        sentences.append(f"The split cuts {len(cut)} groups ({', '.join(cut[:3])}{' …' if len(cut) > 3 else ''}): the same patient or document is on both sides.")
    if found["hashed"] and found["within"]["near"] >= COPIES * found["hashed"]:
        n = found["within"]["near"]
        sentences.append(
            f"{n} of the {found['hashed']} pictures ({percent(n / found['hashed'])}) have a twin in another group of this set: "
            "its questions are fewer than they seem, and intervals are too narrow."
        )
    return sentences


def _shortcuts(report: dict[str, Any]) -> list[str]:
    chance, sentences = report["chance"], []

    def say(rows: dict[str, Any], is_found: Callable[[str, Any], bool], tell: Callable[[str, Any], str]) -> None:
        sentences.extend(tell(m, row) for m, row in rows.items() if is_found(m, row))

    say(
        report["positions"],
        lambda m, row: row["accuracy"] - chance[m] > LETTER_BIASED and row["p"] < LETTER_P,
        lambda m, row: f"Always answering {row['best']} earns {percent(row['accuracy'])} in {name(m)}: shuffle the options.",
    )
    for cue, words in CUE_WORDS.items():
        say(
            report["cues"],
            lambda m, row, cue=cue: row[cue] - chance[m] > CUE_BIASED,
            lambda m, row, cue=cue, words=words: f"Always choosing {words} earns {percent(row[cue])} in {name(m)}.",
        )
    say(
        report["never_gold"],
        lambda m, row: row["questions"] >= NEVER_GOLD * row["of"],
        lambda m, row: f"In {row['questions']} of {row['of']} {name(m)} questions no distractor is ever an answer: knowing the list of answers is enough; see `medvlm-r1 data harden`.",
    )
    say(
        report["balance"],
        lambda m, row: row["share"] - chance.get(m, 0.0) > COMMONEST,
        lambda m, row: f'{percent(row["share"])} of the {name(m)} questions have the answer "{row["commonest"]}".',
    )
    return sentences


def _leaks(report: dict[str, Any]) -> list[str]:
    return [
        f"{row['questions']} of {row['of']} questions {LEAK_WORDS[kind]}."
        for kind, row in report["leaks"].items()
        if row["questions"] and row["questions"] >= LEAKS * row["of"]
    ]


def _unseen(report: dict[str, Any]) -> list[str]:
    found = report["duplicates"]
    why = {"missing": "missing", "unreadable": "unreadable", "drawn": "drawn when asked for (--images all hashes them)", "not_asked": "not asked for"}
    parts = [f"{n} {why[kind]}" for kind, n in found["skipped"].items() if n]
    return [f"Not looked at for duplicates: {listed(parts)}."] if parts else []


def percent(fraction: float) -> str:
    """One decimal, with the sign.

    >>> percent(0.9916)
    '99.2 %'
    """
    return f"{_percent(fraction)} %"


def listed(parts: Sequence[str]) -> str:
    """Parts as a sentence counts them.

    >>> listed(["MRI"]), listed(["MRI", "CT", "X-ray"])
    ('MRI', 'MRI, CT and X-ray')
    """
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
