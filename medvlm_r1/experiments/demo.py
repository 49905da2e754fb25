"""The whole story of MedVLM-R1 on data and weights that come with the package.

Base, letter-only SFT and GRPO from the same weights and the same 600 MRI
questions; all three on held-out MRI, CT and X-ray; a table and a page.
"""

import json
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from medvlm_r1 import INTENDED_USE
from medvlm_r1.audit.prior import text_prior
from medvlm_r1.config import to_dict
from medvlm_r1.console import follow
from medvlm_r1.data.images import load_image
from medvlm_r1.data.manifest import write_manifest
from medvlm_r1.data.phantom import sets
from medvlm_r1.evaluation.asking.run import EvalConfig
from medvlm_r1.evaluation.measuring import metrics
from medvlm_r1.evaluation.measuring.looking import look
from medvlm_r1.evaluation.measuring.metrics import Arms
from medvlm_r1.evaluation.measuring.reasons import reasons
from medvlm_r1.evaluation.samples import write_samples
from medvlm_r1.files import output_errors, read_rows
from medvlm_r1.launch import training
from medvlm_r1.launch.answering import model_sha256
from medvlm_r1.launch.evaluating import evaluate_policy
from medvlm_r1.launch.loading import load_model
from medvlm_r1.launch.provenance import Made, made
from medvlm_r1.models.families import locate
from medvlm_r1.preflight.values import Config
from medvlm_r1.recipes import nano
from medvlm_r1.recipes.named import find
from medvlm_r1.report.evaluation_page import render_report
from medvlm_r1.report.learning import phases
from medvlm_r1.report.story import Story
from medvlm_r1.types import Example
from medvlm_r1.wording import called, interval, points

MODALITIES = {"mri": "MRI", "ct": "CT", "xray": "X-ray"}
ARMS = ("image", "blank", "mismatch")
NOTES = [
    "The images are phantoms: MRI from the MNI152 anatomy under a deformation of its own for every patient, CT and "
    "X-ray from analytic bodies. They have known answers; they are no patients.",
    "The base was pre-trained in the open by a noisy teacher on all three modalities: it knows how to read a picture "
    "but often does not. What reinforcement learning from 600 MRI letters does here is to select the habit of looking "
    "before answering; it does not teach new perception. The size of the gain depends on the teacher's mix of habits.",
    "Base and GRPO are asked to think first; SFT was trained on letters and is asked for the letter, as in the paper. "
    "Accuracy is of one greedy answer; “sampled” is the mean over answers drawn at temperature 1.",
]


@dataclass(frozen=True)
class Sizes:
    """How much of everything: the demo's, or the quick form for continuous integration."""

    questions: int = 300
    samples: int = 4
    grpo_steps: int = 100
    sft_steps: int = 75

    @classmethod
    def quick(cls) -> "Sizes":
        """A part of it: enough to fail if anything is broken."""
        return cls(questions=40, samples=2, grpo_steps=12, sft_steps=20)


