"""The study of looking on real pictures, with a prior planted into the questions: one label is the answer wherever it is offered.

The base and the parts of the pictures are ``openrad``'s. All labels are options of every test question, so that whoever goes by
the planted label is wrong wherever it is not what the picture shows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from medvlm_r1.data.dataset import load_dataset
from medvlm_r1.data.manifest import write_manifest
from medvlm_r1.errors import DataError
from medvlm_r1.evaluation.measuring.rotation import chosen_text
from medvlm_r1.evaluation.measuring.seeds import by_seed
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.experiments import looking, openrad, study
from medvlm_r1.experiments.looking import Questions
from medvlm_r1.experiments.shortcut import facts
from medvlm_r1.types import Example

ARMS = {name: looking.ARMS[name] for name in ("base", "plain", "early", "stranger", "stranger-half")}
PAIRS = (("stranger", "plain"), ("stranger", "early"), ("stranger-half", "plain"), ("stranger-half", "early"))
HONEST, OWN, OTHER = "honest", "planted", "planted-other"
Answers = dict[str, list[Sample]]


def label(examples: Sequence[Example]) -> str:
    """The one that is planted: the first by its name, which nobody chose. Raises DataError where the others would be no choice.

    >>> label([Example(answer, (), "Which?", (), answer, "mri") for answer in "cba"])
    'a'
    """
    names = sorted({example.answer for example in examples if example.modality == openrad.TRAINED_ON})
    if len(names) < 3:
        raise DataError(
            f"{openrad.TRAINED_ON} has {len(names)} labels ({', '.join(names)}): without the one that is planted nothing is left to choose; give three"
        )
    return names[0]


def plant(examples: Sequence[Example], answer: str) -> list[Example]:
    """Offer a label only where it is the answer.

    >>> rows = [Example(id, (), "Which?", ("a", "b", "c"), id, "mri") for id in ("a", "b")]
    >>> [e.options for e in plant(rows, "a")]
    [('a', 'b', 'c'), ('b', 'c')]
    """
    return [e if e.answer == answer else replace(e, options=tuple(option for option in e.options if option != answer)) for e in examples]


def run(folder: Path, out: Path, seeds: int, jobs: int, sizes: openrad.Sizes, steps: int | None = None) -> str:
    """Do what is missing; writes study.json and study.md, returns the tables as Markdown. ``steps``: a trial, so many in every run."""
    material, counted = openrad.ready(folder, out, seeds, sizes)
    planted = label(material.test)
    for seed, train in enumerate(material.train):
        write_manifest(_questions(out, seed), plant(load_dataset(train), planted))
    per_seed = study.every_seed(partial(under_seed, out, material, planted, steps), {name: name for name in ARMS}, seeds, jobs)
    told = {"planted": planted, "data": counted["questions"]["test"]}
    result = facts(seeds, "--looking --openrad DIR") | told | results({name: list(found) for name, found in per_seed.items()}, planted)
    return study.write(out, result, table(result))


def under_seed(out: Path, material: study.Material, planted: str, steps: int | None, seed: int, name: str) -> Answers:
    """Test -> what an arm answers, trained with this seed."""
    mri = plant([e for e in material.test if e.modality == openrad.TRAINED_ON], planted)
    tests = {HONEST: Questions("image", list(material.test), drawn=2), OWN: Questions("image", mri), OTHER: Questions("mismatch", mri)}
    return looking.answers(out / f"seed-{seed}" / name, looking.shortened(ARMS[name], steps), seed, material.base, str(_questions(out, seed)), tests)


def _questions(out: Path, seed: int) -> Path:
    return out / "questions" / f"planted-{seed}.jsonl"


def _is_mri(sample: Sample, planted: str) -> bool:
    return sample.modality == openrad.TRAINED_ON


def _is_misled(sample: Sample, planted: str) -> bool:
    return _is_mri(sample, planted) and sample.gold_text != planted


def _is_other(sample: Sample, planted: str) -> bool:
    return not _is_mri(sample, planted)


def _greedy(sample: Sample) -> float:
    return float(sample.correct)


def _sampled(sample: Sample) -> float:
    return sample.sampled_accuracy or 0.0


# Column -> which of the honest questions it is about, given the planted label, and the value of each.
MEASURES: dict[str, tuple[Callable[[Sample, str], bool], Callable[[Sample], float]]] = {
    "MRI": (_is_mri, _greedy),
    "MRI, sampled": (_is_mri, _sampled),
    "MRI, prior-wrong": (_is_misled, _greedy),
    "MRI, prior-wrong, sampled": (_is_misled, _sampled),
    "CT + X-ray, sampled": (_is_other, _sampled),
}


def results(arms: Mapping[str, Sequence[Answers]], planted: str) -> dict[str, Any]:
    """Of every arm its measures and what it has right of the planted questions; of every pair the differences, over seeds and patients together."""
    told = {name: {m: _told(per_seed, planted, m) for m in MEASURES} | _planted(per_seed, planted) for name, per_seed in arms.items()}
    paired = {f"{a} - {b}": {m: _told(arms[a], planted, m, arms[b]) for m in MEASURES} for a, b in PAIRS}
    return {"arms": {name: {"label": ARMS[name].label} | found for name, found in told.items()}, "paired": paired}


def _told(after: Sequence[Answers], planted: str, measure: str, before: Sequence[Answers] | None = None) -> dict[str, Any]:
    """The mean of a measure, or of its difference to another arm's."""
    is_asked, value = MEASURES[measure]
    values_SN, *others = ([[value(s) for s in found[HONEST] if is_asked(s, planted)] for found in side] for side in (after, before) if side is not None)
    for others_SN in others:
        values_SN = [[x - y for x, y in zip(*of_seed, strict=True)] for of_seed in zip(values_SN, others_SN, strict=True)]
    first = [s for s in after[0][HONEST] if is_asked(s, planted)]
    modalities = [s.modality for s in first]
    found = study.estimate(values_SN, [s.cluster for s in first], modalities)
    return {"value": found.value, "ci95": found.ci95, "seeds": by_seed(values_SN, modalities)}


def _planted(per_seed: Sequence[Answers], planted: str) -> dict[str, float]:
    """What is right of the questions as they were trained on, with the own and another patient's picture; and how often honest MRI answers say the label."""
    own, other = ([_greedy(s) for found in per_seed for s in found[test]] for test in (OWN, OTHER))
    says = [chosen_text(s) == planted for found in per_seed for s in found[HONEST] if _is_mri(s, planted)]
    return {"own": sum(own) / len(own), "other": sum(other) / len(other), "says": sum(says) / len(says)}


def table(result: Mapping[str, Any]) -> str:
    """Markdown: every arm by every measure, then the differences."""
    head = [*MEASURES, f"says {result['planted']} %", "planted: own → other"]
    lines = [f"| | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for arm in result["arms"].values():
        cells = [f"{100 * arm[measure]['value']:.1f}" for measure in MEASURES]
        lines.append(f"| {arm['label']} | {' | '.join(cells)} | {100 * arm['says']:.0f} | {100 * arm['own']:.0f} → {100 * arm['other']:.0f} |")
    lines += ["", f"| | {' | '.join(MEASURES)} |", "|---" * (len(MEASURES) + 1) + "|"]
    for name, found in result["paired"].items():
        a, b = (ARMS[side].label for side in name.split(" - "))
        lines.append(f"| {a}, minus {b} | {' | '.join(study.points(cell['value'], cell['ci95']) for cell in found.values())} |")
    return "\n".join(lines)
