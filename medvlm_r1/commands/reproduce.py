"""``medvlm-r1 reproduce``: base, SFT and GRPO on the paper's split, and the paper's table beside ours."""

import json
from argparse import Namespace
from pathlib import Path

from medvlm_r1.commands.options import Commands, add

EXAMPLES = """
  medvlm-r1 reproduce --data data/paper --dry-run    after: medvlm-r1 data split data/omnimedvqa data/paper --paper
  medvlm-r1 reproduce --data data/paper --out runs/reproduce
  medvlm-r1 reproduce --data data/paper --recipe medvlm_r1_lora_24gb --model ./Qwen2-VL-2B-Instruct
"""


def register(commands: Commands) -> None:
    """The split, the recipe, and where everything goes."""
    what = "the paper's table beside yours: base, SFT and GRPO, trained and evaluated; what is finished is not done again"
    sub = add(commands, "reproduce", what, EXAMPLES, run)
    sub.add_argument("--data", required=True, help="OmniMedVQA, converted and split with: medvlm-r1 data split D OUT --paper")
    sub.add_argument("--model", help="a directory, a hub id, or nano; the recipe's if left out")
    sub.add_argument("--recipe", default="medvlm_r1_mri", help="a recipe with both trainings (default: %(default)s)")
    sub.add_argument("--out", type=Path, default=Path("runs/reproduce"), help="where everything goes (default: %(default)s)")
    sub.add_argument("--dry-run", action="store_true", help="print the stages and stop")
    sub.add_argument("--json", action="store_true", help="print the table's numbers as JSON")
    sub.set_defaults(resume=True)  # the same command goes on where it was stopped


def run(arguments: Namespace) -> int:
    """Every stage that is not finished, then the table."""
    from medvlm_r1.experiments import reproduction

    plan = reproduction.plan_of(arguments.data, arguments.recipe, arguments.model)
    if arguments.dry_run:
        print(reproduction.outlook(plan, arguments.out))
        return 0
    summary = reproduction.run(plan, arguments.out)
    print(json.dumps(summary, indent=2) if arguments.json else reproduction.table(summary))
    return 0
