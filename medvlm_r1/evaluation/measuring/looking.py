"""Does a model look at its picture? One rule for each modality, and the sentences that say what was found.

A model may be right for the wrong reason: option texts that give the answer away
are enough for any accuracy. So the same questions are asked with a picture that
tells nothing (arm "blank") or something else (arm "mismatch"), and accuracy must fall.
One of them is not enough: a grey picture is strange to a model that has seen none, so that accuracy
falls although the picture was not read; another question's is not strange. A mean over modalities is
not enough either: what is seen in one would answer for all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medvlm_r1.evaluation.measuring.metrics import Arms, comparable, compare, statuses
from medvlm_r1.evaluation.measuring.reliance import Reliance, reliances
from medvlm_r1.evaluation.measuring.rereading import STRICT_2, outside_tags, reread
from medvlm_r1.reasoning import EXTRACTION
from medvlm_r1.wording import interval, modality_name, points

LOOKS, PARTLY, LEANS = "looks", "looks in part", "leans on the text"
UNCLEAR, NOT_SHOWN, NOT_TESTED = "unclear", "not shown to look", "not tested"
WITHOUT_PICTURE = ("blank", "noise", "mismatch")
DECIDING = ("blank", "mismatch")  # noise is reported and does not decide: some models see a texture as a finding
CROPPED = "crop"  # nothing is lost to who looks, all to who knows the picture by heart
SHOWN = {"blank": "a grey picture", "noise": "noise", "mismatch": "another question's picture", "crop": "its own picture cropped"}
LITTLE = 0.05

RULE = (
    "For each modality apart, by greedy answers: “looks” if it is right more often with its own picture than with a grey one, and than with the picture of another "
    "question (of another patient where patients are named; pictures known to show the same answer are not counted): p below 0.05 after Holm's adjustment over modalities, "
    "the 95 % intervals of the differences above 0, whole patients moved where they are named; and with neither does it keep half of its lead over chance. All this on all questions and on "
    "those answered in both arms; the worse counts. “Leans on the text”: so it is, but with one of them it keeps more than half of its lead. “Not shown”: a difference is not clear, or it is not ahead of chance. "
    "“Unclear”: the interval of what it keeps includes one half; only one of the two arms decides (an arm must ask 90 % of a modality's questions and be answered nine tenths as often); there are too few patients for any p below "
    "0.05; strict-1 and strict-2 read two verdicts; or it does not keep half of its lead when its own picture is cropped by a little and encoded again (arm “crop”), as if it knew the pictures by heart. “Not tested”: neither arm "
    "could decide. A memory for pictures, or for the style of one hospital, that survives this crop is not told from sight. A model that was trained under one of the two arms is judged by noise in its place: what it was taught there proves nothing."
)


@dataclass(frozen=True)
class Looking:
    """The level, its sentence, and the numbers behind both.

    ``words`` is the level with modalities and size; ``lines`` says of each modality all that its verdict rests on.
    ``reliance`` is over all modalities together, as it stands beside accuracies; ``kept`` the largest share of the lead
    over chance that a deciding arm keeps in any modality. ``unread`` is the share of its answers without a letter by each rule.
    ``trained_under``: the arms that its training showed it, which decide nothing.

    >>> Looking("not tested", "It was asked with its own pictures only.", {}).words
    'not tested'
    """

    level: str
    sentence: str
    reliance: dict[str, Reliance]
    kept: float | None = None
    kept_ci95: tuple[float, float] | None = None
    words: str = ""
    modalities: dict[str, "Modality"] = field(default_factory=dict)
    unread: dict[str, float] = field(default_factory=dict)
    trained_under: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", self.words or self.level)


@dataclass(frozen=True)
class Modality:
    """The verdict in one modality; ``why`` says what keeps it from being clear, ``line`` all of it, ``by_rule`` the level by each way of reading."""

    level: str
    why: str
    reliance: dict[str, Reliance]
    by_rule: dict[str, str] = field(default_factory=dict)
    line: str = ""
    wanted: tuple[str, ...] = DECIDING

    @property
    def deciding(self) -> dict[str, Reliance]:
        """The arms that count, of which there may be none."""
        return {arm: self.reliance[arm] for arm in self.wanted if arm in self.reliance and not self.reliance[arm].weakness}

    @property
    def worth(self) -> float:
        """Points that the own picture is worth at least."""
        return min((r.difference for r in self.deciding.values()), default=0.0)


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
    told = {name: _told(against[name]["greedy"], statuses(arms[name])["answered"]) for name in WITHOUT_PICTURE if name in against}
    again = {name: reread(arms[name]) for name in ("image", *WITHOUT_PICTURE, CROPPED) if name in arms}
    wanted = deciding_arms(trained_under)
    found, by_other = _modalities(arms, wanted), None
    if any(again[name] != arms[name] for name in again):
        by_other = _modalities(again, wanted)
    unread = {
        EXTRACTION: 1 - statuses(arms["image"])["answered"],
        STRICT_2: 1 - statuses(again["image"])["answered"],
        "outside tags": outside_tags(arms["image"]),
    }
    each = {m: _whole(m, one, by_other[m].level if by_other else one.level) for m, one in found.items()}
    level = level_of_all([one.level for one in each.values()])
    arms_kept = [r for one in each.values() for r in one.deciding.values() if r.kept is not None and r.kept_ci95]
    most = max(arms_kept, key=lambda r: r.kept or 0.0, default=None)
    words = _words(level, each)
    taught = [SHOWN[name] for name in trained_under if name in SHOWN]
    besides = f" It was trained with {' and '.join(taught)}, too, which therefore decides nothing." if taught else ""
    return Looking(
        level, _sentence(each) + besides, told, most.kept if most else None, most.kept_ci95 if most else None, words, each, unread, tuple(trained_under)
    )


def _told(found: Mapping[str, Any], answered: float) -> Reliance:
    return Reliance(found["mean_difference"], found["ci95"] and tuple(found["ci95"]), found["p"], answered, n=0)


def _modalities(arms: Arms, wanted: tuple[str, ...]) -> dict[str, Modality]:
    by_arm = {arm: reliances(arms["image"], arms[arm], arm == "mismatch") for arm in (*wanted, CROPPED) if arm in arms}
    return {m: _judged({arm: found[m] for arm, found in by_arm.items() if m in found}, wanted) for m in dict.fromkeys(s.modality for s in arms["image"])}


def _judged(found: dict[str, Reliance], wanted: tuple[str, ...]) -> Modality:
    one = Modality("", "", found, wanted=wanted)
    level, why = level_of(list(one.deciding.values()))
    weak = [f"{SHOWN[arm]} {found[arm].weakness}" if arm in found else f"it was not asked with {SHOWN[arm]}" for arm in wanted if arm not in one.deciding]
    if level == NOT_TESTED:
        return Modality(level, "; ".join(weak), found, wanted=wanted)
    cropped = found.get(CROPPED)
    if level in (LOOKS, LEANS) and cropped and not cropped.weakness and (cropped.kept_ci95 is None or cropped.kept_ci95[0] < 0.5):
        level, why = (
            UNCLEAR,
            f"of its lead over chance it keeps {_kept(cropped)} when its own picture is cropped a little and encoded again: it may know the pictures by heart",
        )
    if level == LOOKS and weak:
        level, why = UNCLEAR, "; ".join(weak)
    return Modality(level, why or "; ".join(weak), found, wanted=wanted)


def level_of(found: list[Reliance]) -> tuple[str, str]:
    """The rule over the deciding arms of one modality, and why it is no other.

    >>> def arm(difference, low, high, kept, groups=100): return Reliance(difference, (low, high), 0.001 if low > 0 else 0.5, 1.0, kept=kept[1], kept_ci95=kept[::2], groups=groups)
    >>> level_of([arm(0.4, 0.3, 0.5, (0, 0.1, 0.3)), arm(0.3, 0.2, 0.4, (0, 0.2, 0.4))])
    ('looks', '')
    >>> level_of([arm(0.4, 0.3, 0.5, (0, 0.1, 0.3)), arm(0.1, 0.05, 0.2, (0.6, 0.7, 0.8))])[0]
    'leans on the text'
    >>> level_of([arm(0.4, 0.3, 0.5, (0, 0.1, 0.3)), arm(0.2, 0.1, 0.3, (0.3, 0.45, 0.6))])
    ('unclear', 'what it keeps of its lead over chance without its picture, 45 % (30–60), may be more than half or less')
    >>> level_of([arm(0.01, -0.03, 0.05, (0.8, 0.9, 1))])[0], level_of([])[0]
    ('not shown to look', 'not tested')
    >>> level_of([arm(0.8, 0.4, 1, (0, 0, 0.3), groups=5)])
    ('unclear', 'with 5 patients no p can fall below 0.0625, so nothing can be shown')
    """
    if not found:
        return NOT_TESTED, ""
    fewest = min(found, key=lambda r: r.groups)
    if any(r.ci95 is None for r in found):
        return UNCLEAR, "fewer than three patients show nothing"
    if not fewest.can_show:
        return UNCLEAR, f"with {fewest.groups} patients no p can fall below {2 / 2**fewest.groups:.4g}, so nothing can be shown"
    if any(r.kept is None for r in found):
        return NOT_SHOWN, "it is not ahead of chance"
    if any(r.is_harmful for r in found):
        return NOT_SHOWN, "it is right more often without its own picture"
    if not all(r.is_clear for r in found):
        return NOT_SHOWN, "its own picture makes no clear difference"
    kept = max(found, key=lambda r: r.kept or 0.0)
    low, high = kept.kept_ci95 or (0.0, 1.0)
    if low > 0.5:
        return LEANS, f"without its picture it keeps {_kept(kept)} of its lead over chance"
    if high < 0.5:
        return LOOKS, ""
    return UNCLEAR, f"what it keeps of its lead over chance without its picture, {_kept(kept)}, may be more than half or less"


def level_of_all(levels: list[str]) -> str:
    """One level over modalities: the one that all have, "looks in part" where some look, else the worst.

    >>> level_of_all([LOOKS, LOOKS]), level_of_all([LOOKS, UNCLEAR, NOT_SHOWN]), level_of_all([LEANS, NOT_SHOWN])
    ('looks', 'looks in part', 'not shown to look')
    """
    if LOOKS in levels:
        return LOOKS if set(levels) == {LOOKS} else PARTLY
    return next((level for level in (NOT_SHOWN, LEANS, UNCLEAR) if level in levels), NOT_TESTED)


def _whole(modality: str, one: Modality, by_other: str) -> Modality:
    """The modality under both ways of reading, with its line."""
    level, why, by_rule = one.level, one.why, {EXTRACTION: one.level, STRICT_2: by_other}
    if by_other != one.level:
        level, why = UNCLEAR, f"“{one.level}” as read by {EXTRACTION}, “{by_other}” as read by {STRICT_2}"
    numbers = ", ".join(_arm_line(arm, r) for arm, r in one.reliance.items())
    sizes = dict.fromkeys(f"{r.n:,} questions of {r.groups:,} patient{'s' if r.groups != 1 else ''}" for r in one.reliance.values())
    line = f"{modality_name(modality)}: {level}{f' ({why})' if why else ''}{'. ' if numbers else ''}{numbers}{'; ' if sizes else ''}{' or '.join(sizes)}"
    return Modality(level, why, one.reliance, by_rule, f"{line}.", one.wanted)


def _arm_line(arm: str, r: Reliance) -> str:
    kept = f"keeps {_kept(r)} of its lead" if r.kept is not None else "no lead over chance"
    beside = [kept, f"answers {100 * r.answered:.0f} %"]
    beside += [] if r.another is None else [f"{100 * r.another:.0f} % known to show another answer"]
    beside += ["of those answered in both"] if r.judged_on != "all" else []
    beside += ["decides nothing"] if r.weakness else []
    return f"{points(r.difference)} points ({interval(r.ci95, signed=True)}) over {SHOWN[arm]} [{', '.join(beside)}]"


def _kept(r: Reliance) -> str:
    return f"{100 * (r.kept or 0.0):.0f} %" + (f" ({100 * r.kept_ci95[0]:.0f}–{100 * r.kept_ci95[1]:.0f})" if r.kept_ci95 else "")


def _words(level: str, each: Mapping[str, Modality]) -> str:
    """Where it looks, where not, and how much it is worth."""
    at: dict[str, list[str]] = {}
    for modality, one in each.items():
        at.setdefault(one.level, []).append(modality_name(modality))
    size = min((one.worth for one in each.values() if one.level == LOOKS), default=0.0)
    worth = f"{points(size)} points" if len(at.get(LOOKS, ())) < 2 else f"{points(size)} points or more"
    a_little = " a little" if size < LITTLE else ""
    if level == LOOKS:
        return f"{LOOKS}{a_little}: {worth}"
    if level == PARTLY:
        others = [f"{', '.join(names)} {'not shown' if other == NOT_SHOWN else other}" for other, names in at.items() if other != LOOKS]
        return f"{LOOKS}{a_little} at {', '.join(at[LOOKS])} ({worth}); {'; '.join(others)}"
    return level if len(at) == 1 else "; ".join(f"{', '.join(names)} {other}" for other, names in at.items())


def _sentence(each: Mapping[str, Modality]) -> str:
    return " ".join(one.line for one in each.values())
