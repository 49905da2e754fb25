"""The command ``medvlm-r1``. Exit codes: 0 ok, 1 a check failed, 2 wrong usage, 130 stopped."""

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from medvlm_r1 import INTENDED_USE, __version__, data_commands
from medvlm_r1.errors import MedVLMError

EXAMPLES = {
    "train": """examples:
  medvlm-r1 train nano                               the embedded model on the phantom, a minute on a CPU
  medvlm-r1 train paper --data questions.jsonl       Qwen2-VL-2B on your own questions
  medvlm-r1 train paper --model ./my-qwen2-vl --data questions.jsonl --set steps=100 --set optim.lr=2e-6
  medvlm-r1 train nano --resume                      go on where Ctrl-C stopped it""",
    "sft": """examples:
  medvlm-r1 sft nano
  medvlm-r1 sft nano-traces --run-dir runs/traces""",
    "eval": """examples:
  medvlm-r1 eval --model nano --data "phantom:mri?split=test" --out runs/base
  medvlm-r1 eval --model runs/mine/checkpoints/step-300 --data questions.jsonl --arms image,blank --samples 4 --out runs/eval""",
    "ask": """examples:
  medvlm-r1 ask --model nano scan.png "Which side is the lesion on?" --options left right both
  medvlm-r1 ask --model runs/mine/checkpoints/step-300 scan.png "What is abnormal?" --json""",
    "audit": """examples:
  medvlm-r1 audit --data questions.jsonl --html runs/audit.html                  every check, learnt from its own questions
  medvlm-r1 audit --data "q.jsonl?split=test" --train "q.jsonl?split=train" --html runs/audit.html
  medvlm-r1 audit --data q.jsonl --images none --json                            the texts alone, for a script""",
    "demo": """examples:
  medvlm-r1 demo              the whole story, in under five minutes on two cores
  medvlm-r1 demo --quick      a small form of it, to see that everything works
  medvlm-r1 demo --resume     go on where Ctrl-C stopped it""",
    "study": """examples:
  medvlm-r1 study --seeds 5   all arms and controls; what is finished is not done again""",
    "nano": """examples:
  medvlm-r1 nano --out runs/nano_base""",
    "doctor": """examples:
  medvlm-r1 doctor
  medvlm-r1 doctor --json""",
}
QUICK_START = """first steps:
  medvlm-r1 demo                                     the whole story, in under five minutes on two cores
  medvlm-r1 train paper --data questions.jsonl       Qwen2-VL-2B on your own questions
  medvlm-r1 COMMAND --help                           options and examples of one command"""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = parser().parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except MedVLMError as error:
        print(f"medvlm-r1: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nmedvlm-r1: stopped{_how_to_go_on(arguments, argv)}", file=sys.stderr)
        return 130


