"""Does a model look at its picture? One rule over its arms, and one sentence that says what was found.

A model may be right for the wrong reason: option texts that give the answer away
are enough for any accuracy. So the same questions are asked with a picture that
tells nothing (arm "blank") or something else (arm "mismatch"), and accuracy must fall.
One of them is not enough: a grey picture is strange to a model that has seen none, so that accuracy
falls although the picture was not read; another question's is not strange.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medvlm_r1.evaluation.measuring.metrics import Arms, comparable, compare, per_question, statuses
from medvlm_r1.evaluation.measuring.statistics import Estimate, cluster_share
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.wording import interval, points

LOOKS, DOUBTS, LEANS = "looks", "looks, with doubts", "leans on the text"
NOT_SHOWN, NOT_TESTED = "not shown to look", "not tested"
WITHOUT_PICTURE = ("blank", "noise", "mismatch")
DECIDING = ("blank", "mismatch")  # noise is reported and does not decide: some models see a texture as a finding
SHOWN = {"blank": "a grey picture", "noise": "noise", "mismatch": "another question's picture"}
_MUST_ANSWER = 0.9  # of what it answers with its picture; below, a fall of accuracy may be mere refusal
_SIGNIFICANT = 0.05

RULE = (
    "“Looks”: it is right more often with its own picture than with a grey one, and than with the picture of another question (of another "
    "patient where patients are named, and mostly one that shows another answer): p below 0.05, the 95 % intervals of the differences above 0 "
    "(greedy answers, mean over modalities, whole patients resampled where they are named); and with neither does it keep half of its lead over chance. "
    "“Leans on the text”: so it is, but with one of them it keeps more than half of its lead. "
    "“Looks, with doubts”: the interval of what it keeps includes one half, or only one of the two was asked. "
    "A model that was trained under one of the two is judged by noise in its place: what it was taught there proves nothing. "
    "“Not shown to look”: a difference is not clear, or the model is not ahead of chance. “Not tested”: it was asked with its own pictures only, "
    "or hardly answered without them, which is no proof of sight."
)


@dataclass(frozen=True)
class Reliance:
    """Accuracy with the own picture minus accuracy under an arm; ``answered`` is the share of that arm with a readable answer.

    >>> Reliance(0.413, (0.374, 0.452), 0.0002, answered=1.0).difference
    0.413
    """

    difference: float
    ci95: tuple[float, float]
    p: float
    answered: float

    @property
    def is_clear(self) -> bool:
        """Few questions make an interval without width: p must agree."""
        return self.ci95[0] > 0 and self.p < _SIGNIFICANT


@dataclass(frozen=True)
class Looking:
    """The level, its sentence, and the numbers behind both.

    ``kept`` is the largest share of the lead over chance, from 0 to 1, that an arm without the picture keeps.
    ``trained_under``: the arms that its training showed it, which decide nothing.

    >>> Looking("not tested", "It was asked with its own pictures only.", {}).level
    'not tested'
    """

    level: str
    sentence: str
    reliance: dict[str, Reliance]
    kept: float | None = None
    kept_ci95: tuple[float, float] | None = None
    trained_under: tuple[str, ...] = ()


def deciding_arms(trained_under: Sequence[str] = ()) -> tuple[str, ...]:
    """The two arms that decide.

    >>> deciding_arms(), deciding_arms(["mismatch"])
    (('blank', 'mismatch'), ('blank', 'noise'))
    """
    return tuple(name for name in (*DECIDING, "noise") if name not in trained_under)[: len(DECIDING)]


def look(arms: Arms, trained_under: Sequence[str] = ()) -> Looking:
    """The judgement over a model's arms, of which "image" is one."""
    asked = [name for name in WITHOUT_PICTURE if name in arms and comparable(arms["image"], arms[name])]
    return judge(arms, {name: compare(arms["image"], arms[name], same=False) for name in asked}, trained_under)


def judge(arms: Arms, against: Mapping[str, Mapping[str, Any]], trained_under: Sequence[str] = ()) -> Looking:
    """``look`` where the comparisons, image minus arm as ``metrics.compare`` gives them, are known already."""
    found = _judged(arms, against, deciding_arms(trained_under))
    taught = [SHOWN[name] for name in trained_under if name in SHOWN]
    told = f" It was trained with {' and '.join(taught)}, too, which therefore decides nothing." if taught else ""
    return replace(found, sentence=found.sentence + told, trained_under=tuple(trained_under))


