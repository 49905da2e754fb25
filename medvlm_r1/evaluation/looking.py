"""Does a model look at its picture? One rule over its arms, and one sentence that says what was found.

A model may be right for the wrong reason: option texts that give the answer away
are enough for any accuracy. So the same questions are asked with a picture that
tells nothing (arm "blank") or something else (arm "mismatch"), and accuracy must fall.
One of them is not enough: a grey picture is strange to a model that has seen none, so that accuracy
falls although the picture was not read; another patient's is not strange.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medvlm_r1.evaluation.metrics import Arms, arm_table, chance, compare, statuses
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.evaluation.wording import interval, points

LOOKS, LEANS, NOT_SHOWN, NOT_TESTED = "looks", "leans on the text", "not shown to look", "not tested"
WITHOUT_PICTURE = ("blank", "noise", "mismatch")
DECIDING = ("blank", "mismatch")  # noise is reported and does not decide: some models see a texture as a finding
SHOWN = {"blank": "a grey picture", "noise": "noise", "mismatch": "another patient's picture"}
_MUST_ANSWER = 0.9  # of what it answers with its picture; below, a fall of accuracy may be mere refusal

RULE = (
    "“Looks”: it is right more often with its own picture than with a grey one, and than with another patient's where that was asked: "
    "the 95 % intervals of the differences (greedy answers, mean over modalities, whole patients resampled) lie above 0. "
    "“Leans on the text”: so it is, but under one of them it keeps more than half of its lead over chance. "
    "“Not shown to look”: an interval reaches 0, or the model is not ahead of chance. "
    "“Not tested”: it was asked with its own pictures only."
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


@dataclass(frozen=True)
class Looking:
    """The level, its sentence, and the numbers behind both.

    ``kept`` is the largest share of the lead over chance that an arm without the picture keeps.

    >>> Looking("not tested", "It was asked with its own pictures only.", {}, None).level
    'not tested'
    """

    level: str
    sentence: str
    reliance: dict[str, Reliance]
    kept: float | None


def look(arms: Arms) -> Looking:
    """The judgement over a model's arms, of which "image" is one."""
    return judge(arms, {name: compare(arms["image"], arms[name], same=False) for name in WITHOUT_PICTURE if arms.get(name)})


def judge(arms: Arms, against: Mapping[str, Mapping[str, Any]]) -> Looking:
    """``look`` where the comparisons, image minus arm as ``metrics.compare`` gives them, are known already."""
    reliance = {}
    for name in WITHOUT_PICTURE:
        if name in against:
            found = against[name]["greedy"]
            reliance[name] = Reliance(found["mean_difference"], tuple(found["ci95"]), found["p"], statuses(arms[name])["answered"])
    deciding = [name for name in DECIDING if name in reliance]
    if not deciding:
        return Looking(NOT_TESTED, "It was asked with its own pictures only; ask it without them (arm “blank”).", reliance, None)
    kept_under = {name: _kept(_of(arms["image"], arms[name]), reliance[name].difference) for name in deciding}
    most = max(kept_under, key=lambda name: kept_under[name] or 0.0)
    kept = None if None in kept_under.values() else kept_under[most]
    level = level_of([reliance[name].ci95[0] for name in deciding], kept)
    sentence = _sentence(level, {name: reliance[name] for name in deciding}, most, kept)
    return Looking(level, sentence + _caution(arms, reliance), reliance, kept)


def _kept(asked: Sequence[Sample], difference: float) -> float | None:
    """What remains of the lead over chance, as a share of it; None without a lead."""
    ahead = arm_table(asked)["mean"] - chance(asked)["mean"]
    return (ahead - difference) / ahead if ahead > 0 else None


def level_of(lows: Sequence[float], kept: float | None) -> str:
    """The rule: the lower bounds of image minus each deciding arm, and the share of the lead that is kept.

    | lower bounds | kept | level |
    >>> level_of([0.12], 0.1), level_of([0.12], 0.5), level_of([0.12], 0.51)
    ('looks', 'looks', 'leans on the text')
    >>> level_of([0.0], 0.1), level_of([0.12, -0.01], 0.1), level_of([0.12], None)      # None: no lead over chance
    ('not shown to look', 'not shown to look', 'not shown to look')
    """
    if kept is None or min(lows) <= 0:
        return NOT_SHOWN
    return LEANS if kept > 0.5 else LOOKS


def _of(samples: Sequence[Sample], others: Sequence[Sample]) -> list[Sample]:
    ids = {s.id for s in others}
    return [s for s in samples if s.id in ids]


def _sentence(level: str, reliance: Mapping[str, Reliance], most: str, kept: float | None) -> str:
    said = [f"{points(r.difference)} points ({interval(r.ci95, signed=True)}) over {SHOWN[name]}" for name, r in reliance.items()]
    numbers = " and ".join(said)
    if level == LOOKS:
        return f"Its own picture is worth {numbers}."
    if level == LEANS:
        return f"With {SHOWN[most]} it keeps {100 * kept:.0f} % of its lead over chance; its own is worth {numbers}."
    if kept is None:
        return f"It is not ahead of chance; its own picture is worth {numbers}."
    does_harm = any(r.ci95[1] < 0 for r in reliance.values())
    return f"It is right more often without its own picture: {numbers}." if does_harm else f"Its own picture makes no clear difference: {numbers}."


def _caution(arms: Arms, reliance: Mapping[str, Reliance]) -> str:
    """A model that refuses without a picture loses accuracy too, and that is not sight."""
    usual = statuses(arms["image"])["answered"]
    silent = {SHOWN[name]: r.answered for name, r in reliance.items() if r.answered < _MUST_ANSWER * usual}
    said = " But with {} it gives an answer to {:.0f} % only: silence is no proof of sight."
    return "".join(said.format(shown, 100 * share) for shown, share in silent.items())
