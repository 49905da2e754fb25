"""The study: every arm and control over several seeds, from one base, with paired intervals.

What it can show: whether the demo's story survives other seeds, and what the
controls take away from it. ``docs/study.md`` reads the table.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.console import Console

from medvlm_r1 import launch
from medvlm_r1.data.audit.prior import text_prior
from medvlm_r1.data.phantom import sets
from medvlm_r1.evaluation import metrics
from medvlm_r1.evaluation.run import EvalConfig
from medvlm_r1.evaluation.samples import Sample, read_samples, write_samples
from medvlm_r1.evaluation.statistics import cluster_mean
from medvlm_r1.recipes import find, nano
from medvlm_r1.types import Example

MODALITIES = ("mri", "ct", "xray")
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
    """Train and evaluate what is missing; returns the table as Markdown, also kept in ``out``.

    ``jobs`` seeds run at a time, one thread each: models this small lose more
    to two threads waiting for each other than they gain.
    """
    with get_context("spawn").Pool(jobs, torch.set_num_threads, (1,)) as pool:
        per_seed = pool.map(partial(_seed, out), range(seeds), chunksize=1)
    samples = {name: [one[name] for one in per_seed] for name in ARMS}
    test = test_questions()
    result = results(samples, test)
    text = table(result)
    out.mkdir(parents=True, exist_ok=True)
    (out / "study.json").write_text(json.dumps(result, indent=2) + "\n")
    (out / "study.md").write_text(text + "\n")
    return text


def test_questions() -> list[Example]:
    """The 900 held-out questions."""
    return [example for modality in MODALITIES for example in sets.load(modality, "test")]


def _seed(out: Path, seed: int) -> dict[str, list[Sample]]:
    console, test, found = Console(stderr=True), test_questions(), {}
    for name, arm in ARMS.items():
        console.print(f"study: seed {seed}, {arm.label}")
        found[name] = _samples(out, name, arm, seed, test)
    return found


def _samples(out: Path, name: str, arm: Arm, seed: int, test: Sequence) -> list[Sample]:
    """What an arm answers under a seed: from its file, or by training and asking."""
    file = out / f"seed-{seed}" / f"{name}.jsonl"
    if file.exists():
        return read_samples(file)
    model = "nano"
    if arm.kind:
        run_dir = out / f"seed-{seed}" / f"{arm.kind}-{arm.recipe}"
        config = replace(find(arm.recipe, arm.kind), seed=seed)
        if not launch.run(config, run_dir, resume=True):
            raise KeyboardInterrupt
        model = str(launch.trained_model(run_dir))
    # The blank control is tested as it was trained for everyone else: on images.
    config = EvalConfig(arm.template, SAMPLES, nano.MAX_TOKENS, seed, arm.view)
    found = launch.evaluate_policy(launch.load_model(model), test, config, lambda done: None)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_samples(file, found)
    return found


def results(samples: dict[str, list[list[Sample]]], test: Sequence) -> dict:
    """Means over seeds, per modality; and each arm against base, SFT and GRPO, paired by question."""
    arms = {
        name: {
            "label": ARMS[name].label,
            "seeds": [metrics.arm_table(one) for one in per_seed],
            **{m: _mean_cell(per_seed, m) for m in MODALITIES},
        }
        for name, per_seed in samples.items()
    }
    prior = text_prior(sets.load("mri", "train"), test)
    pairs = [("grpo", name) for name in ARMS if name != "grpo"]
    return {
        "chance": metrics.chance(samples["base"][0]),
        "text_prior": {m: prior[m] for m in MODALITIES},
        "arms": arms,
        "paired": {f"{a}-{b}": paired(samples[a], samples[b]) for a, b in pairs},
    }


def _mean_cell(per_seed: Sequence[Sequence[Sample]], modality: str) -> dict:
    parts = [[s for s in one if s.modality == modality] for one in per_seed]
    greedy = [metrics.accuracy(part) for part in parts]
    sampled = [metrics.sampled_accuracy(part) for part in parts]
    return {
        "accuracy": sum(greedy) / len(greedy),
        "sampled": sum(sampled) / len(sampled),
        "accuracy_seeds": greedy,
        "sampled_seeds": sampled,
    }


def paired(after: Sequence[Sequence[Sample]], before: Sequence[Sequence[Sample]]) -> dict:
    """Sampled accuracy, mean over seeds and modalities: after - before, resampling patients.

    Each question's difference is averaged over the seeds first, so the interval
    is about questions; the spread over seeds stands in the arms' cells.
    """
    out = {}
    for scope, wanted in (("all", MODALITIES), ("ct+xray", ("ct", "xray"))):
        rows = [
            (first.modality, first.cluster, sum(a[n].sampled_accuracy - b[n].sampled_accuracy for a, b in zip(after, before, strict=True)) / len(after))
            for n, first in enumerate(after[0])
            if first.modality in wanted
        ]
        modalities, clusters, differences = zip(*rows, strict=True)
        estimate = cluster_mean(differences, clusters, modalities)
        out[scope] = {"mean_difference": estimate.value, "ci95": list(estimate.ci95), "p": estimate.p}
    return out


def table(result: dict) -> str:
    """Markdown: sampled and greedy accuracy per modality, then the paired differences."""
    lines = ["| | MRI (trained on) | CT | X-ray | mean |", "|---|---|---|---|---|"]
    chance = [result["chance"][m]["accuracy"] for m in MODALITIES]
    prior = [result["text_prior"][m]["accuracy"] for m in MODALITIES]
    for label, values in (("chance", chance), ("text prior", prior)):
        lines.append(f"| {label} | " + " | ".join(f"{100 * v:.1f}" for v in [*values, sum(values) / 3]) + " |")
    for arm in result["arms"].values():
        cells = [(arm[m]["sampled"], arm[m]["accuracy"]) for m in MODALITIES]
        cells.append(tuple(sum(cell[k] for cell in cells) / 3 for k in (0, 1)))
        lines.append(f"| {arm['label']} | " + " | ".join(f"{100 * s:.1f} / {100 * g:.1f}" for s, g in cells) + " |")
    lines += ["", "| GRPO minus | all three | CT + X-ray |", "|---|---|---|"]
    for name, scopes in result["paired"].items():
        cells = [f"{100 * v['mean_difference']:+.1f} ({100 * v['ci95'][0]:+.1f} to {100 * v['ci95'][1]:+.1f})" for v in scopes.values()]
        lines.append(f"| {ARMS[name.removeprefix('grpo-')].label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
