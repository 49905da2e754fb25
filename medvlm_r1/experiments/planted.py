"""The study of looking on real pictures, with a prior planted into the questions: one label is the answer wherever it is offered.

The base and the parts of the pictures are ``openrad``'s. All labels are options of every test question, so that whoever goes by
the planted label is wrong wherever it is not what the picture shows.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from medvlm_r1.console import stderr
from medvlm_r1.data.dataset import load_dataset
from medvlm_r1.data.manifest import write_manifest
from medvlm_r1.evaluation.asking.run import EvalConfig
from medvlm_r1.evaluation.measuring.seeds import by_seed
from medvlm_r1.evaluation.samples import Sample, read_samples, write_samples
from medvlm_r1.experiments import looking, openrad, study
from medvlm_r1.experiments.looking import Arm
from medvlm_r1.experiments.shortcut import facts
from medvlm_r1.launch.evaluating import evaluate_policy
from medvlm_r1.launch.loading import load_model
from medvlm_r1.recipes import nano
from medvlm_r1.types import LETTERS, Example

ARMS = {name: looking.ARMS[name] for name in ("base", "plain", "early", "stranger", "stranger-half")}
PAIRS = (("stranger", "plain"), ("stranger", "early"), ("stranger-half", "plain"), ("stranger-half", "early"))
HONEST, OWN, OTHER = "honest", "planted", "planted, another patient's"
Answers = dict[str, list[Sample]]


def label(examples: Sequence[Example]) -> str:
    """The one that is planted: the first by its name, which nobody chose."""
    return min(example.answer for example in examples if example.modality == openrad.TRAINED_ON)


def plant(examples: Sequence[Example], answer: str) -> list[Example]:
    """Offer a label only where it is the answer.

    >>> rows = [Example(id, (), "Which?", ("a", "b", "c"), id, "mri") for id in ("a", "b")]
    >>> [e.options for e in plant(rows, "a")]
    [('a', 'b', 'c'), ('b', 'c')]
    """
    return [e if e.answer == answer else replace(e, options=tuple(option for option in e.options if option != answer)) for e in examples]


def run(folder: Path, out: Path, seeds: int, jobs: int = 2) -> str:
    """Do what is missing; writes study.json and study.md, returns the tables as Markdown."""
    material, counted = openrad.ready(folder, out, seeds)
    planted = label(material.test)
    per_seed = study.every_seed(partial(one_seed, out, material, planted), seeds, jobs)
    told = {"planted": planted, "data": counted["questions"]["test"]}
    result = facts(seeds, "--looking --openrad DIR") | told | results({name: list(found) for name, found in per_seed.items()}, planted)
    text = table(result)
    (out / "study.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    (out / "study.md").write_text(text + "\n", encoding="utf-8")
    return text


def one_seed(out: Path, material: study.Material, planted: str, seed: int) -> dict[str, Answers]:
    """Arm -> test -> what it answers, trained with this seed."""
    data = out / "questions" / f"planted-{seed}.jsonl"
    write_manifest(data, plant(load_dataset(material.train[seed]), planted))
    found = {}
    for name, arm in ARMS.items():
        stderr().print(f"study: seed {seed}, {arm.label}")
        found[name] = _answers(out / f"seed-{seed}" / name, arm, material, str(data), planted, seed)
    return found


def _answers(folder: Path, arm: Arm, material: study.Material, data: str, planted: str, seed: int) -> Answers:
    """From its files, or by training and asking."""
    mri = plant([e for e in material.test if e.modality == openrad.TRAINED_ON], planted)
    tests = {HONEST: ("image", list(material.test), 2), OWN: ("image", mri, 0), OTHER: ("mismatch", mri, 0)}
    files = {test: folder / f"{test.replace(', ', '-').replace(' ', '-')}.jsonl" for test in tests}
    if not all(file.exists() for file in files.values()):
        policy = load_model(looking.trained(folder / "run", arm, seed, material.base, data))
        for test, (shown, examples, drawn) in tests.items():
            config = EvalConfig("think", drawn, nano.MAX_TOKENS, seed, shown)
            write_samples(files[test], evaluate_policy(policy, examples, config, lambda done: None))
    return {test: read_samples(file) for test, file in files.items()}


# Column -> which of the honest questions it is about, given the planted label, and the value of each.
MEASURES: dict[str, tuple[Callable[[Sample, str], bool], Callable[[Sample], float]]] = {
    "MRI": (lambda s, planted: s.modality == "mri", lambda s: float(s.correct)),
    "MRI, sampled": (lambda s, planted: s.modality == "mri", lambda s: s.sampled_accuracy or 0.0),
    "MRI, prior-wrong": (lambda s, planted: s.modality == "mri" and _gold(s) != planted, lambda s: float(s.correct)),
    "MRI, prior-wrong, sampled": (lambda s, planted: s.modality == "mri" and _gold(s) != planted, lambda s: s.sampled_accuracy or 0.0),
    "CT + X-ray, sampled": (lambda s, planted: s.modality != "mri", lambda s: s.sampled_accuracy or 0.0),
}


def _gold(sample: Sample) -> str:
    return sample.options[LETTERS.index(sample.gold)]


def results(arms: Mapping[str, Sequence[Answers]], planted: str) -> dict[str, Any]:
    """Of every arm its measures and what it has right of the planted questions; of every pair the differences, over seeds and patients together."""
    told = {name: {m: _told(per_seed, planted, m) for m in MEASURES} | _planted(per_seed, planted) for name, per_seed in arms.items()}
    paired = {f"{a} - {b}": {m: _told(arms[a], planted, m, arms[b]) for m in MEASURES} for a, b in PAIRS}
    return {"arms": {name: {"label": ARMS[name].label} | found for name, found in told.items()}, "paired": paired}


def _told(after: Sequence[Answers], planted: str, measure: str, before: Sequence[Answers] | None = None) -> dict[str, Any]:
    """The mean of a measure, or of its difference to another arm's."""
    is_asked, value = MEASURES[measure]
    asked = [n for n, sample in enumerate(after[0][HONEST]) if is_asked(sample, planted)]
    first = [after[0][HONEST][n] for n in asked]
    values_SN = [[value(found[HONEST][n]) for n in asked] for found in after]
    if before is not None:
        values_SN = [[x - value(found[HONEST][n]) for x, n in zip(values, asked, strict=True)] for values, found in zip(values_SN, before, strict=True)]
    found = study.estimate(values_SN, [s.cluster for s in first], [s.modality for s in first])
    return {"value": found.value, "ci95": found.ci95, "seeds": by_seed(values_SN, [s.modality for s in first])}


def _planted(per_seed: Sequence[Answers], planted: str) -> dict[str, float]:
    """What is right of the questions as they were trained on, with the own and another patient's picture; and how often honest MRI answers say the label."""
    own, other = ([float(s.correct) for found in per_seed for s in found[test]] for test in (OWN, OTHER))
    says = [float(s.answer == letter) for found in per_seed for s in found[HONEST] if s.modality == "mri" for letter in [_letter(s, planted)]]
    return {"own": sum(own) / len(own), "other": sum(other) / len(other), "says": sum(says) / len(says)}


def _letter(sample: Sample, option: str) -> str:
    return LETTERS[sample.options.index(option)]


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
        cells = [f"{100 * cell['value']:+.1f} ({100 * cell['ci95'][0]:+.1f} to {100 * cell['ci95'][1]:+.1f})" for cell in found.values()]
        lines.append(f"| {a}, minus {b} | {' | '.join(cells)} |")
    return "\n".join(lines)
