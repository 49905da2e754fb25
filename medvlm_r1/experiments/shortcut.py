"""The study of a shortcut: can the evaluation tell a model that reads option texts from one that looks?

Three models learn from ``phantom:text-shortcut``, whose option texts give every
answer away, one of them without ever seeing a picture, and one from
``phantom:mri``, where nothing but the picture does. All are asked the shortcut's held-out questions, and the honest ones.
"""

import datetime
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from medvlm_r1.config import changed
from medvlm_r1.launch import evaluating, training
from medvlm_r1.launch.request import Request
from medvlm_r1.recipes import nano
from medvlm_r1.recipes.named import find
from medvlm_r1.report.comparing import compare_folders

SHORTCUT, HONEST = "phantom:text-shortcut", "phantom:mri"
ARMS = "image,blank,noise,mismatch"


@dataclass(frozen=True)
class Pupil:
    """A model of the study: how it learns, and from what.

    >>> PUPILS["looks"].data
    'phantom:mri'
    """

    label: str
    kind: str  # "grpo" | "sft" | "" for the base
    data: str
    template: str = "think"
    view: str = "image"


PUPILS = {
    "base": Pupil("Base", "", ""),
    "looks": Pupil("GRPO on honest questions", "grpo", HONEST),
    "shortcut-grpo": Pupil("GRPO on the shortcut", "grpo", SHORTCUT),
    "shortcut-sft": Pupil("SFT on the shortcut", "sft", SHORTCUT, "direct"),
    "blind-sft": Pupil("SFT on the shortcut, grey pictures only", "sft", SHORTCUT, "direct", "blank"),
}
TESTS = {"shortcut": SHORTCUT, "honest": HONEST}


def run(out: Path, seeds: int) -> str:
    """Train and evaluate what is missing; writes study.json, and report.html for each test of seed 0. Returns the table as Markdown."""
    found = [{test: _one(out / f"seed-{seed}", seed, test) for test in TESTS} for seed in range(seeds)]
    result = {"tests": TESTS, "arms": ARMS.split(","), "models": {name: pupil.label for name, pupil in PUPILS.items()}, "seeds": found}
    (out / "study.json").write_text(json.dumps(facts(seeds) | result, indent=2) + "\n", encoding="utf-8")
    return table(result)


def facts(seeds: int, which: str = "--shortcut") -> dict[str, Any]:
    """How the numbers were made."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    return {
        "date": datetime.date.today().isoformat(),
        "command": f"medvlm-r1 study {which} --seeds {seeds}",
        "hardware": f"{os.cpu_count()} CPU cores, {gpu}",
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }


def _one(folder: Path, seed: int, test: str) -> dict[str, Any]:
    """Model -> what it does under every arm of a test, trained with this seed."""
    for name, pupil in PUPILS.items():
        if not (folder / f"{test}-{name}" / "summary.json").exists():
            _evaluate(_trained(folder / name, pupil, seed), pupil, test, folder / f"{test}-{name}")
    places = [f"{pupil.label}={folder / f'{test}-{name}'}" for name, pupil in PUPILS.items()]
    summary = compare_folders(places, folder / f"compared-{test}")
    return {name: _numbers(summary["models"][pupil.label]) for name, pupil in PUPILS.items()}


def _trained(run_dir: Path, pupil: Pupil, seed: int) -> str:
    if not pupil.kind:
        return "nano"
    config = changed(find("nano", pupil.kind), {"data": f"{pupil.data}?split=train", "view": pupil.view, "seed": seed})
    if not training.run(config, run_dir, resume=True):
        raise KeyboardInterrupt
    return str(training.trained_model(run_dir))


def _evaluate(model: str, pupil: Pupil, test: str, out: Path) -> None:
    asked, learnt = (f"{TESTS[test]}?split={part}" for part in ("test", "train"))
    evaluating.evaluate(Request(model, asked, out, ARMS, learnt, template=pupil.template, max_tokens=nano.MAX_TOKENS))


def _numbers(summary: dict[str, Any]) -> dict[str, Any]:
    arms = {arm: {key: cell[key] for key in ("accuracy", "ci95", "n")} for arm, cell in summary["overall"].items()}
    return {"arms": arms, "looking": summary["looking"]}


def table(result: dict[str, Any]) -> str:
    """Markdown: accuracy in per cent under each arm, mean over seeds, and the verdict of each seed."""
    lines = []
    for test in result["tests"]:
        lines += [f"| asked {result['tests'][test]} | " + " | ".join(result["arms"]) + " | verdict |", "|---" * (len(result["arms"]) + 2) + "|"]
        lines += [_row(result["models"][name], [seed[test][name] for seed in result["seeds"]]) for name in result["models"]] + [""]
    return "\n".join(lines).strip()


def _row(label: str, seeds: Sequence[dict[str, Any]]) -> str:
    means = {arm: sum(seed["arms"][arm]["accuracy"] for seed in seeds) / len(seeds) for arm in seeds[0]["arms"]}
    levels = dict.fromkeys(seed["looking"]["level"] for seed in seeds)
    return f"| {label} | " + " | ".join(f"{100 * mean:.1f}" for mean in means.values()) + f" | {', '.join(levels)} |"
