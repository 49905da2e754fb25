"""What a model loses in one modality when its picture is taken away or changed, beside all that a reader must know to believe it. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from medvlm_r1.evaluation.measuring.clusters import cluster_mean, cluster_share
from medvlm_r1.evaluation.measuring.metrics import per_question
from medvlm_r1.evaluation.measuring.statistics import Estimate, holm
from medvlm_r1.evaluation.samples import Sample

SIGNIFICANT = 0.05
ASKED_AT_LEAST = 0.9  # of a modality's questions; fewer may be other questions
ANSWERS_AT_LEAST = 0.9  # of what it answers with its picture; below, a fall of accuracy may be mere refusal
SHOW_ANOTHER_AT_LEAST = 0.5  # of the other pictures; where most show the same answer, nothing need change


@dataclass(frozen=True)
class Reliance:
    """Greedy accuracy with the own picture minus accuracy under an arm, on n questions of so many patients.

    ``asked``: share of the modality's questions that both arms could ask; ``answered``: of the arm's answers that
    were read; ``another``: of the other pictures, those known to show another answer (None: own pictures). The difference and ``kept`` (what
    remains of the lead over chance) are of ``judged_on`` "all" questions or those "answered in both", whichever speaks less for sight.
    ``p`` is adjusted over modalities (Holm). ``weakness``: why it decides nothing, or "".

    >>> Reliance(0.413, (0.374, 0.452), 0.0002, answered=1.0).is_clear
    True
    """

    difference: float
    ci95: tuple[float, float] | None
    p: float
    answered: float
    asked: float = 1.0
    another: float | None = None
    kept: float | None = None
    kept_ci95: tuple[float, float] | None = None
    n: int = 0
    groups: int = 0
    judged_on: str = "all"
    weakness: str = ""

    @property
    def is_clear(self) -> bool:
        """Both interval and p must say so."""
        return self.ci95 is not None and self.ci95[0] > 0 and self.p < SIGNIFICANT

    @property
    def is_harmful(self) -> bool:
        """It is right more often without its own picture."""
        return self.ci95 is not None and self.ci95[1] < 0

    @property
    def can_show(self) -> bool:
        """Whether so few patients could ever reach significance: with G of them no p falls below 2 / 2**G."""
        return 2 / 2**self.groups < SIGNIFICANT

    @property
    def strength(self) -> tuple[bool, bool, float, float]:
        """What speaks for sight, to be compared: clear, ahead of chance, little kept, a large difference."""
        return self.is_clear, self.kept is not None, -(self.kept or 0.0), self.difference


def another_answer(image: Sequence[Sample], other: Sequence[Sample]) -> dict[str, bool | None]:
    """Id -> whether the picture that was shown instead has another answer to this kind of question; None where nobody asked it that.

    Known from the questions that were asked about that picture.

    >>> q = Sample("q1", "ct", "plane", "", "Plane?", ("axial", "coronal"), "A", ("1.png",), "image", "", "A", "answered", True, 1)
    >>> asked = [q, replace(q, id="q2", images=("2.png",)), replace(q, id="q3", images=("3.png",), gold="B")]
    >>> another_answer(asked, [replace(q, images=("2.png",)), replace(q, id="q2", images=("3.png",))])
    {'q1': False, 'q2': True}
    """
    shown: dict[tuple[str, ...], dict[tuple[str, str], set[str]]] = {}
    for s in image:
        shown.setdefault(s.images, {}).setdefault(_kind(s), set()).add(s.gold_text)
    found: dict[str, bool | None] = {}
    for s in other:
        answers = shown.get(s.images, {}).get(_kind(s))
        found[s.id] = None if answers is None else s.gold_text not in answers
    return found


def _kind(sample: Sample) -> tuple[str, str]:
    return sample.modality, sample.question_type or sample.question


def reliances(image: Sequence[Sample], other: Sequence[Sample], is_elsewhere: bool) -> dict[str, Reliance]:
    """Modality -> what the arm ``other`` shows; {} for modalities of which it could ask nothing. ``is_elsewhere``: it shows another's picture."""
    known = another_answer(image, other) if is_elsewhere else {}
    modalities = dict.fromkeys(s.modality for s in image)
    views: dict[str, list[Reliance]] = {"all": [], "answered in both": []}
    there = []
    for modality in modalities:
        own, without = ([s for s in side if s.modality == modality] for side in (image, other))
        pair = _views(own, without, known if is_elsewhere else None)
        if pair:
            there.append(modality)
            for one in pair:
                views[one.judged_on].append(one)
    adjusted = [[replace(one, p=p) for one, p in zip(view, holm([one.p for one in view]), strict=True)] for view in views.values()]
    return {modality: min(both, key=lambda one: one.strength) for modality, both in zip(there, zip(*adjusted, strict=True), strict=True)}


