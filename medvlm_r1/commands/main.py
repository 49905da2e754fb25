"""The command ``medvlm-r1``. Exit codes: 0 ok, 1 a check failed, 2 wrong usage, 130 stopped."""

import argparse
import json
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from medvlm_r1 import INTENDED_USE
from medvlm_r1.commands.arguments import parser
from medvlm_r1.errors import MedVLMError


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = parser(RUNS).parse_args(argv)
    try:
        code = arguments.run(arguments) or 0
        sys.stdout.flush()
        return code
    except MedVLMError as error:
        print(f"medvlm-r1: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nmedvlm-r1: stopped{_how_to_go_on(arguments, argv)}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _how_to_go_on(arguments: argparse.Namespace, argv: list[str]) -> str:
    if not hasattr(arguments, "resume"):
        return ""
    return f"; go on with: medvlm-r1 {shlex.join([*argv, *(['--resume'] if not arguments.resume else [])])}"


def _config(arguments: argparse.Namespace, kind: str = "") -> Any:
    """The recipe's configuration with everything that the command line changes."""
    from medvlm_r1.config import override
    from medvlm_r1.preflight import values as preflight
    from medvlm_r1.recipes import find

    given = {key: value for key in ("model", "data") if (value := getattr(arguments, key, None))}
    config = override(replace(find(arguments.recipe, kind), **given), arguments.set)
    preflight.check(config)
    return config


def _counterpart(arguments: argparse.Namespace) -> Any:
    """The supervised run beside a recipe's GRPO; None where there is none, or where ``--set`` names what it lacks."""
    from medvlm_r1.errors import ConfigError
    from medvlm_r1.recipes import RECIPES

    if not RECIPES[arguments.recipe].grpo:
        return None
    try:
        return _config(arguments, "sft")
    except ConfigError:
        return None


def train(arguments: argparse.Namespace) -> int:
    """``train`` and ``sft``."""
    config = _config(arguments, "grpo" if arguments.command == "train" else "sft")
    if arguments.dry_run:
        print(json.dumps(_dry_run(config), indent=2))
        return 0
    from medvlm_r1.launch import training as launch
    from medvlm_r1.report import telling

    run_dir = arguments.run_dir or launch.default_run_dir(arguments.recipe, config)
    if not launch.run(config, run_dir, arguments.resume):
        raise KeyboardInterrupt
    print(f"{telling.tell(run_dir)}\nreport: {run_dir / 'report.html'}\nmodel: {launch.trained_model(run_dir)}")
    return 0


def _dry_run(config: Any) -> dict[str, Any]:
    from medvlm_r1.config import fingerprint, to_dict
    from medvlm_r1.errors import ModelError
    from medvlm_r1.preflight import forecast as planning

    try:
        forecast, assumed = planning.before_loading(config)
        memory = forecast.to_dict() | {"assumed": assumed}
    except ModelError as error:  # the model may be on another machine
        memory = {"unknown": str(error)}
    return {"fingerprint": fingerprint(config), "config": to_dict(config), "memory": memory}


def evaluate(arguments: argparse.Namespace) -> int:
    """``eval``: samples.jsonl per arm, summary.json and report.html in --out. Exit code 1 where an endpoint left answers missing."""
    from medvlm_r1.launch import evaluating
    from medvlm_r1.recipes import presets
    from medvlm_r1.wording import called

    presets.apply(arguments)
    summary = evaluating.run(arguments)
    _tell({called(arguments.model): summary}, summary, arguments)
    if failed := sum(summary["failed"].values()):
        print(f"medvlm-r1: {failed} answers are missing; the same command again asks only for these", file=sys.stderr)
    return 1 if failed else 0


def compare(arguments: argparse.Namespace) -> int:
    """``compare``: paired tests of several evaluations, summary.json and report.html in --out."""
    from medvlm_r1.report import comparing

    summary = comparing.run(arguments)
    _tell(summary["models"], summary, arguments)
    return 0


def _tell(models: dict[str, dict], summary: dict, arguments: argparse.Namespace) -> None:
    """The page's first screen in a line per model, or all of it as JSON."""
    from medvlm_r1.report.glance import spoken

    lines = [spoken(name, numbers) for name, numbers in models.items()] + [f"report: {arguments.out / 'report.html'}"]
    print(json.dumps(summary, indent=2) if arguments.json else "\n".join(lines))


def audit(arguments: argparse.Namespace) -> int:
    """``audit``: the verdict, or everything as JSON; the page in --html."""
    from medvlm_r1.commands import audit as auditing

    report = auditing.run(arguments)
    print(json.dumps(report, indent=2) if arguments.json else auditing.summary(report))
    if arguments.html and not arguments.json:
        print(f"\nreport: {arguments.html}")
    return 0


def export(arguments: argparse.Namespace) -> int:
    """``export``: the files that were written, one a line."""
    from medvlm_r1.commands import export as exporting

    print(*exporting.run(arguments), sep="\n")
    return 0


def ask(arguments: argparse.Namespace) -> int:
    """``ask``: reasoning, answer and option probabilities."""
    from medvlm_r1.launch import training as launch
    from medvlm_r1.preflight import values as preflight
    from medvlm_r1.recipes import presets
    from medvlm_r1.rollout import answer as asking

    presets.apply(arguments)
    example = asking.question(arguments.image, arguments.question, tuple(arguments.options))
    with launch.memory_errors():
        policy = launch.load_model(arguments.model, arguments.dtype, arguments.max_pixels)
        template = arguments.template or (policy.template if example.options else "plain")
        preflight.check_prompt(policy, example, template)
        answer = asking.ask(policy, example, template, arguments.max_tokens)
    if arguments.json:
        print(json.dumps(answer.to_dict() | {"intended_use": INTENDED_USE}, indent=2))
        return 0
    print(f"Reasoning  {answer.reasoning or '(none)'}")
    print(f"Answer     {f'{answer.answer}) ' if answer.answer else ''}{answer.answer_text or '(none)'}  [{answer.status}]")
    if not answer.answer_text:
        print(f"Wrote      {answer.text}")
    for (letter, p), option in zip(answer.option_probs.items(), arguments.options, strict=True):
        print(f"  {letter}) {option:<24} {p:6.1%}  {'█' * round(30 * p)}")
    print(INTENDED_USE)
    return 0


def data(arguments: argparse.Namespace) -> int:
    """``data convert``, ``inspect``, ``split`` and ``harden``."""
    print(arguments.report(arguments))
    return 0


def demo(arguments: argparse.Namespace) -> int:
    """``demo``: the whole story."""
    from rich.console import Console

    from medvlm_r1.experiments.demo import Demo, Sizes, run

    sizes = Sizes.quick() if arguments.quick else Sizes()
    command = run(Demo(arguments.run_dir, sizes, arguments.seed, Console(), arguments.resume))
    print(f"Ask it yourself:\n  {command}")
    return 0


def reproduce(arguments: argparse.Namespace) -> int:
    """``reproduce``: every stage that is not finished, then the table."""
    from medvlm_r1.experiments import reproducing

    plan = reproducing.plan_of(arguments.data, arguments.recipe, arguments.model)
    if arguments.dry_run:
        print(reproducing.outlook(plan, arguments.out))
        return 0
    summary = reproducing.run(plan, arguments.out)
    print(json.dumps(summary, indent=2) if arguments.json else reproducing.table(summary))
    return 0


def study(arguments: argparse.Namespace) -> int:
    """``study``: every arm and control, ``--seeds`` times; finished ones are not done again."""
    from medvlm_r1.experiments import openrad, shortcut
    from medvlm_r1.experiments import study as recipe

    if arguments.openrad:
        print(openrad.run(arguments.openrad, arguments.run_dir or Path("runs/study-openrad"), arguments.seeds, arguments.jobs))
    elif arguments.shortcut:
        print(shortcut.run(arguments.run_dir or Path("runs/study-shortcut"), arguments.seeds))
    else:
        print(recipe.run(arguments.run_dir or Path("runs/study"), arguments.seeds, arguments.jobs))
    return 0


def nano(arguments: argparse.Namespace) -> int:
    """``nano``: draw the pictures, train the base, save it."""
    from medvlm_r1.experiments import nano_base

    nano_base.run(arguments.out, nano_base.NanoConfig())
    print(f"model: {arguments.out}")
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """``doctor``: what is here, what a recipe needs of it, and what to do about what is missing."""
    from medvlm_r1.commands.doctor import checks, memory_check, memory_table
    from medvlm_r1.preflight import forecast as planning

    rows, table, memory, memory_sft = checks(), [], None, None
    if arguments.recipe:
        forecast, assumed = planning.before_loading(_config(arguments))
        if supervised := _counterpart(arguments):
            sft, _ = planning.before_loading(supervised)
            rows.append(memory_check(sft, "memory of sft"))
            memory_sft = sft.to_dict() | {"assumed": assumed}
        rows.append(memory_check(forecast))
        table, memory = memory_table(forecast, assumed), forecast.to_dict() | {"assumed": assumed}
    if arguments.json:
        print(json.dumps({"checks": [row.__dict__ for row in rows], "memory": memory, "memory_sft": memory_sft}, indent=2))
    else:
        for row in rows:
            print(f"{'ok  ' if row.ok else 'MISS'} {row.name:<14} {row.found}{'' if row.ok else ' — ' + row.remedy}")
        print(*table, sep="\n", end="\n" * bool(table))
    return 0 if all(row.ok for row in rows) else 1


RUNS = {
    "train": train, "sft": train, "eval": evaluate, "compare": compare, "export": export, "ask": ask, "audit": audit, "data": data,
    "reproduce": reproduce, "demo": demo, "study": study, "nano": nano, "doctor": doctor,
}  # fmt: skip
