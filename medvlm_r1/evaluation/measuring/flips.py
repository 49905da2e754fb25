"""One fact of the picture has changed: do the answer and the reasoning go along?"""

from collections.abc import Sequence
from typing import Any

from medvlm_r1.data.phantom.scene import Scene
from medvlm_r1.errors import DataError
from medvlm_r1.evaluation.measuring.claims import check, is_about_screen, shown
from medvlm_r1.evaluation.measuring.share import share
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.reasoning import parse


def flips(before: Sequence[Sample], after: Sequence[Sample]) -> dict[str, Any]:
    """What became of the answers that were right before the picture changed.

    ``after`` are answers about counterfactual pictures, ``before`` about the first ones, of the same questions
    and perhaps more. The answer ``follows`` (is what is right now), ``sticks`` (is what was right) or is
    ``other``, which includes unread, not those that could not be had. The thought ``changes`` if one character does, ``names_new`` if it makes a
    claim that the new picture confirms and the first refutes, ``names_old`` if the other way round; it may do
    both. ``chance`` is what guessing would follow, the mean of 1/k; ``by_question_type`` has the share that follows.
    Raises DataError if the questions do not fit.
    """
    there = [(b, a) for b, a in _pairs(before, after) if "failed" not in (b.status, a.status)]
    pairs = [(b, a) for b, a in there if b.correct]
    samples = [b for b, _ in pairs]
    thoughts = [(_thought(b), _thought(a)) for b, a in pairs]
    scenes = [(shown(b), shown(a)) for b, a in pairs]
    news = [_names(a, new, old) for (_, a), (old, new) in zip(pairs, scenes, strict=True)]
    olds = [_names(a, old, new) for (_, a), (old, new) in zip(pairs, scenes, strict=True)]
    follows, sticks = [a.correct for _, a in pairs], [a.answer == b.gold for b, a in pairs]
    kinds = list(dict.fromkeys(b.question_type for b in samples))
    return {
        "n": len(there),
        "n_right_before": len(pairs),
        "follows": share(follows, samples),
        "sticks": share(sticks, samples),
        "other": share([not (x or y) for x, y in zip(follows, sticks, strict=True)], samples),
        "chance": sum(1 / len(s.options) for s in samples) / len(samples) if samples else None,
        "thought": {
            "changes": share([x != y for x, y in thoughts], samples),
            "names_new": share(news, samples),
            "names_old": share(olds, samples),
        },
        "by_question_type": {kind: _part(kind, follows, samples) for kind in kinds},
    }


def _part(kind: str, hits: Sequence[bool], samples: Sequence[Sample]) -> dict[str, Any]:
    few = [(hit, s) for hit, s in zip(hits, samples, strict=True) if s.question_type == kind]
    return share([hit for hit, _ in few], [s for _, s in few])


def _thought(sample: Sample) -> str:
    return parse(sample.text, len(sample.options)).think


def _names(sample: Sample, this: Scene | None, other: Scene | None) -> bool:
    """Whether a thought claims something that one scene confirms and the other refutes."""
    if this is None or other is None:
        return False
    said, on_screen = _thought(sample), is_about_screen(sample)
    return any(x.confirmed and not y.confirmed for x, y in zip(check(said, this, on_screen), check(said, other, on_screen), strict=True))


def _pairs(before: Sequence[Sample], after: Sequence[Sample]) -> list[tuple[Sample, Sample]]:
    first = {s.id: s for s in before}
    for s in after:
        if s.id not in first:
            raise DataError(f'"{s.id}" was asked about the changed picture only; evaluate the image arm on the same questions')
        if s.options != first[s.id].options or s.gold == first[s.id].gold:
            raise DataError(f'"{s.id}" has other options, or the same answer, on the changed picture; evaluate both arms again')
    return [(first[s.id], s) for s in after]
