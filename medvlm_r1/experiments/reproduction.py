"""The paper's run again: base, SFT and GRPO on the paper's split, and the paper's table beside ours."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from medvlm_r1.audit.prior import text_prior
from medvlm_r1.config import fingerprint
from medvlm_r1.console import notice
from medvlm_r1.data.dataset import load_dataset
from medvlm_r1.data.split import PAPER_SHA256, checksum
from medvlm_r1.errors import DataError, RunError
from medvlm_r1.evaluation.measuring.metrics import arm_table, chance
from medvlm_r1.evaluation.samples import Sample, read_samples
from medvlm_r1.files import output_errors
from medvlm_r1.launch import evaluating, training
from medvlm_r1.launch.request import Request
from medvlm_r1.preflight.values import Config, check
from medvlm_r1.recipes.named import find
from medvlm_r1.rewards.choice import paper_verdict
from medvlm_r1.training import checkpoint
from medvlm_r1.training.grpo.trainer import GRPOConfig
from medvlm_r1.training.sft import SFTConfig

ARMS = ("image", "blank")
COLUMNS = {"mri": "MRI", "ct": "CT", "xray": "X-ray", "mean": "mean"}
RECALLED = "recalled, to be confirmed against the paper"


@dataclass(frozen=True)
class Printed:
    """A row of the paper's table, in percent. Only the means named in its abstract are certain; the rest is recalled.

    >>> PAPER["grpo"].cells()["mean"], PAPER["grpo"].cells()["ct"]
    ('78.22', '70.33*')
    """

    name: str
    values: tuple[float, float, float, float]
    mean_is_in_abstract: bool

    def cells(self) -> dict[str, str]:
        """As printed, what is recalled with a star."""
        certain = {"mean"} if self.mean_is_in_abstract else set()
        return {key: f"{value:.2f}{'' if key in certain else '*'}" for key, value in zip(COLUMNS, self.values, strict=True)}


# The cells of base and GRPO give the means of the abstract. Those of SFT give 60.78, not 59.44: at least one is remembered wrongly.
PAPER = {
    "base": Printed("Qwen2-VL-2B", (61.67, 50.67, 53.00, 55.11), True),
    "sft": Printed("Qwen2-VL-2B, SFT", (94.00, 54.33, 34.00, 59.44), False),
    "grpo": Printed("MedVLM-R1", (95.33, 70.33, 69.00, 78.22), True),
}


@dataclass(frozen=True)
class Plan:
    """What is run: a question set with the parts train and test, and the two trainings.

    >>> plan_of("data/paper", recipe="medvlm_r1_mri").grpo.data
    'data/paper?split=train'
    """

    data: str
    grpo: GRPOConfig
    sft: SFTConfig
    max_tokens: int = 512


@dataclass(frozen=True)
class Stage:
    """One step of the way. ``done`` is there once it is finished; then it is not done again."""

    name: str
    what: str
    done: Path
    run: Callable[[], None]


def plan_of(data: str, recipe: str, model: str | None = None) -> Plan:
    """The plan of a recipe that has both trainings; ``model`` replaces the recipe's."""
    given: dict[str, Any] = {"data": part(data, "train"), "test": part(data, "test")} | ({"model": model} if model else {})
    plan = Plan(data, replace(find(recipe, "grpo"), **given), replace(find(recipe, "sft"), **given))
    check(plan.grpo)
    check(plan.sft)
    return plan


def part(data: str, name: str) -> str:
    """One part of a question set.

    >>> part("data/paper", "test"), part("all.jsonl?source=a", "test")
    ('data/paper?split=test', 'all.jsonl?source=a&split=test')
    """
    return f"{data}{'&' if '?' in data else '?'}split={name}"


def stages(plan: Plan, out: Path) -> list[Stage]:
    """Base, SFT and GRPO, each evaluated as soon as it is there."""
    found = []
    for name, config in (("base", None), ("sft", plan.sft), ("grpo", plan.grpo)):
        place, asked = out / name, out / f"eval-{name}"
        if config is not None:
            what = f"{config.model} on {config.data}, {config.steps} steps of {config.prompts_per_step} questions"
            found.append(Stage(name, what, _trained(config, place), partial(_train, config, place)))
        model = str(_trained(config, place)) if config else plan.grpo.model
        # The base is asked to write tags, without which no letter is read; the trained ones as they were trained.
        ask = partial(_evaluate, plan, model, None if config else "paper-eval", asked)
        found.append(Stage(f"eval-{name}", f"{model} on {part(plan.data, 'test')}, {' and '.join(ARMS)}", asked / "summary.json", ask))
    return found


