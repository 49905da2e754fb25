"""Ways to answer without a picture that need no training: a favourite letter, the longest option, the commonest answer."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import chi2

from medvlm_r1.audit.prior import by_modality
from medvlm_r1.naming import normal
from medvlm_r1.types import LETTERS, Example

CUES: dict[str, Callable[[str], int]] = {
    "longest": lambda option: len(option.strip()),
    "shortest": lambda option: -len(option.strip()),
    "full_stop": lambda option: option.strip().endswith("."),
}


def positions(examples: Sequence[Example]) -> dict[str, dict[str, Any]]:
    """Per modality how often each letter is the answer, and what always giving the best one earns.

    "expected" are the counts if the answer stood anywhere with equal chance; p is
    of the χ² test against that.

    >>> rows = [Example(f"q{i}", (), "Which?", ("left", "right"), "left" if i < 9 else "right", "mri") for i in range(10)]
    >>> found = positions(rows)["mri"]
    >>> found["counts"], found["expected"], found["best"], found["accuracy"], round(found["p"], 3)
    ({'A': 9, 'B': 1}, {'A': 5.0, 'B': 5.0}, 'A', 0.9, 0.011)
    """
    result = {}
    for modality, part in by_modality(examples).items():
        most = max(len(e.options) for e in part)
        expected = {letter: sum(1 / len(e.options) for e in part if len(e.options) > i) for i, letter in enumerate(LETTERS[:most])}
        found = Counter(e.letter for e in part)
        counts = {letter: found[letter] for letter in expected}
        best = max(counts, key=counts.__getitem__)
        distance = sum((counts[letter] - wanted) ** 2 / wanted for letter, wanted in expected.items())
        result[modality] = {
            "counts": counts,
            "expected": expected,
            "best": best,
            "accuracy": counts[best] / len(part),
            "p": float(chi2.sf(distance, most - 1)),
        }
    return result


def cues(examples: Sequence[Example]) -> dict[str, dict[str, float]]:
    """Per modality the accuracy of always giving the longest option, the shortest, or one that ends in a full stop.

    Options that fit equally well share the credit.

    >>> cues([Example("q1", (), "Finding?", ("a ring-enhancing mass", "cyst", "none."), "cyst", "mri")])
    {'mri': {'longest': 0.0, 'shortest': 1.0, 'full_stop': 0.0}}
    """
    return {modality: {name: float(np.mean([_credit(e, cue) for e in part])) for name, cue in CUES.items()} for modality, part in by_modality(examples).items()}


def _credit(example: Example, cue: Callable[[str], int]) -> float:
    values = [cue(option) for option in example.options]
    best = max(values)
    return (values[example.options.index(example.answer)] == best) / values.count(best)


def never_gold(examples: Sequence[Example]) -> dict[str, dict[str, Any]]:
    """Per modality: distractors that are the answer to no question of any modality, so that knowing the answers rules them out.

    "distractors" and "never_gold" count different texts; "questions" counts the
    questions all of whose distractors are of that kind, of "of".

    >>> e = Example("q1", (), "Plane?", ("axial", "oblique"), "axial", "mri")
    >>> f = Example("q2", (), "Plane?", ("axial", "coronal"), "coronal", "mri")
    >>> never_gold([e, f])
    {'mri': {'distractors': 2, 'never_gold': 1, 'questions': 1, 'of': 2, 'examples': ['oblique']}}
    """
    golds = {normal(e.answer) for e in examples}
    result = {}
    for modality, part in by_modality(examples).items():
        wrong = Counter(normal(option) for e in part for option in e.options if option != e.answer)
        never = [text for text, _ in wrong.most_common() if text not in golds]
        alone = sum(golds.isdisjoint(normal(o) for o in e.options if o != e.answer) for e in part)
        result[modality] = {"distractors": len(wrong), "never_gold": len(never), "questions": alone, "of": len(part), "examples": never[:8]}
    return result


def balance(examples: Sequence[Example]) -> dict[str, dict[str, Any]]:
    """Per modality, free-text questions too: how many different answers there are, and the commonest with its share; by question type too.

    >>> rows = [Example(f"q{i}", (), "Lesion?", ("yes", "no"), "no" if i else "yes", "mri", "abnormal") for i in range(4)]
    >>> balance(rows)["mri"]
    {'n': 4, 'answers': 2, 'commonest': 'no', 'share': 0.75, 'types': {'abnormal': {'n': 4, 'answers': 2, 'commonest': 'no', 'share': 0.75}}}
    """
    parts: dict[str, list[Example]] = {}
    for example in examples:
        parts.setdefault(example.modality, []).append(example)
    result = {}
    for modality, part in parts.items():
        types: dict[str, list[Example]] = {}
        for example in part:
            types.setdefault(example.question_type or "not stated", []).append(example)
        result[modality] = _commonest(part) | {"types": {name: _commonest(few) for name, few in sorted(types.items())}}
    return result


def _commonest(examples: Sequence[Example]) -> dict[str, Any]:
    answers = Counter(normal(e.answer) for e in examples)
    text, n = answers.most_common(1)[0]
    return {"n": len(examples), "answers": len(answers), "commonest": text, "share": n / len(examples)}