def _views(own: Sequence[Sample], without: Sequence[Sample], known: Mapping[str, bool | None] | None) -> tuple[Reliance, Reliance] | None:
    """On all questions, and on those that were answered in both arms; None where no question could be compared."""
    failed = {s.id for s in (*own, *without) if s.status == "failed"}
    alive = {s.id for s in own} - failed
    both = {s.id for s in without} & alive
    judged = both if known is None else {id for id in both if known[id] is not False}
    if not both:
        return None
    mute = {s.id for s in (*own, *without) if s.status != "answered"}
    answered, usual = (_share(s.status == "answered" for s in side if s.id in both) for side in (without, own))
    another = None if known is None else _share(known[id] is True for id in both)
    told = Reliance(0.0, None, 1.0, answered, len(both) / len(alive), another)
    weakness = _weakness(told, usual, len(judged) / len(both))
    first = _measured(told, own, without, judged or both)
    second = _measured(told, own, without, (judged or both) - mute) if mute & judged else first
    return replace(first, weakness=weakness), replace(second, weakness=weakness, judged_on="answered in both")


def _weakness(told: Reliance, usual: float, judged: float) -> str:
    if told.asked < ASKED_AT_LEAST:
        return f"could be asked of {100 * told.asked:.0f} % of the questions only"
    if told.answered < ANSWERS_AT_LEAST * usual:
        return f"is answered in {100 * told.answered:.0f} % only, and silence is no proof of sight"
    if judged < SHOW_ANOTHER_AT_LEAST:
        return f"mostly shows the same answer (another in {100 * (told.another or 0):.0f} %)"
    return ""


def _measured(told: Reliance, own: Sequence[Sample], without: Sequence[Sample], ids: set[str]) -> Reliance:
    if not ids:
        return told
    asked, right = per_question([s for s in own if s.id in ids], lambda s: float(s.correct))
    left = dict(zip(*_by_id(without, ids), strict=True))
    groups = [s.cluster for s in asked]
    found = cluster_mean([value - left[s.id] for s, value in zip(asked, right, strict=True)], groups)
    ahead = [value - 1 / len(s.options) for s, value in zip(asked, right, strict=True)]
    kept = _kept([left[s.id] - 1 / len(s.options) for s in asked], ahead, groups)
    interval, kept_ci95 = ((e.low, e.high) if e and e.ci95 else None for e in (found, kept))
    p = 1.0 if found.p is None else found.p
    return replace(
        told, difference=found.value, ci95=interval, p=p, kept=kept.value if kept else None, kept_ci95=kept_ci95, n=len(asked), groups=len(set(groups))
    )


def _by_id(samples: Sequence[Sample], ids: set[str]) -> tuple[list[str], list[float]]:
    firsts, right = per_question([s for s in samples if s.id in ids], lambda s: float(s.correct))
    return [s.id for s in firsts], right


def _kept(left: Sequence[float], ahead: Sequence[float], groups: Sequence[str]) -> Estimate | None:
    """What remains of the lead over chance; None without a lead."""
    return cluster_share(left, ahead, groups, [0] * len(groups)) if sum(ahead) > 0 else None


def _share(hits: Iterable[bool]) -> float:
    listed = list(hits)
    return sum(listed) / len(listed) if listed else 0.0