def _how_to_go_on(arguments: argparse.Namespace, argv: list[str]) -> str:
    if not hasattr(arguments, "resume"):
        return ""
    return f"; go on with: medvlm-r1 {shlex.join([*argv, *(['--resume'] if not arguments.resume else [])])}"


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage of every option before it."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = Parser(
        prog="medvlm-r1", description=f"Teach a vision-language model to reason about radiology images. {INTENDED_USE}",
        epilog=QUICK_START, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    top.add_argument("--version", action="version", version=f"medvlm-r1 {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for kind, what in (("train", "reinforcement learning (GRPO)"), ("sft", "supervised fine-tuning, the baseline")):
        sub = _add(commands, kind, what, train)
        sub.add_argument("recipe", help="a recipe's name; --dry-run shows what it says")
        sub.add_argument("--model", help="a directory, a hub id, or nano; the recipe's if left out")
        sub.add_argument("--data", help="a manifest, a folder with one, or phantom:mri")
        sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value; may be repeated")
        sub.add_argument("--run-dir", type=Path, help="where the run goes; runs/RECIPE-FINGERPRINT if left out")
        sub.add_argument("--resume", action="store_true", help="go on with the run that is in the run directory")
        sub.add_argument("--dry-run", action="store_true", help="print the configuration and stop")
    _evaluating(commands)
    _auditing(commands)
    data_commands.register(commands, data)
    _embedded(commands)
    return top


def _evaluating(commands: argparse._SubParsersAction) -> None:
    sub = _add(commands, "eval", "accuracy on held-out questions, with intervals and baselines", evaluate)
    _asking(sub)
    sub.add_argument("--data", required=True, help="a manifest, a folder with one, or phantom:mri")
    sub.add_argument("--arms", default="image,blank", help="what the model is shown, comma-separated (default: %(default)s)")
    sub.add_argument("--samples", type=_whole(0), default=0, metavar="N", help="answers at temperature 1 beside the greedy one (default: %(default)s)")
    sub.add_argument("--out", type=Path, required=True, help="where samples, summary.json and report.html go")
    sub = _add(commands, "ask", "one question about one picture, with reasoning", ask)
    _asking(sub)
    sub.add_argument("image", help="a PNG, JPEG, TIFF, BMP or DICOM file, or a slice: head.nii.gz#axis=2&slice=17")
    sub.add_argument("question")
    sub.add_argument("--options", nargs="+", default=[], metavar="TEXT", help="the possible answers, in order of their letters; free text if left out")


def _auditing(commands: argparse._SubParsersAction) -> None:
    sub = _add(commands, "audit", "what a question set gives away without its pictures, and what its pictures repeat", audit)
    sub.add_argument("--data", required=True, help="the questions to audit: a manifest, a folder with one, or phantom:mri")
    sub.add_argument("--train", metavar="DATA", help="what a model is trained on; if left out, the split=train part of --data, else its other questions")
    sub.add_argument("--train-size", type=_whole(1), default=600, metavar="N", help="questions the text prior learns from (default: %(default)s)")
    sub.add_argument("--draws", type=_whole(1), default=20, metavar="K", help="how often they are drawn anew (default: %(default)s)")
    sub.add_argument("--images", choices=("files", "all", "none"), default="files", help="pictures to compare; all: phantoms too (default: %(default)s)")
    sub.add_argument("--html", type=Path, metavar="FILE", help="write the audit as a page")
    sub.add_argument("--json", action="store_true", help="print the result as JSON")


def _asking(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--model", required=True, help="a directory, a hub id, or nano")
    sub.add_argument("--template", help="how the question is put; the one the model was trained with if left out")
    sub.add_argument("--max-tokens", type=_whole(1), default=512, metavar="N", help="longest answer, in tokens (default: %(default)s)")
    sub.add_argument("--max-pixels", type=_whole(28**2), metavar="N", help="shrink larger images to this many pixels; the model's own limit if left out")
    sub.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="(default: %(default)s)")
    sub.add_argument("--json", action="store_true", help="print the result as JSON")


def _whole(least: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"wants {least} or more, got {text}")
        return int(text)

    return whole


def _embedded(commands: argparse._SubParsersAction) -> None:
    sub = _add(commands, "demo", "the whole story on embedded data and weights", demo)
    sub.add_argument("--quick", action="store_true", help="a small form, for a check")
    sub.add_argument("--run-dir", type=Path, default=Path("runs/demo"))
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--resume", action="store_true", help="go on where it was stopped")
    sub = _add(commands, "study", "all arms and controls over several seeds", study)
    sub.add_argument("--seeds", type=int, default=5)
    sub.add_argument("--jobs", type=int, default=2, help="seeds at a time, one thread each (default: %(default)s)")
    sub.add_argument("--run-dir", type=Path, default=Path("runs/study"))
    sub = _add(commands, "nano", "rebuild the embedded base model's weights", nano)
    sub.add_argument("--out", type=Path, default=Path("runs/nano_base"))
    sub = _add(commands, "doctor", "hardware and versions, each with its remedy", doctor)
    sub.add_argument("--json", action="store_true")


def _add(commands: argparse._SubParsersAction, name: str, what: str, run: object) -> argparse.ArgumentParser:
    sub = commands.add_parser(
        name, help=what, description=f"{what}. {INTENDED_USE}",
        epilog=EXAMPLES.get(name), formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    sub.set_defaults(run=run)
    return sub


def train(arguments: argparse.Namespace) -> int:
    """``train`` and ``sft``."""
    from medvlm_r1 import launch
    from medvlm_r1.config import fingerprint, override, to_dict
    from medvlm_r1.recipes import find

    config = find(arguments.recipe, "grpo" if arguments.command == "train" else "sft")
    given = {key: value for key in ("model", "data") if (value := getattr(arguments, key))}
    config = override(replace(config, **given), arguments.set)
    launch.check(config)
    if arguments.dry_run:
        print(json.dumps({"fingerprint": fingerprint(config), "config": to_dict(config)}, indent=2))
        return 0
    run_dir = arguments.run_dir or launch.default_run_dir(arguments.recipe, config)
    if not launch.run(config, run_dir, arguments.resume):
        raise KeyboardInterrupt
    print(f"model: {launch.trained_model(run_dir)}")
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    """``eval``: samples.jsonl per arm, summary.json and report.html in --out."""
    from medvlm_r1 import evaluating

    summary = evaluating.run(arguments)
    print(json.dumps(summary, indent=2) if arguments.json else f"report: {arguments.out / 'report.html'}")
    return 0


def audit(arguments: argparse.Namespace) -> int:
    """``audit``: the verdict, or everything as JSON; the page in --html."""
    from medvlm_r1 import auditing

    report = auditing.run(arguments)
    print(json.dumps(report, indent=2) if arguments.json else auditing.summary(report))
    if arguments.html and not arguments.json:
        print(f"\nreport: {arguments.html}")
    return 0


def ask(arguments: argparse.Namespace) -> int:
    """``ask``: reasoning, answer and option probabilities."""
    from medvlm_r1 import ask as asking
    from medvlm_r1 import launch

    example = asking.question(arguments.image, arguments.question, tuple(arguments.options))
    with launch.memory_errors():
        policy = launch.load_model(arguments.model, arguments.dtype, arguments.max_pixels)
        template = arguments.template or (policy.template if example.options else "plain")
        launch.check_prompt(policy, example, template)
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

    from medvlm_r1.demo import Demo, Sizes, run

    sizes = Sizes.quick() if arguments.quick else Sizes()
    command = run(Demo(arguments.run_dir, sizes, arguments.seed, Console(), arguments.resume))
    print(f"Ask it yourself:\n  {command}")
    return 0


def study(arguments: argparse.Namespace) -> int:
    """``study``: every arm and control, ``--seeds`` times; finished ones are not done again."""
    from medvlm_r1.recipes import study as recipe

    print(recipe.run(arguments.run_dir, arguments.seeds, arguments.jobs))
    return 0


def nano(arguments: argparse.Namespace) -> int:
    """``nano``: draw the pictures, train the base, save it."""
    from medvlm_r1.recipes import nano_base

    nano_base.run(arguments.out, nano_base.NanoConfig())
    print(f"model: {arguments.out}")
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """``doctor``: what is here, and what to do about what is not."""
    from medvlm_r1.doctor import checks

    rows = checks()
    if arguments.json:
        print(json.dumps([row.__dict__ for row in rows], indent=2))
    else:
        for row in rows:
            print(f"{'ok  ' if row.ok else 'MISS'} {row.name:<14} {row.found}{'' if row.ok else ' — ' + row.remedy}")
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
