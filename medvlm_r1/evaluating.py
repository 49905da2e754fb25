"""``medvlm-r1 eval``: one model, one question set, several arms, one report."""

import json
from argparse import Namespace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from medvlm_r1 import launch
from medvlm_r1.data.images import load_image
from medvlm_r1.errors import RunError
from medvlm_r1.evaluation import metrics
from medvlm_r1.evaluation.report import render_report
from medvlm_r1.evaluation.run import EvalConfig
from medvlm_r1.evaluation.samples import Sample, write_samples
from medvlm_r1.evaluation.story import Story


def run(arguments: Namespace) -> dict:
    """Evaluate every arm, write samples, summary.json and report.html; returns the summary."""
    out: Path = arguments.out
    if (out / "summary.json").exists():
        raise RunError(f"{out} already holds an evaluation; choose another --out")
    examples = launch.questions(arguments.data)
    policy = launch.load_model(arguments.model)
    template = arguments.template or policy.template
    names = arguments.arms.split(",")
    for name in names:
        launch.view_of(name)
    out.mkdir(parents=True, exist_ok=True)
    arms: dict[str, list[Sample]] = {}
    with Progress(console=Console(stderr=True)) as progress:
        for name in names:
            bar = progress.add_task(name, total=len(examples))
            config = EvalConfig(template, arguments.samples, arguments.max_tokens, arm=name)
            arms[name] = launch.evaluate_policy(policy, examples, config, lambda done, bar=bar: progress.update(bar, completed=done))
            write_samples(out / f"samples-{name}.jsonl", arms[name])
    pairs = [("image", name) for name in names if "image" in names and name != "image"]
    summary = metrics.summary(arms, {}, pairs)
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    story = Story(f"{arguments.model} on {arguments.data}", dict(reversed(arms.items())), labels={"image": "With image"})
    (out / "report.html").write_text(render_report(story, load_image))
    return summary