def run(plan: Plan, out: Path) -> dict[str, Any]:
    """All stages that are not finished yet; returns the table's numbers and writes them to ``out``/summary.json.

    Raises KeyboardInterrupt when stopped; the same call then goes on.
    """
    check_parts(plan)
    try:
        checkpoint.open_run(out, plan, resume=True)
    except RunError as error:
        raise RunError(str(error).replace("--run-dir", "--out")) from error
    for stage in stages(plan, out):
        if stage.done.exists():
            notice(f"{stage.name}: finished before")
            continue
        notice(f"{stage.name}: {stage.what}")
        stage.run()
    summary = compare(plan, out)
    with output_errors(out):
        (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def check_parts(plan: Plan) -> None:
    """Raises DataError where the question set has not been cut into train and test."""
    for name in ("train", "test"):
        try:
            load_dataset(part(plan.data, name))
        except DataError as error:
            raise DataError(f"{error}; make the parts first: medvlm-r1 data split CONVERTED OUT --paper, and give OUT") from error


def _trained(config: Config, run_dir: Path) -> Path:
    return run_dir / "checkpoints" / f"step-{config.steps}"


def _train(config: Config, run_dir: Path) -> None:
    if not training.run(config, run_dir, resume=True):
        raise KeyboardInterrupt


def _evaluate(plan: Plan, model: str, template: str | None, out: Path) -> None:
    test, train = (part(plan.data, name) for name in ("test", "train"))
    asked = Request(model, test, out, ",".join(ARMS), train, in_domain="mri", template=template, max_tokens=plan.max_tokens)
    evaluating.evaluate(replace(asked, max_pixels=plan.grpo.max_pixels, dtype=plan.grpo.dtype))


def compare(plan: Plan, out: Path) -> dict[str, Any]:
    """Every model's accuracy, as we read answers, as the authors do, and on blank images; the floor beneath them; the paper's."""
    ours = {}
    for name in PAPER:
        image, blank = (read_samples(out / f"eval-{name}" / f"samples-{arm}.jsonl") for arm in ARMS)
        ours[name] = {"image": arm_table(image), "authors": arm_table([as_the_authors(s) for s in image]), "blank": arm_table(blank)}
    train, test = (load_dataset(part(plan.data, name)) for name in ("train", "test"))
    prior: dict[str, Any] = dict(text_prior(train, test))
    prior["mean"] = sum(cell["accuracy"] for cell in prior.values()) / len(prior)
    paper = {name: {"name": row.name, "cells": row.cells(), "*": RECALLED} for name, row in PAPER.items()}
    baselines = {"chance": chance(image), "text_prior": prior}
    same = checksum(test) == PAPER_SHA256
    return {"ours": ours, "baselines": baselines, "paper": paper, "same_test": same, "fingerprint": fingerprint(plan)}


def as_the_authors(sample: Sample) -> Sample:
    """Judged by the rule of the authors' evaluation, which takes a bare capital and nothing else."""
    letter = paper_verdict(sample.text)
    return replace(sample, answer=letter, correct=letter == sample.gold)


def table(summary: dict[str, Any]) -> str:
    """The paper's table beside ours, for the terminal."""
    lines = [_line("accuracy, %", COLUMNS)]
    for name, models in summary["ours"].items():
        paper = summary["paper"][name]
        lines += ["", _line(f"{paper['name']}: paper", paper["cells"])]
        for key, label in (("image", "ours"), ("authors", "ours, read as the authors do"), ("blank", "ours, blank images")):
            lines.append(_line(f"  {label}", _percent(models[key])))
    lines.append("")
    for key, label in (("chance", "chance"), ("text_prior", "text prior, no image")):
        lines.append(_line(label, _percent(summary["baselines"][key])))
    lines += ["", f"* {RECALLED}; means without a star are in its abstract. Intervals are in summary.json."]
    lines.append("  The recalled SFT cells give a mean of 60.78, not 59.44: at least one of them is wrong.")
    if not summary["same_test"]:
        lines.append("The test part is not the paper's 900 questions: ours and the paper's cells are of different questions.")
    return "\n".join(lines)


def _percent(cells: dict[str, Any]) -> dict[str, str]:
    return {key: f"{100 * (cell if key == 'mean' else cell['accuracy']):.2f} " for key, cell in cells.items()}


def _line(label: str, cells: dict[str, str]) -> str:
    return f"{label:<34}" + "".join(f"{cells.get(key, ''):>9}" for key in COLUMNS)


def outlook(plan: Plan, out: Path) -> str:
    """What a dry run prints: every stage, done or to do."""
    return "\n".join(f"{'done' if stage.done.exists() else 'to do':<6} {stage.name:<10} {stage.what}" for stage in stages(plan, out))
