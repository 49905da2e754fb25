"""The command ``medvlm-r1``. Exit codes: 0 ok, 1 a check failed, 2 wrong usage, 130 stopped."""

import argparse
import io
import os
import shlex
import sys

from medvlm_r1 import INTENDED_USE, __version__
from medvlm_r1.commands import ask, audit, audit_log, calibrate, compare, data, demo, doctor, eval, export, launch, nano, real, reproduce, serve, study, train
from medvlm_r1.commands.options import Parser
from medvlm_r1.errors import ConfigError, MedVLMError

COMMANDS = (train, launch, eval, compare, export, ask, calibrate, serve, audit_log, reproduce, audit, data, demo, study, nano, real, doctor)
QUICK_START = """first steps:
  medvlm-r1 demo                                     the whole story, in under five minutes on two cores
  medvlm-r1 train paper --data questions.jsonl       Qwen2-VL-2B on your own questions
  medvlm-r1 COMMAND --help                           options and examples of one command"""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    sys.stdout, sys.stderr = sys.stdout or io.StringIO(), sys.stderr or io.StringIO()  # closed by the shell
    for stream in (sys.stdout, sys.stderr):  # a sign that a terminal has not is no reason to lose a result
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = parser().parse_args(argv)
    try:
        _require_said(arguments)
        code: int = arguments.run(arguments)
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


def parser() -> argparse.ArgumentParser:
    """All commands and their options; each file of this folder adds its own."""
    top = Parser(
        prog="medvlm-r1",
        description=f"Teach a vision-language model to reason about radiology images. {INTENDED_USE}",
        epilog=QUICK_START,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"medvlm-r1 {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.register(commands)
    return top


def _require_said(arguments: argparse.Namespace) -> None:
    """An option without a value, as of a variable that is not set, is not one that was left out."""
    for name in ("data", "model", "train", "test_during", "judge", "in_domain"):
        if getattr(arguments, name, None) == "":
            raise ConfigError(f"--{name.replace('_', '-')} is empty; leave it out, or name one")


def _how_to_go_on(arguments: argparse.Namespace, argv: list[str]) -> str:
    if not hasattr(arguments, "resume"):
        return ""
    return f"; go on with: medvlm-r1 {shlex.join([*argv, *(['--resume'] if not arguments.resume else [])])}"
