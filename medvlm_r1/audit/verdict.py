"""What the findings of an audit mean, in the words of a careful reviewer. Every threshold has a name here."""

from collections.abc import Sequence
from typing import Any

from medvlm_r1.wording import modality_name as name
from medvlm_r1.wording import percent as _percent

TEXT_DECIDES = 0.5  # of the way from chance to 100 %: above it, an accuracy says nothing about seeing
TEXT_HELPS = 0.03  # above chance, in accuracy; nearer than this, the texts tell nothing
LETTER_BIASED = 0.05  # above chance, by always giving the best letter
LETTER_P = 0.01  # and by χ² no accident
CUE_BIASED = 0.10  # above chance, by the longest option or another sign of form
COMMONEST = 0.20  # above chance, by always giving the commonest answer
NEVER_GOLD = 0.5  # of the questions without one distractor that is ever an answer
LEAKS = 0.01  # of the questions
COPIES = 0.01  # of the pictures that have a twin in another group of the same set

CUE_WORDS = {"longest": "the longest option", "shortest": "the shortest option", "full_stop": "an option that ends in a full stop"}
LEAK_WORDS = {
    "names_source": "name the source they come from in their own words",
    "path_names_answer": "have the answer in the picture's folder or file name; keep paths from the model",
    "wording_fixes_answer": "have a wording that always goes with the same answer, so the question alone decides",
    "source_fixes_answer": "come from a source that has one answer only; whoever tells sources apart needs no finding",
}
SKIPPED_WORDS = {
    "missing": "missing",
    "unreadable": "unreadable",
    "drawn": "drawn when asked for (--images all looks at them)",
    "not_asked": "left out by --images none",
}


def verdict(report: dict[str, Any]) -> list[str]:
    """Sentences, the gravest first: texts that decide, what training has seen of the test, then smaller shortcuts.

    ``report`` is what ``auditing.audit`` returns, but for the verdict.
    """
    grades = {m: grade(cell["accuracy"], cell["ci95"][0], report["chance"][m]) for m, cell in report["text_prior"].items()}
    return [
        *_decided(report, grades),
        *_split(report),
        *_helped(report, grades),
        *_shortcuts(report),
        *_leaks(report),
        *_innocent(report, grades),
        *_unseen(report),
    ]


def grade(prior: float, low: float, chance: float) -> str:
    """How much a text prior gives away; ``low`` is the lower end of its interval.

    prior  low   chance
    0.992  0.98  0.25    decides
    0.60   0.55  0.3025  helps
    0.30   0.26  0.26    nothing: within 3 points, or chance inside the interval

    >>> [grade(0.992, 0.98, 0.25), grade(0.60, 0.55, 0.3025), grade(0.30, 0.26, 0.26)]
    ['decides', 'helps', 'nothing']
    """
    if prior - chance >= TEXT_DECIDES * (1 - chance):
        return "decides"
    return "helps" if prior - chance > TEXT_HELPS and low > chance else "nothing"


def _decided(report: dict[str, Any], grades: dict[str, str]) -> list[str]:
    return [
        f"In {name(m)}, {percent(report['text_prior'][m]['accuracy'])} of the questions can be answered from the option texts alone, "
        f"chance is {percent(report['chance'][m])}: accuracy on this set does not show that a model looks at the image."
        for m, kind in grades.items()
        if kind == "decides"
    ]


def _helped(report: dict[str, Any], grades: dict[str, str]) -> list[str]:
    sentences = [
        f"In {name(m)}, the option texts alone reach {percent(report['text_prior'][m]['accuracy'])}, chance is {percent(report['chance'][m])}: "
        "only what a model gains over the texts, not over chance, can come from the image."
        for m, kind in grades.items()
        if kind == "helps"
    ]
    own = {
        m: cell["accuracy"] for m, cell in report["within"].items()
        if grades.get(m) != "decides" and grade(cell["accuracy"], cell["ci95"][0], report["chance"][m]) == "decides"
    }  # fmt: skip
    if own:
        figures = listed([f"{percent(x)} in {name(m)}" for m, x in own.items()])
        sentences.append(
            f"Learnt from other questions of the same modality, the option texts alone reach {figures}: do not train on such questions and test here."
        )
    return sentences