@dataclass
class Demo:
    """One telling of the story in one directory; with ``resume``, training goes on where it was stopped."""

    run_dir: Path
    sizes: Sizes
    seed: int
    console: Console
    resume: bool = False

    def tell(self) -> dict[str, Any]:
        """Train, evaluate, write summary.json and report.html; returns the summary.

        Raises KeyboardInterrupt when stopped; ``resume`` then goes on.
        """
        started = time.monotonic()
        test = [example for modality in MODALITIES for example in sets.load(modality, "test")[: self.sizes.questions]]
        models: dict[str, Arms] = {}
        self.console.print(f"[bold]MedVLM-R1[/] · 600 MRI questions, letters only · {INTENDED_USE}")
        models["base"] = self.evaluate("base", "nano", test, "think")
        sft = self.train("sft", replace(find("nano", "sft"), steps=self.sizes.sft_steps))
        models["sft"] = self.evaluate("sft", str(sft), test, "direct")
        grpo = self.train("grpo", replace(find("nano", "grpo"), steps=self.sizes.grpo_steps))
        models["grpo"] = self.evaluate("grpo", str(grpo), test, "think")
        curves = {name: read_rows(self.run_dir / name / "metrics.jsonl") for name in ("grpo", "sft")}
        seconds = phases(curves["grpo"]) | {"total": time.monotonic() - started, "evaluate": self.evaluating_s}
        summary = summarise(models, sets.load("mri", "train"), test) | {"seconds": seconds, "settings": self.asked}
        (self.run_dir / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        self.write_report(models, summary, curves)
        return summary

    def __post_init__(self) -> None:
        self.evaluating_s = 0.0
        self.asked: dict[str, dict[str, Any]] = {}  # settings of each model's evaluation

    def train(self, name: str, config: Config) -> Path:
        """Train (or find trained) one arm; returns its model directory."""
        run_dir = self.run_dir / name
        if not self.resume:
            shutil.rmtree(run_dir, ignore_errors=True)
        config = replace(config, seed=self.seed, save_every=min(25, config.steps))
        self.console.print(f"[bold]{name}[/]: training, {config.steps} steps")
        if not training.run(config, run_dir, resume=True):
            raise KeyboardInterrupt
        return training.trained_model(run_dir)

    def evaluate(self, name: str, model: str, test: list[Example], template: str) -> Arms:
        """Ask all test questions under each arm, with a progress bar; the samples are kept as JSON Lines, and how they came about."""
        started, found, policy = time.monotonic(), {}, load_model(model)
        self.asked[name] = {"model": called(model), "template": template, "max_tokens": nano.MAX_TOKENS, "dtype": "float32"}
        self.asked[name]["made"] = made(Made(test, template, policy.encoder.as_sent, model_sha256(locate(model))))
        for arm in ARMS:
            drawn = self.sizes.samples if arm == "image" or (arm == "blank" and name == "grpo") else 0
            config = EvalConfig(template, drawn, nano.MAX_TOKENS, self.seed, arm)
            with Progress(console=self.console, transient=True) as progress:
                bar = progress.add_task(f"{name}, {arm}: {len(test)} questions", total=len(test))
                found[arm] = evaluate_policy(policy, test, config, follow(progress, bar))
            write_samples(self.run_dir / f"samples-{name}-{arm}.jsonl", found[arm])
        self.evaluating_s += time.monotonic() - started
        return found

    def write_report(self, models: dict[str, Arms], summary: dict[str, Any], curves: dict[str, list[dict[str, Any]]]) -> None:
        """report.html: self-contained, for a person."""
        recipes = {name: to_dict(find("nano", name)) for name in ("grpo", "sft")}
        story = Story(
            title="MedVLM-R1: reasoning from letters alone",
            models=models,
            is_lineage=True,
            baselines={"chance": summary["baselines"]["chance"], "text_prior": summary["baselines"]["text_prior"]},
            curves={"GRPO": curves["grpo"], "SFT": curves["sft"]},
            seconds=summary["seconds"],
            notes=NOTES,
            settings={"in_domain": "mri", "seed": self.seed, **{name: recipes.get(name, {}) | asked for name, asked in self.asked.items()}},
        )
        (self.run_dir / "report.html").write_text(render_report(story, load_image), encoding="utf-8")


def summarise(models: dict[str, Arms], train: list[Example], test: list[Example]) -> dict[str, Any]:
    """The numbers of ``summary.json`` but for the seconds (docs: interfaces)."""
    baselines = {"text_prior": text_prior(train, test), "blank_image": metrics.arm_table(models["grpo"]["blank"])}
    images = {name: arms["image"] for name, arms in models.items()}
    summary = metrics.summary(images, baselines, [("grpo", "base"), ("grpo", "sft"), ("sft", "base")])
    return summary | {"looking": asdict(look(models["grpo"])), "reasoning": reasons(models["grpo"])}


def table(summary: dict[str, Any]) -> Table:
    """The paper's table, for the terminal."""
    out = Table(title="Accuracy, %: greedy (95 % interval), and the mean of answers sampled at temperature 1")
    out.add_column("")
    for name in [*MODALITIES.values(), "mean"]:
        out.add_column(name, justify="right")
    for name, cells in summary["baselines"].items():
        out.add_row(name.replace("_", " "), *(_cell(cells.get(m)) for m in [*MODALITIES, "mean"]), style="dim")
    for name, cells in summary["arms"].items():
        mean = summary["overall"][name]
        out.add_row(name.upper() if name != "base" else name, *(_cell(cells[m]) for m in MODALITIES), _cell(mean))
    return out


def _cell(cell: dict[str, Any] | float | None) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{100 * cell:.1f}"
    text = f"{100 * cell['accuracy']:.1f}"
    if cell.get("ci95"):
        text += " ({:.0f}–{:.0f})".format(*(100 * bound for bound in cell["ci95"]))
    return text + (f"\nsampled {100 * cell['sampled']:.1f}" if cell.get("sampled") is not None else "")


def run(demo: Demo) -> str:
    """Tell the story, show the table; returns the commands to ask a question oneself, on a page and in the terminal."""
    console, run_dir = demo.console, demo.run_dir
    with output_errors(run_dir, "--run-dir"):
        run_dir.mkdir(parents=True, exist_ok=True)
    summary = demo.tell()
    console.print(table(summary))
    gain = summary["paired"]["grpo-base"]
    console.print(
        f"GRPO − base: {points(gain['mean_difference'])} points ({gain['measure']}), 95 % interval {interval(gain['ci95'], signed=True)}, "
        f"p = {gain['p']:.2g} · {summary['seconds']['total']:.0f} s"
    )
    example = sets.load("xray", "test")[1]
    picture = run_dir / "example.png"
    load_image(example.images[0]).save(picture)
    options = " ".join(f'"{option}"' for option in example.options)
    model = training.trained_model(run_dir / "grpo")
    console.print(f"Report: {run_dir / 'report.html'}")
    page = f"medvlm-r1 serve --model {model} --worklist {worklist(run_dir / 'cases')}    # and open http://127.0.0.1:8000/"
    return f'medvlm-r1 ask --model {model} {picture} "{example.question}" --options {options}\n  {page}'


def worklist(folder: Path) -> Path:
    """A few of the pictures and questions for the server's page."""
    folder.mkdir(exist_ok=True)
    cases = []
    for name in MODALITIES:
        example = sets.load(name, "test")[1]
        load_image(example.images[0]).save(folder / f"{name}.png")
        cases.append(replace(example, id=name, images=(str(folder / f"{name}.png"),)))
    write_manifest(folder / "cases.jsonl", cases)
    return folder / "cases.jsonl"
