"""``medvlm-r1 nano``: draw the pictures, train the embedded base, save it."""

from argparse import Namespace
from pathlib import Path

from medvlm_r1.commands.options import Commands, add

EXAMPLES = """
  medvlm-r1 nano --out runs/nano_base
"""


def register(commands: Commands) -> None:
    """Where it goes."""
    sub = add(
        commands,
        "nano",
        "rebuild the embedded base model's weights: an hour and a half on two cores; given again, it goes on behind the last finished stage",
        EXAMPLES,
        run,
    )
    sub.add_argument("--out", type=Path, default=Path("runs/nano_base"))


def run(arguments: Namespace) -> int:
    """Draw, train, save."""
    from medvlm_r1.experiments import nano_base

    nano_base.run(arguments.out, nano_base.NanoConfig())
    print(f"model: {arguments.out}")
    return 0
