"""``medvlm-r1 calibrate``: what a model's probabilities are worth, for ``serve`` to tell."""

import json
from argparse import ArgumentTypeError, Namespace
from dataclasses import asdict
from pathlib import Path

from medvlm_r1 import INTENDED_USE
from medvlm_r1.commands.options import Commands, add, add_asking
from medvlm_r1.recipes import presets

EXAMPLES = """
  medvlm-r1 calibrate --model nano --data "phantom:mri?split=test" --out runs/calibration.json
  medvlm-r1 calibrate --model nano --data "phantom:mri?split=test" --error 0.3 --out runs/calibration.json     serve abstains where more would be wrong
"""


def register(commands: Commands) -> None:
    """Which questions, and how much error is wanted."""
    sub = add(commands, "calibrate", "measure on held-out questions what a model's probabilities are worth", EXAMPLES, run)
    add_asking(sub)
    sub.add_argument("--data", required=True, help="held-out questions with options: a manifest, a folder with one, or phantom:mri")
    sub.add_argument("--error", type=_share, metavar="E", help="answer only where no more than this share is wrong; all is answered if left out")
    sub.add_argument("--out", type=Path, required=True, metavar="FILE", help="what serve --calibration takes")
    sub.set_defaults(resume=True)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise ArgumentTypeError(f"wants a share between 0 and 1, got {text}")
    return value


def run(arguments: Namespace) -> int:
    """A table of blocks; the same in --out."""
    from medvlm_r1.launch.calibrating import calibrate
    from medvlm_r1.launch.request import Request

    presets.apply(arguments)
    settings = {name: getattr(arguments, name) for name in ("model", "data", "out", "template", "max_tokens", "max_pixels", "dtype")}
    found = calibrate(Request(**settings, probs=True), arguments.error, arguments.out.with_suffix(".completions.jsonl"))
    if arguments.json:
        print(json.dumps(asdict(found) | {"intended_use": INTENDED_USE}, indent=2))
        return 0
    print(f"probability from   right    95 % interval   answers of {found.n} to {found.data}")
    for block in found.blocks:
        print(f"{block.low:16.3f} {block.share:7.1%}   {block.ci95[0]:6.1%} – {block.ci95[1]:6.1%}   {block.n}")
    print(f"answers are given from {found.threshold:.1%} right" if found.threshold else "all is answered; --error E sets a threshold")
    print(INTENDED_USE)
    return 0
