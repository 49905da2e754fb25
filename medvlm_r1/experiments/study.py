"""The study: every arm and control over several seeds, from one base, with paired intervals.

What it can show: whether the demo's story survives other seeds, and what the
controls take away from it. ``docs/study.md`` reads the table.
"""

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch

from medvlm_r1.audit.prior import text_prior
from medvlm_r1.console import stderr
from medvlm_r1.data.phantom import sets
from medvlm_r1.evaluation.asking.run import EvalConfig
from medvlm_r1.evaluation.measuring import metrics
from medvlm_r1.evaluation.measuring.clusters import cluster_mean
from medvlm_r1.evaluation.measuring.seeds import by_seed, over_seeds
from medvlm_r1.evaluation.measuring.statistics import Estimate
from medvlm_r1.evaluation.samples import Sample, read_samples, write_samples
from medvlm_r1.launch import training
from medvlm_r1.launch.evaluating import evaluate_policy
from medvlm_r1.launch.loading import load_model
from medvlm_r1.recipes import nano
from medvlm_r1.recipes.named import find
from medvlm_r1.training.parent import die_with_parent
from medvlm_r1.types import Example

Found = TypeVar("Found")  # what an arm answers under a seed: to one set of questions, or to several
MODALITIES = ("mri", "ct", "xray")
SCOPES = {"all": MODALITIES, "ct+xray": ("ct", "xray")}
HEADINGS = {"all": "all three", "ct+xray": "CT + X-ray", "mri": "MRI", "ct": "CT", "xray": "X-ray"}
SAMPLES = 4


@dataclass(frozen=True)
class Arm:
    """A row of the table: what is trained, and how it is asked.

    >>> ARMS["sft"].recipe
    'nano'
    """

    label: str
    kind: str = ""  # "grpo" | "sft" | "" for the base
    recipe: str = ""
    template: str = "think"
    view: str = "image"


@dataclass(frozen=True)
class Material:
    """What a study is made of: the base, what all arms are asked, and what each seed trains on (none: what the recipe says).

    ``changes`` is laid over every recipe.

    >>> Material("nano", [], changes={"steps": 2}).train
    ()
    """

    base: str
    test: Sequence[Example]
    train: tuple[str, ...] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)


ARMS = {
    "base": Arm("base, asked to think"),
    "base-direct": Arm("base, asked for the letter", template="direct"),
    "sft": Arm("SFT on letters", "sft", "nano", "direct"),
    "grpo": Arm("GRPO (format + accuracy)", "grpo", "nano"),
    "traces": Arm("control: SFT on gold traces", "sft", "nano-traces"),
    "format-only": Arm("control: format reward only", "grpo", "nano-format-only"),
    "accuracy-only": Arm("control: accuracy reward only", "grpo", "nano-accuracy-only"),
    "no-think": Arm("control: GRPO without thinking", "grpo", "nano-no-think", "direct"),
    "blank": Arm("control: GRPO on blank images", "grpo", "nano-blank"),
    "grpo-shown-blank": Arm("GRPO, shown blank images", "grpo", "nano", view="blank"),
}


def run(out: Path, seeds: int, jobs: int = 2) -> str:
    """Train and evaluate what is missing; returns the table as Markdown, also kept in ``out``."""
    test = test_questions()
    samples = every_seed(partial(of_arm, out, Material("nano", test)), trainings(ARMS), seeds, jobs)
    return keep(out, results(samples, text_prior(sets.load("mri", "train"), test), SCOPES))


def every_seed(work: Callable[[int, str], Found], arms: Mapping[str, Hashable], seeds: int, jobs: int) -> dict[str, list[Found]]:
    """Arm -> what it answers under each seed, which ``work(seed, arm)`` finds; ``arms``: what each of them trains.

    ``jobs`` trainings run at a time, one thread each: models this small lose more to two threads waiting for each other than they
    gain. Arms that share a training follow one another.
    """
    sharing: dict[Hashable, list[str]] = {}
    for name, training_of in arms.items():
        sharing.setdefault(training_of, []).append(name)
    tasks = [(seed, names) for seed in range(seeds) for names in sharing.values()]
    in_turn = partial(_in_turn, work)
    if jobs == 1:
        torch.set_num_threads(1)
        done = list(map(in_turn, tasks))
    else:
        with get_context("spawn").Pool(jobs, worker) as pool:
            done = pool.map(in_turn, tasks, chunksize=1)
    found = {(seed, name): one for (seed, names), ones in zip(tasks, done, strict=True) for name, one in zip(names, ones, strict=True)}
    return {name: [found[seed, name] for seed in range(seeds)] for name in arms}


