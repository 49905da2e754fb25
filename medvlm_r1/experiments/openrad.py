"""The study on real pictures: a folder of labelled MRI, CT and X-ray images instead of the phantom.

The base goes on learning from the train part of all three modalities; SFT and
GRPO get 600 MRI questions that it has not seen. Tested is what has no twin and
no patient in any training part. ``docs/study.md`` reads the table.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from medvlm_r1.audit.duplicates import twinned
from medvlm_r1.audit.giveaways import groups_cut
from medvlm_r1.audit.prior import text_prior
from medvlm_r1.config import to_dict
from medvlm_r1.console import stderr
from medvlm_r1.data.convert import convert
from medvlm_r1.data.dataset import Dataset, load_dataset
from medvlm_r1.data.images import load_image
from medvlm_r1.data.leak import require_apart
from medvlm_r1.data.manifest import write_manifest
from medvlm_r1.errors import DataError, RunError
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.experiments import openrad_base, study
from medvlm_r1.experiments.nano_base import line
from medvlm_r1.models.nano import IMAGE_PX
from medvlm_r1.types import Example

ARMS = ("base", "base-direct", "sft", "grpo", "grpo-shown-blank")
SCOPES = {"all": study.MODALITIES, "mri": ("mri",), "ct": ("ct",), "xray": ("xray",)}
TRAINED_ON = "mri"


@dataclass(frozen=True)
class Split:
    """How a folder's questions are parted: at most ``test`` of each modality are asked, ``reserve`` MRI questions stay out of a base's lessons.

    >>> Split(test=4).reserve
    1800
    """

    test: int = 150
    reserve: int = 1800


@dataclass(frozen=True)
class Sizes:
    """How much of everything; each seed trains on ``train`` questions of the reserve.

    >>> Sizes(Split(test=4)).train
    600
    """

    split: Split = Split()
    train: int = 600
    base: openrad_base.BaseConfig = openrad_base.BaseConfig()
    changes: dict[str, Any] = field(default_factory=dict)  # to the recipes of SFT and GRPO


def run(folder: Path, out: Path, seeds: int, jobs: int = 1, sizes: Sizes = Sizes()) -> str:
    """Do what is missing of the study; returns the table as Markdown, also kept in ``out``."""
    material, facts = ready(folder, out, seeds, sizes)
    samples = study.every_seed(partial(study.of_arm, out, material), study.trainings(ARMS), seeds, jobs)
    reserve = load_dataset(str(out / "questions" / "reserve.jsonl"))
    result = study.results(samples, text_prior(reserve, material.test, train_size=sizes.train), SCOPES)
    return study.keep(out, result | {"reports": reports(samples), "no_letter": no_letter(samples), "data": facts}, intervals=True)


def ready(folder: Path, out: Path, seeds: int, sizes: Sizes = Sizes()) -> tuple[study.Material, dict[str, Any]]:
    """The base, which learns where it is missing, what is asked, what each seed trains on; and how many questions there are."""
    console = stderr()
    require_pictures(folder, out)
    require_same(out, {"folder": folder.resolve().name, "sizes": to_dict(sizes)})
    facts = prepare(folder, out / "questions", sizes.split, console)
    if not (out / "base").exists():
        console.print("study: the base learns")
        lessons = load_dataset(str(out / "questions" / "base.jsonl"))
        openrad_base.run(out / "base", lessons, sizes.base, lambda row: console.print(line(row), highlight=False))
    reserve, test = (load_dataset(str(out / "questions" / f"{name}.jsonl")) for name in ("reserve", "test"))
    train = tuple(drawn(out, reserve, seed, sizes.train) for seed in range(seeds))
    return study.Material(str(out / "base"), list(test), train, sizes.changes), facts


def prepare(folder: Path, out: Path, split: Split, console: Console, side_px: int = IMAGE_PX) -> dict[str, Any]:
    """Write base.jsonl, reserve.jsonl and test.jsonl with their pictures, squares of ``side_px``; returns how many were kept and dropped."""
    done = out / "facts.json"
    if done.exists():
        return json.loads(done.read_text())
    console.print(f"reading {folder}")
    if not (out / "all" / "manifest.jsonl").exists():
        convert("image-folder", folder, out / "all")
    examples = load_dataset(str(out / "all"))
    train, test = sides(examples)
    clean, dropped = without_trained(train, test)
    mri = Dataset([e for e in train if e.modality == TRAINED_ON]).shuffle(seed=0)
    reserve, others = mri.head(split.reserve), [e for e in train if e.modality != TRAINED_ON]
    parts = {"base": [*mri[split.reserve :], *others], "reserve": list(reserve), "test": of_each(clean, split.test)}
    for name, part in parts.items():
        _require_all(name, part, folder, study.MODALITIES if name != "reserve" else (TRAINED_ON,))
        parts[name] = [squeezed(example, out / "pictures", side_px) for example in part]
        write_manifest(out / f"{name}.jsonl", parts[name])
    require_apart([*parts["base"], *parts["reserve"]], parts["test"])
    facts = {"questions": {name: labels(part) for name, part in parts.items()}, "dropped_from_test": dropped}
    done.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return facts


def sides(examples: Sequence[Example]) -> list[list[Example]]:
    """The train and the test part of the three modalities."""
    return [[e for e in examples if e.split == split and e.modality in study.MODALITIES] for split in ("train", "test")]


def without_trained(train: Sequence[Example], test: Sequence[Example]) -> tuple[list[Example], dict[str, dict[str, int]]]:
    """The test questions without those whose picture has a twin in training, or whose group has; and how many fell, by modality."""
    twins = {e.id for e in twinned(test, train, load_image)}
    groups = set(groups_cut(train, test))
    cut = {e.id for e in test if e.group in groups} - twins
    fallen = {m: {"of": 0, "twin": 0, "group": 0} for m in dict.fromkeys(e.modality for e in test)}
    for e in test:
        fallen[e.modality]["of"] += 1
        fallen[e.modality]["twin"] += e.id in twins
        fallen[e.modality]["group"] += e.id in cut
    return [e for e in test if e.id not in twins | cut], fallen


def even(examples: Sequence[Example], most: int) -> list[Example]:
    """At most ``most`` questions, no label more often than its even share, drawn in an order that only their number decides.

    Where the options are always all labels, a text prior can then know little more than chance.

    >>> rows = [Example(str(n), (), "Which?", ("a", "b"), "aab"[n % 3], "ct") for n in range(9)]
    >>> sorted(e.answer for e in even(rows, 5)), len(even(rows, 99))
    (['a', 'a', 'b', 'b'], 9)
    """
    of_label: dict[str, list[Example]] = defaultdict(list)
    for example in Dataset(examples).shuffle(seed=0):
        of_label[example.answer].append(example)
    return [example for part in of_label.values() for example in part[: most // len(of_label)]]


def of_each(examples: Sequence[Example], most: int) -> list[Example]:
    """``even`` in each modality."""
    return [e for modality in study.MODALITIES for e in even([e for e in examples if e.modality == modality], most)]


def reports(samples: dict[str, list[list[Sample]]]) -> dict[str, dict[str, float]]:
    """Arm -> modality -> share of the sampled answers that report a finding first."""
    return _shares(samples, lambda sample: ["Finding:" in text for text in sample.sampled_texts])


def no_letter(samples: dict[str, list[list[Sample]]]) -> dict[str, dict[str, float]]:
    """Arm -> modality -> share of the sampled answers in which no letter could be read."""
    return _shares(samples, lambda sample: [letter is None for letter in sample.sampled_answers])


def _shares(samples: dict[str, list[list[Sample]]], says: Callable[[Sample], list[bool]]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for name, per_seed in samples.items():
        for modality in study.MODALITIES:
            said = [one for seed in per_seed for s in seed if s.modality == modality for one in says(s)]
            found.setdefault(name, {})[modality] = sum(said) / max(1, len(said))
    return found


def squeezed(example: Example, pictures: Path, side_px: int) -> Example:
    """The question with its picture as the model sees it: grey, a square; the embedded one of 84 px.

    Else the processor would give a wide picture fewer patches, and the shape of a picture tells its source.
    """
    target = pictures / f"{example.id}.png"  # all of the id: slices of one file differ behind its suffix
    target.parent.mkdir(parents=True, exist_ok=True)
    load_image(example.images[0]).convert("L").resize((side_px, side_px)).save(target)
    return replace(example, images=(str(target),))


def drawn(out: Path, reserve: Dataset, seed: int, count: int) -> str:
    """The manifest of the questions that a seed trains on."""
    file = out / "questions" / f"train-{seed}.jsonl"
    if not file.exists():
        write_manifest(file, reserve.shuffle(seed).head(count))
    return str(file)


def labels(examples: Sequence[Example]) -> dict[str, dict[str, int]]:
    """Modality -> label -> how many questions it answers."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for example in examples:
        counts[example.modality][example.answer] += 1
    return counts


def _require_all(name: str, part: Sequence[Example], folder: Path, modalities: Sequence[str]) -> None:
    for modality in modalities:
        if not any(e.modality == modality for e in part):
            raise DataError(f'"{folder}" leaves no {modality} picture for the part "{name}"; give more of both splits, train and test')


def require_pictures(folder: Path, out: Path) -> None:
    """Raises DataError where there is no such folder, before anything of it is kept in ``out``; what has been read once may be gone."""
    if not folder.is_dir() and not (out / "settings.json").exists():
        raise DataError(f'"{folder}" is no folder; name one of labelled pictures (docs/real.md)')


def require_same(out: Path, settings: dict[str, Any], option: str = "--run-dir") -> None:
    """Raises RunError where ``out`` holds what other settings made; keeps them else."""
    file = out / "settings.json"
    out.mkdir(parents=True, exist_ok=True)
    if file.exists() and json.loads(file.read_text()) != json.loads(json.dumps(settings)):
        raise RunError(f'"{out}" holds a study of another folder or size; choose another {option}')
    file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
