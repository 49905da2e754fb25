"""Does the answer go by the thought? What the thought names, beside what was answered, as written and when it is changed."""

from collections.abc import Sequence
from typing import Any

from medvlm_r1.evaluation.measuring.metrics import compare, overall
from medvlm_r1.evaluation.measuring.share import share
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.reasoning import parse
from medvlm_r1.rewards.naming import contradicted, named_last


def agreement(samples: Sequence[Sample]) -> dict[str, Any]:
    """Of the greedy answers whose thought names an option: the share that is this option.

    ``n`` + ``names_none`` + ``no_thought`` are all samples with a letter.
    """
    thoughts = [(sample, parse(sample.text, len(sample.options)).think) for sample in samples if sample.answer]
    names = [(sample, name) for sample, thought in thoughts if (name := named_last(thought, sample.options))]
    found = share([sample.answer == name for sample, name in names], [sample for sample, _ in names])
    silent = sum(not thought for _, thought in thoughts)
    return {
        "n": found["n"],
        "agrees": found["share"],
        "ci95": found["ci95"],
        "names_none": len(thoughts) - len(names) - silent,
        "no_thought": silent,
    }


def thought_effect(own: Sequence[Sample], changed: Sequence[Sample]) -> dict[str, Any]:
    """The same questions and pictures, answered after the model's own thought and after a changed one.

    The texts of ``changed`` begin with the thought that was forced. Results ``own`` and ``other`` are greedy
    accuracies, means over modalities, ``difference`` is other − own. ``unchanged`` is the share of
    questions with the same letter (or none) as before. ``follows`` looks where it can show: at
    questions whose changed thought names another option than was answered first; the share that
    now answers what it names, and the share that ``keeps`` the first answer. ``own`` may hold more
    questions: those without a thought have none to change. Questions of which an answer could not be
    had are left out. Raises DataError where ``own`` lacks one, or none is left.
    """
    lost = {s.id for s in (*own, *changed) if s.status == "failed"}
    changed = [s for s in changed if s.id not in lost]
    ids = {s.id for s in changed}
    own = [s for s in own if s.id in ids]
    difference = compare(changed, own)["greedy"]
    first = {s.id: s.answer for s in own}
    named_in = [(s, named_last(parse(s.text, len(s.options)).think, s.options)) for s in changed]
    apart = [(s, name) for s, name in named_in if name and first[s.id] and name != first[s.id]]
    where = [s for s, _ in apart]
    return {
        "n": len(changed),
        "own": overall(own)["accuracy"],
        "other": overall(changed)["accuracy"],
        "difference": difference,
        "unchanged": share([s.answer == first[s.id] for s in changed], changed),
        "follows": share([s.answer == name for s, name in apart], where),
        "keeps": share([s.answer == first[s.id] for s in where], where),
    }


def contradictions(samples: Sequence[Sample]) -> dict[str, Any]:
    """Of all greedy answers: the share that is another option than their thought names, and the accuracy with and without them.

    A reader is warned of these and shown no answer (``rollout.told``). ``accuracy_without`` is None where nothing else is left.
    """
    answered = [sample for sample in samples if sample.answer]
    warned = [bool(contradicted(parse(s.text, len(s.options)).think, s.answer, s.options)) for s in answered]
    found, kept = share(warned, answered), [s.correct for s, is_warned in zip(answered, warned, strict=True) if not is_warned]
    return {
        "n": found["n"],
        "contradicted": found["share"],
        "ci95": found["ci95"],
        "accuracy": sum(s.correct for s in answered) / len(answered) if answered else None,
        "accuracy_without": sum(kept) / len(kept) if kept else None,
    }
