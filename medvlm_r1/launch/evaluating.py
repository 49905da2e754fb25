"""``medvlm-r1 eval``: one model, one question set, several arms, one report."""

import json
from argparse import Namespace
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from medvlm_r1.audit.prior import TextPrior
from medvlm_r1.data.dataset import load_dataset
from medvlm_r1.data.images import load_image
from medvlm_r1.data.parts import trained_on
from medvlm_r1.errors import ConfigError, DataError, RunError, nearest
from medvlm_r1.evaluation.asking.arms import ARMS, FORCED, Asked, prompts_of
from medvlm_r1.evaluation.asking.meanings import DEFAULT_ARMS, MEANINGS
from medvlm_r1.evaluation.asking.run import EvalConfig, evaluate
from medvlm_r1.evaluation.measuring import metrics
from medvlm_r1.evaluation.measuring.looking import judge
from medvlm_r1.evaluation.measuring.reasons import reasons
from medvlm_r1.evaluation.samples import Sample, write_samples
from medvlm_r1.files import writing
from medvlm_r1.launch import training as launch
from medvlm_r1.launch.answering import Answerer, answerer
from medvlm_r1.report.report import render_report
from medvlm_r1.report.story import Story
from medvlm_r1.training.tracker import notice
from medvlm_r1.types import Example
from medvlm_r1.wording import called

ALL = "all"
SETTINGS = ("model", "data", "train", "samples", "probs", "max_tokens", "max_pixels", "dtype")
LENIENT = (ALL, DEFAULT_ARMS)  # nobody asked for each of these arms by name
TEXTS_LEARNT = 600  # as in the paper's training set


def run(arguments: Namespace) -> dict:
    """Evaluate every arm, write samples, summary.json and report.html; returns the summary.

    Completions are recorded as they come: the same command again asks only for those that are missing.
    """
    names = arm_names(arguments.arms)
    check_out(arguments.out)
    data = load_dataset(arguments.data)
    for note in filter(None, (*data.notes, trained_on(data, arguments.data))):
        notice(note)
    examples, n_open = _closed(data, arguments.data)
    _check_in_domain(arguments.in_domain, examples)
    train = load_dataset(arguments.train) if arguments.train else None
    with launch.memory_errors():
        asked = answerer(arguments, examples, arguments.cache or arguments.out / "completions.jsonl")
        with closing(asked.engine):
            _check_arms(asked, examples, names, arguments.arms)
            with writing(arguments.out):
                arguments.out.mkdir(parents=True, exist_ok=True)
            arms = _ask_all(asked, examples, names, arguments)
    _say_why_missing(arms)
    settings = {key: getattr(arguments, key) for key in SETTINGS if key not in asked.unused}
    settings |= {"template": asked.template, "answered_by": asked.identity} | ({"left_out_without_options": n_open} if n_open else {})
    settings |= {"in_domain": arguments.in_domain} if arguments.in_domain else {}
    return _tell(arms, TextPrior(examples, train).measure(TEXTS_LEARNT), settings, arguments.out)


def _say_why_missing(arms: dict[str, list[Sample]]) -> None:
    """A wrong key or a model without eyes fails every question alike: the first reason is mostly the one."""
    failed = [sample for samples in arms.values() for sample in samples if sample.status == "failed"]
    if failed:
        notice(f'no answer to question "{failed[0].id}", the first of {len(failed)}: {failed[0].text}')


