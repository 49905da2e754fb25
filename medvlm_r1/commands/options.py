"""What several commands share: how a command is added, and the values that options take."""

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from medvlm_r1 import INTENDED_USE
from medvlm_r1.recipes.presets import PRESETS

Run = Callable[[argparse.Namespace], int]
Commands = Any  # what add_subparsers returns; argparse keeps its class to itself


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage of every option before it."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def add(commands: Commands, name: str, what: str, examples: str, run: Run | None = None) -> argparse.ArgumentParser:
    """A command of this name; ``run`` is what it does."""
    sub: argparse.ArgumentParser = commands.add_parser(
        name,
        help=what,
        description=f"{what}. {INTENDED_USE}",
        epilog=f"examples:\n{examples.strip(chr(10))}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if run:
        sub.set_defaults(run=run)
    return sub


def add_asking(sub: argparse.ArgumentParser, or_else: str = "") -> None:
    """The options of a command that asks a model."""
    sub.add_argument("--model", help=f"a directory, a hub id, {or_else}or nano")
    add_preset(sub)
    sub.add_argument("--template", help="how the question is put; the one the model was trained with if left out")
    sub.add_argument("--max-tokens", type=whole(1), metavar="N", help="longest answer, in tokens (default: 512)")
    sub.add_argument("--max-pixels", type=whole(28**2), metavar="N", help="shrink larger images to this many pixels; the model's own limit if left out")
    sub.add_argument("--dtype", choices=("float32", "bfloat16"), help="in which numbers to compute; the model's own on a GPU, float32 on a CPU if left out")
    sub.add_argument("--json", action="store_true", help="print the result as JSON")


def add_preset(sub: argparse.ArgumentParser) -> None:
    """The option that names a published checkpoint."""
    sub.add_argument("--preset", choices=sorted(PRESETS), help="a published checkpoint, asked as its authors ask it; --model may name a copy of it")


def add_recipe(sub: argparse.ArgumentParser) -> None:
    """The options that change a recipe."""
    sub.add_argument("--model", help="a directory, a hub id, or nano; the recipe's if left out")
    add_preset(sub)
    sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value; may be repeated")


def whole(least: int, most: int = 2**63) -> Callable[[str], int]:
    """A type of whole numbers from ``least`` on, to ``most``.

    >>> whole(1)("12")
    12
    """

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"wants a whole number, got {text}") from None
        if number < least:
            raise argparse.ArgumentTypeError(f"wants {least} or more, got {text}")
        if number > most:
            raise argparse.ArgumentTypeError(f"wants {most} or less, got {text}")
        return number

    return read


def seconds(text: str) -> float:
    """A time above zero.

    >>> seconds("1.5")
    1.5
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"wants seconds, more than 0, got {text}")
    return value
