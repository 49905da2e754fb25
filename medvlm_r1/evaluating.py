"""``medvlm-r1 eval``: one model, one question set, several arms, one report."""

import json
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from medvlm_r1 import launch, preflight
from medvlm_r1.data.images import load_image
from medvlm_r1.errors import ConfigError, MedVLMError, RunError
from medvlm_r1.evaluation import metrics
from medvlm_r1.evaluation.report import render_report
from medvlm_r1.evaluation.run import EvalConfig
from medvlm_r1.evaluation.samples import Sample, write_samples
from medvlm_r1.evaluation.story import Story


def run(arguments: Namespace) -> dict:
    """Evaluate every arm, write samples, summary.json and report.html; returns the summary."""
    out: Path = arguments.out
    names = arm_names(arguments.arms)
    check_out(out)
    examples = preflight.questions(arguments.data)
    with launch.memory_errors():
        policy = launch.load_model(arguments.model, arguments.dtype, arguments.max_pixels)
        template = arguments.template or policy.template
        probe = policy.viewing(None)  # keeps what it prepares; gone before the arms prepare theirs
        for example in examples:
            preflight.check_prompt(probe, example, template)
        del probe
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        arms: dict[str, list[Sample]] = {}
        with Progress(console=Console(stderr=True)) as progress:
            for name in names:
                bar = progress.add_task(name, total=len(examples))
                config = EvalConfig(template, arguments.samples, arguments.max_tokens, arm=name)
                arms[name] = launch.evaluate_policy(policy, examples, config, lambda done, bar=bar: progress.update(bar, completed=done))
                with writing(out):
                    write_samples(out / f"samples-{name}.jsonl", arms[name])
    settings = {key: getattr(arguments, key) for key in ("model", "data", "samples", "max_tokens", "max_pixels", "dtype")}
    settings["template"] = template
    summary = metrics.summary(arms, {}, [("image", name) for name in names if name != "image"]) | {"settings": settings}
    title = f"{arguments.model} on {arguments.data}"
    story = Story(title, dict(reversed(arms.items())), labels={"image": "With image"}, settings=settings)
    with writing(out):
        (out / "report.html").write_text(render_report(story, load_image))
        (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def arm_names(text: str) -> list[str]:
    """``--arms`` as a list, each name once; raises ConfigError for an unknown one or where "image" is missing.

    >>> arm_names("image, blank,image")
    ['image', 'blank']
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        launch.view_of(name)
    if "image" not in names:
        raise ConfigError(f'--arms "{text}" lacks "image", which the others are compared with; write --arms image,blank')
    return names


def check_out(out: Path) -> None:
    """Raises RunError unless ``out`` is new, empty, or what a stopped evaluation left."""
    if (out / "summary.json").exists():
        raise RunError(f"{out} already holds an evaluation or a run; choose another --out")
    with writing(out):
        others = [file.name for file in out.iterdir() if not file.match("samples-*.jsonl")] if out.exists() else []
    if others:
        raise RunError(f'{out} is not empty (it holds "{others[0]}"); choose another --out')


@contextmanager
def writing(out: Path, option: str = "--out") -> Iterator[None]:
    """Turns the disk's errors into a RunError that names the option."""
    try:
        yield
    except MedVLMError:
        raise
    except OSError as error:
        raise RunError(f'cannot write "{out}" ({error.strerror or error}); choose another {option}, or free some space there') from error