def _judged(arms: Arms, against: Mapping[str, Mapping[str, Any]], wanted: Sequence[str]) -> Looking:
    reliance = {name: _reliance(arms[name], against[name]["greedy"]) for name in WITHOUT_PICTURE if name in against}
    caution = _caution(arms, reliance)
    usual = statuses(arms["image"])["answered"]
    deciding = {name: reliance[name] for name in wanted if name in reliance and reliance[name].answered >= _MUST_ANSWER * usual}
    if not deciding:
        return Looking(NOT_TESTED, caution.strip() or f"It was asked with its own pictures only; ask it without them (arms {' and '.join(wanted)}).", reliance)
    keeps = {name: kept for name in deciding if (kept := _kept(arms["image"], arms[name]))}
    most = max(keeps, key=lambda name: keeps[name].value, default="")
    kept = keeps[most] if len(keeps) == len(deciding) else None
    kept_ci95 = (kept.low, kept.high) if kept else None
    level = level_of([found.is_clear for found in deciding.values()], kept_ci95)
    sentence = _sentence(level, {name: deciding.get(name) for name in wanted}, most, kept) + caution
    return Looking(level, sentence, reliance, kept.value if kept else None, kept_ci95)


def level_of(clear: Sequence[bool], kept: tuple[float, float] | None) -> str:
    """The rule: whether each deciding difference is clear, and the interval of what is kept of the lead over chance (None: there is no lead).

    | clear | kept | level |
    >>> level_of([True, True], (0.0, 0.3)), level_of([True, True], (0.6, 0.8)), level_of([True], (0.6, 0.8))
    ('looks', 'leans on the text', 'leans on the text')
    >>> level_of([True, True], (0.3, 0.6)), level_of([True], (0.0, 0.3))            # one of the two was not asked
    ('looks, with doubts', 'looks, with doubts')
    >>> level_of([True, False], (0.0, 0.3)), level_of([True, True], None)
    ('not shown to look', 'not shown to look')
    """
    if kept is None or not all(clear):
        return NOT_SHOWN
    if kept[0] > 0.5:
        return LEANS
    return LOOKS if kept[1] < 0.5 and len(clear) == len(DECIDING) else DOUBTS


def _reliance(samples: Sequence[Sample], found: Mapping[str, Any]) -> Reliance:
    return Reliance(found["mean_difference"], tuple(found["ci95"]), found["p"], statuses(samples)["answered"])


def _kept(image: Sequence[Sample], other: Sequence[Sample]) -> Estimate | None:
    """What remains of the lead over chance, as a share of it, on the questions that both answered; None without a lead."""
    failed = {s.id for s in (*image, *other) if s.status == "failed"}
    both = ({s.id for s in image} & {s.id for s in other}) - failed
    asked, lead = per_question([s for s in image if s.id in both], _over_chance)
    left = {s.id: value for s, value in zip(*per_question([s for s in other if s.id in both], _over_chance), strict=True)}
    try:
        return cluster_share([left[s.id] for s in asked], lead, [s.cluster for s in asked], [s.modality for s in asked])
    except ValueError:  # no lead over chance: the rule has a level for it
        return None


def _over_chance(sample: Sample) -> float:
    return float(sample.correct) - (1 / len(sample.options) if sample.options else 0.0)


def _sentence(level: str, wanted: Mapping[str, Reliance | None], most: str, kept: Estimate | None) -> str:
    reliance = {name: found for name, found in wanted.items() if found}
    said = {name: f"{points(r.difference)} points ({interval(r.ci95, signed=True)}) over {SHOWN[name]}" for name, r in reliance.items()}
    numbers = " and ".join(said.values())
    keeps = f"With {SHOWN[most]} it keeps {100 * kept.value:.0f} % of its lead over chance ({interval((kept.low, kept.high))})" if kept else ""
    if level == LOOKS:
        return f"Its own picture is worth {numbers}."
    if level == LEANS:
        return f"{keeps}; its own is worth {numbers}."
    if level == DOUBTS:
        missing = "".join(f" It was not asked with {SHOWN[name]}." for name in wanted if name not in reliance)
        return f"Its own picture is worth {numbers}. {keeps}.{missing}"
    if kept is None:
        return f"It is not ahead of chance; its own picture is worth {numbers}."
    harmful = [name for name, r in reliance.items() if r.ci95[1] < 0]
    telling = harmful or [name for name, r in reliance.items() if not r.is_clear]
    besides = " and ".join(said[name] for name in reliance if name not in telling)
    begin = "It is right more often without its own picture" if harmful else "Its own picture makes no clear difference"
    return f"{begin}: {' and '.join(said[name] for name in telling)}." + (f" Besides, {besides}." if besides else "")


def _caution(arms: Arms, reliance: Mapping[str, Reliance]) -> str:
    """A model that refuses without a picture loses accuracy too, and that is not sight."""
    usual = statuses(arms["image"])["answered"]
    silent = {SHOWN[name]: r.answered for name, r in reliance.items() if r.answered < _MUST_ANSWER * usual}
    return "".join(
        f" With {shown} it gives an answer to {100 * share:.0f} % only, which decides nothing: silence is no proof of sight." for shown, share in silent.items()
    )