def _tell(arms: dict[str, list[Sample]], prior: dict[str, Any], settings: dict[str, Any], out: Path) -> dict[str, Any]:
    """Write summary.json and report.html; returns the summary."""
    summary = metrics.summary(arms, {"text_prior": prior}, [("image", name) for name in arms if name != "image"])
    against = {name: pair for name in arms if (pair := summary["paired"].get(f"image-{name}"))}
    in_domain = settings.get("in_domain")
    summary |= {
        "looking": asdict(judge(arms, against)),
        "reasoning": reasons(arms),
        "gap": metrics.out_of_distribution_gap(arms["image"], in_domain) if in_domain else None,
        "failed": {name: sum(s.status == "failed" for s in samples) for name, samples in arms.items()},
        "settings": settings,
    }
    model = called(settings["model"])
    story = Story(f"{model} on {settings['data']}", {model: arms}, baselines={"text_prior": prior}, settings=settings)
    with writing(out):
        (out / "report.html").write_text(render_report(story, load_image), encoding="utf-8")
        (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def _check_arms(asked: Answerer, examples: Sequence[Example], names: Sequence[str], given: str) -> None:
    """An arm that was named and can ask nothing is refused before the first answer."""
    for name in names if given not in LENIENT else ():
        if name not in FORCED:
            prompts_of(name, Asked(examples, asked.template))


def _closed(examples: Sequence[Example], data: str) -> tuple[list[Example], int]:
    """The questions with options, and how many have none: no rule here tells whether a free answer is right."""
    closed = [example for example in examples if example.options]
    n_open = len(examples) - len(closed)
    if not closed:
        raise DataError(f'no question of "{data}" has options, and closed questions only are evaluated; give them "options" that hold the answer')
    if n_open:
        notice(f"left out: {n_open} of {len(examples)} questions have no options; closed questions only are evaluated")
    return closed, n_open


def _check_in_domain(modality: str | None, examples: Sequence[Example]) -> None:
    known = {example.modality for example in examples}
    if modality and modality not in known:
        raise ConfigError(f'--in-domain "{modality}" is the modality of no question{nearest(modality, known)}')


def _ask_all(asked: Answerer, examples: Sequence[Example], names: Sequence[str], arguments: Namespace) -> dict[str, list[Sample]]:
    """The samples of each arm, written as soon as the arm is done."""
    arms: dict[str, list[Sample]] = {}
    with Progress(console=Console(stderr=True)) as progress:
        for name in names:
            answered = {sample.id: sample for sample in arms.get("image", ())}
            if arguments.arms in LENIENT and not ARMS[name](Asked(examples, asked.template, answered)):
                notice(f'left out: the arm "{name}" ({MEANINGS[name]}) can ask none of these questions')
                continue
            bar = progress.add_task(name, total=len(examples))
            config = EvalConfig(asked.template, 0 if name in FORCED else arguments.samples, arguments.max_tokens, arm=name)
            probe = asked.probe if arguments.probs and name not in FORCED else None
            arms[name] = evaluate(asked.engine, examples, config, lambda done, bar=bar: progress.update(bar, completed=done), answered, probe)
            progress.update(bar, total=len(arms[name]))
            with writing(arguments.out):
                write_samples(arguments.out / f"samples-{name}.jsonl", arms[name])
    return arms


def arm_names(text: str) -> list[str]:
    """``--arms`` as a list, "image" first, each name once; raises ConfigError for an unknown one or where "image" is missing.

    >>> arm_names("blank, image,image")
    ['image', 'blank']
    """
    names = list(ARMS) if text == ALL else [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in ARMS:
            raise ConfigError(f'unknown arm "{name}"{nearest(name, ARMS)}')
    if "image" not in names:
        raise ConfigError(f'--arms "{text}" lacks "image", which the others are compared with; write --arms image,blank')
    return sorted(dict.fromkeys(names), key=list(ARMS).index)


def check_out(out: Path) -> None:
    """Raises RunError unless ``out`` is new, empty, or what an evaluation left that was stopped or had failures."""
    with writing(out):
        if (out / "summary.json").exists() and not _has_failures(out / "summary.json"):
            spare = f"; with --cache {record} nothing is asked twice" if (record := out / "completions.jsonl").exists() else ""
            raise RunError(f"{out} already holds an evaluation or a run; choose another --out{spare}")
        ours = ("samples-*.jsonl", "completions.jsonl", "summary.json", "report.html", "export")
        others = [file.name for file in out.iterdir() if not any(map(file.match, ours))] if out.exists() else []
    if others:
        raise RunError(f'{out} is not empty (it holds "{others[0]}"); choose another --out')


def _has_failures(summary: Path) -> bool:
    try:
        return any(json.loads(summary.read_text())["failed"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return False  # not ours