def worker() -> None:
    """What a process of several begins with: a thread of its own, and no life beyond the study's."""
    die_with_parent()
    torch.set_num_threads(1)


def _in_turn(work: Callable[[int, str], Found], task: tuple[int, Sequence[str]]) -> list[Found]:
    seed, names = task
    return [work(seed, name) for name in names]


def keep(out: Path, result: dict[str, Any], intervals: bool = False) -> str:
    """Write study.json and study.md; returns the table."""
    return write(out, result, table(result, intervals))


def write(out: Path, result: Mapping[str, Any], text: str) -> str:
    """What a study found as study.json, and its tables as study.md; returns the tables."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "study.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    (out / "study.md").write_text(text + "\n", encoding="utf-8")
    return text


def points(difference: float, ci95: Sequence[float]) -> str:
    """A difference with its interval, as tables have it.

    >>> points(0.097, (-0.137, 0.332))
    '+9.7 (-13.7 to +33.2)'
    """
    low, high = ci95
    return f"{100 * difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def test_questions() -> list[Example]:
    """The 900 held-out questions."""
    return [example for modality in MODALITIES for example in sets.load(modality, "test")]


def trainings(arms: Iterable[str]) -> dict[str, Hashable]:
    """What each of these arms trains, for ``every_seed``.

    >>> trainings(["grpo", "blank", "grpo-shown-blank"])
    {'grpo': ('grpo', 'nano'), 'blank': ('grpo', 'nano-blank'), 'grpo-shown-blank': ('grpo', 'nano')}
    """
    return {name: (ARMS[name].kind, ARMS[name].recipe) for name in arms}


def of_arm(out: Path, material: Material, seed: int, name: str) -> list[Sample]:
    """What an arm answers under a seed: from its file, or by training and asking."""
    stderr().print(f"study: seed {seed}, {ARMS[name].label}")
    folder, arm = out / f"seed-{seed}", ARMS[name]
    file = folder / f"{name}.jsonl"
    if file.exists():
        return read_samples(file)
    model = material.base
    if arm.kind:
        run_dir = folder / f"{arm.kind}-{arm.recipe}"
        config = replace(find(arm.recipe, arm.kind), seed=seed, model=material.base, **material.changes)
        config = replace(config, data=material.train[seed]) if material.train else config
        if not training.run(config, run_dir, resume=True):
            raise KeyboardInterrupt
        model = str(training.trained_model(run_dir))
    # The blank control is tested as it was trained for everyone else: on images.
    asking = EvalConfig(arm.template, SAMPLES, nano.MAX_TOKENS, seed, arm.view)
    found = evaluate_policy(load_model(model), material.test, asking, lambda done: None)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_samples(file, found)
    return found


def results(samples: dict[str, list[list[Sample]]], prior: dict[str, Any], scopes: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Means over seeds, per modality; and GRPO against each other arm, paired by question, over each scope of modalities."""
    arms = {
        name: {
            "label": ARMS[name].label,
            "seeds": [metrics.arm_table(one) for one in per_seed],
            **{m: mean_cell(per_seed, m) for m in MODALITIES},
        }
        for name, per_seed in samples.items()
    }
    pairs = [("grpo", name) for name in samples if name != "grpo"]
    return {
        "chance": metrics.chance(samples["base"][0]),
        "text_prior": {m: prior[m] for m in MODALITIES},
        "arms": arms,
        "paired": {f"{a}-{b}": paired(samples[a], samples[b], scopes) for a, b in pairs},
    }


def mean_cell(per_seed: Sequence[Sequence[Sample]], modality: str) -> dict[str, Any]:
    """One modality over all seeds: greedy and sampled accuracy, their intervals by question, and each seed's."""
    parts = [[s for s in one if s.modality == modality] for one in per_seed]
    greedy = [metrics.accuracy(part) for part in parts]
    sampled = [_drawn(metrics.sampled_accuracy(part)) for part in parts]
    return {
        "accuracy": sum(greedy) / len(greedy),
        "sampled": sum(sampled) / len(sampled),
        "accuracy_ci95": _mean_of_seeds(parts, lambda s: float(s.correct)).ci95,
        "sampled_ci95": _mean_of_seeds(parts, lambda s: _drawn(s.sampled_accuracy)).ci95,
        "accuracy_seeds": greedy,
        "sampled_seeds": sampled,
    }