def _innocent(report: dict[str, Any], grades: dict[str, str]) -> list[str]:
    plain = [m for m, kind in grades.items() if kind == "nothing"]
    figures = listed([f"{name(m)} ({percent(report['text_prior'][m]['accuracy'])}, chance {percent(report['chance'][m])})" for m in plain])
    return [f"The option texts alone do not tell the answer in {figures}."] if plain else []


def _split(report: dict[str, Any]) -> list[str]:
    found, sentences = report["duplicates"], []
    if found["across"] and found["across"]["near"]:
        n, exact = found["across"]["near"], found["across"]["exact"]
        sentences.append(
            f"{n} of the {found['hashed']} pictures ({percent(n / found['hashed'])}; {_by_modality(found['across'])}) have a twin in the training set, {exact} of them "
            "pixel for pixel: an accuracy on them measures memory."
        )
    elif found["shared_references"]:
        n = found["shared_references"]
        sentences.append(f"The training set shows {n} of the {found['pictures']} pictures too: an accuracy on them measures memory.")
    if cut := report["groups_cut"]:
        shown = ", ".join(cut[:3]) + (" …" if len(cut) > 3 else "")
        sentences.append(f"The split cuts {len(cut)} groups ({shown}): the same patient or document stands on both sides.")
    if found["hashed"] and found["within"]["near"] >= COPIES * found["hashed"]:
        n = found["within"]["near"]
        sentences.append(
            f"{n} of the {found['hashed']} pictures ({percent(n / found['hashed'])}; {_by_modality(found['within'])}) have a twin in another group of this set: "
            "its questions are fewer than they seem, and intervals too narrow."
        )
    return sentences


def _by_modality(twins: dict[str, Any]) -> str:
    return listed([f"{n} {name(m)}" for m, n in twins["near_by_modality"].items()])


def _shortcuts(report: dict[str, Any]) -> list[str]:
    chance, sentences = report["chance"], []
    letters = {m: row for m, row in report["positions"].items() if row["accuracy"] - chance[m] > LETTER_BIASED and row["p"] < LETTER_P}
    if letters:
        figures = listed([f"{percent(row['accuracy'])} in {name(m)} (always {row['best']})" for m, row in letters.items()])
        sentences.append(f"One and the same letter earns {figures}: shuffle the options.")
    for cue, words in CUE_WORDS.items():
        found = [f"{percent(row[cue])} in {name(m)}" for m, row in report["cues"].items() if row[cue] - chance[m] > CUE_BIASED]
        sentences += [f"Always choosing {words} earns {listed(found)}."] if found else []
    closed = [f"{row['questions']} of {row['of']} {name(m)}" for m, row in report["never_gold"].items() if row["questions"] >= NEVER_GOLD * row["of"]]
    if closed:
        sentences.append(
            f"In {listed(closed)} questions no distractor is ever an answer: knowing the list of answers is enough; medvlm-r1 data harden draws others."
        )
    common = {m: row for m, row in report["balance"].items() if row["share"] - chance.get(m, 0.0) > COMMONEST}
    figures = listed([f'{percent(row["share"])} in {name(m)} ("{row["commonest"]}")' for m, row in common.items()])
    return [*sentences, f"The commonest answer alone earns {figures}."] if common else sentences


def _leaks(report: dict[str, Any]) -> list[str]:
    rows = report["leaks"].items()
    return [f"{row['questions']} of {row['of']} questions {LEAK_WORDS[kind]}." for kind, row in rows if row["questions"] > LEAKS * row["of"]]


def _unseen(report: dict[str, Any]) -> list[str]:
    found = report["duplicates"]
    parts = [f"{n} of {found['pictures']} pictures {SKIPPED_WORDS[kind]}" for kind, n in found["skipped"].items() if n]
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
