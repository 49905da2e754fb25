"""``medvlm-r1 demo``: the whole story on embedded data and weights."""

from argparse import Namespace
from pathlib import Path

from medvlm_r1.commands.options import Commands, add, whole

EXAMPLES = """
  medvlm-r1 demo              the whole story, in under five minutes on two cores
  medvlm-r1 demo --quick      a small form of it, to see that everything works
  medvlm-r1 demo --resume     go on where Ctrl-C stopped it
"""


def register(commands: Commands) -> None:
    """How much of it, and where it goes."""
    sub = add(commands, "demo", "the whole story on embedded data and weights", EXAMPLES, run)
    sub.add_argument("--quick", action="store_true", help="a small form, for a check")
    sub.add_argument("--run-dir", type=Path, default=Path("runs/demo"))
    sub.add_argument("--seed", type=whole(0), default=0)
    sub.add_argument("--resume", action="store_true", help="go on where it was stopped")


def run(arguments: Namespace) -> int:
    """Tell it, and say how to ask a question oneself."""
    from rich.console import Console

    from medvlm_r1.experiments import demo

    sizes = demo.Sizes.quick() if arguments.quick else demo.Sizes()
    command = demo.run(demo.Demo(arguments.run_dir, sizes, arguments.seed, Console(), arguments.resume))
    print(f"Ask it yourself:\n  {command}")
    return 0