def _mean_of_seeds(per_seed: Sequence[Sequence[Sample]], value: Callable[[Sample], float]) -> Estimate:
    return estimate([[value(sample) for sample in one] for one in per_seed], [s.cluster for s in per_seed[0]], ["all"] * len(per_seed[0]))


def estimate(values_SN: Sequence[Sequence[float]], patients: Sequence[str], modalities: Sequence[str]) -> Estimate:
    """Mean over seeds and modalities; its interval is of seeds and patients together, of patients alone where there is one seed."""
    if len(values_SN) > 1:
        return over_seeds(values_SN, patients, modalities)
    return cluster_mean(values_SN[0], patients, modalities)


def paired(after: Sequence[Sequence[Sample]], before: Sequence[Sequence[Sample]], scopes: Mapping[str, Sequence[str]] = SCOPES) -> dict[str, Any]:
    """after - before by question and seed, mean over seeds and modalities: of sampled accuracy, and of greedy answers under ``greedy``.

    ``seeds`` holds each seed's own difference of sampled accuracy, ``ci95_patients`` the interval that these seeds alone would have.
    """
    out = {}
    for scope, wanted in scopes.items():
        rows = [n for n, sample in enumerate(after[0]) if sample.modality in wanted]
        patients, modalities = [after[0][n].cluster for n in rows], [after[0][n].modality for n in rows]
        measures: tuple[Callable[[Sample], float], ...] = (lambda s: _drawn(s.sampled_accuracy), lambda s: float(s.correct))
        sampled_SN, greedy_SN = ([[value(a[n]) - value(b[n]) for n in rows] for a, b in zip(after, before, strict=True)] for value in measures)
        means = [sum(of_question) / len(after) for of_question in zip(*sampled_SN, strict=True)]
        out[scope] = _told(estimate(sampled_SN, patients, modalities)) | {
            "ci95_patients": cluster_mean(means, patients, modalities).ci95,
            "seeds": by_seed(sampled_SN, modalities),
            "greedy": _told(estimate(greedy_SN, patients, modalities)),
        }
    return out


def _told(found: Estimate) -> dict[str, Any]:
    return {"mean_difference": found.value, "ci95": found.ci95, "p": found.p}


def _drawn(share: float | None) -> float:
    assert share is not None, "a study draws answers to every question"
    return share


def table(result: dict[str, Any], intervals: bool = False) -> str:
    """Markdown: sampled and greedy accuracy per modality, with 95 % intervals if wanted, then the paired differences."""
    lines = ["| | MRI (trained on) | CT | X-ray | mean |", "|---|---|---|---|---|"]
    chance = [result["chance"][m]["accuracy"] for m in MODALITIES]
    prior = [result["text_prior"][m]["accuracy"] for m in MODALITIES]
    for label, values in (("chance", chance), ("text prior", prior)):
        lines.append(f"| {label} | " + " | ".join(f"{100 * v:.1f}" for v in [*values, sum(values) / 3]) + " |")
    for arm in result["arms"].values():
        cells = [" / ".join(_percent(arm[m], key, intervals) for key in ("sampled", "accuracy")) for m in MODALITIES]
        cells.append(" / ".join(f"{100 * sum(arm[m][key] for m in MODALITIES) / 3:.1f}" for key in ("sampled", "accuracy")))
        lines.append(f"| {arm['label']} | {' | '.join(cells)} |")
    headings = [HEADINGS[scope] for scope in next(iter(result["paired"].values()))]
    lines += ["", f"| GRPO minus | {' | '.join(headings)} |", "|---" * (len(headings) + 1) + "|"]
    for name, scopes in result["paired"].items():
        cells = [points(v["mean_difference"], v["ci95"]) for v in scopes.values()]
        lines.append(f"| {ARMS[name.removeprefix('grpo-')].label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _percent(cell: dict[str, Any], key: str, interval: bool) -> str:
    low, high = (100 * bound for bound in cell[f"{key}_ci95"])
    return f"{100 * cell[key]:.1f}" + f" ({low:.0f}–{high:.0f})" * interval
