"""``medvlm-r1 doctor``: what is here, what a recipe needs of it, and what to do about what is missing."""

import json
from argparse import Namespace
from typing import Any

from medvlm_r1.commands.options import Commands, add, add_recipe, whole
from medvlm_r1.commands.train import configured

EXAMPLES = """
  medvlm-r1 doctor
  medvlm-r1 doctor paper                             will this recipe fit the memory that is here?
  medvlm-r1 doctor paper --set prompts_per_step=8 --json
  medvlm-r1 doctor medvlm_r1_lora_24gb --model google/medgemma-4b-it --card 24     will it fit a card that is not here?
  medvlm-r1 doctor paper --model Qwen/Qwen2-VL-72B-Instruct --many
"""


def register(commands: Commands) -> None:
    """A recipe, if its memory is to be planned."""
    sub = add(commands, "doctor", "hardware, versions and a recipe's memory plan, each with its remedy", EXAMPLES, run)
    sub.add_argument("recipe", nargs="?", help="plan the memory of this recipe")
    add_recipe(sub)
    sub.add_argument("--card", type=whole(1), metavar="GIB", help="plan for a GPU with so much memory in the place of what is here")
    sub.add_argument("--many", action="store_true", help="and what each of 1 to 1,024 GPUs would hold, and how long a step would take, by counting")
    sub.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: Namespace) -> int:
    """A line for each check; exit code 1 where one fails."""
    from medvlm_r1.preflight import many
    from medvlm_r1.preflight.doctor import checks, memory_check, memory_table
    from medvlm_r1.preflight.forecast import before_loading
    from medvlm_r1.preflight.machine import Device

    rows, table, memory, memory_sft = checks(), [], None, None
    if arguments.recipe:
        device = Device(f"a card of {arguments.card} GiB", arguments.card << 30, arguments.card << 30, is_host=False) if arguments.card else None
        forecast, assumed = before_loading(configured(arguments), device)
        if supervised := _counterpart(arguments):
            sft, _ = before_loading(supervised, device)
            rows.append(memory_check(sft, "memory of sft"))
            memory_sft = sft.to_dict() | {"assumed": assumed}
        rows.append(memory_check(forecast))
        table, memory = memory_table(forecast, assumed), forecast.to_dict() | {"assumed": assumed}
        if arguments.many:
            on_card = forecast if device else before_loading(configured(arguments), many.CARD)[0]  # whatever this machine has
            table += many.table(on_card.shape, on_card.work)
    if arguments.json:
        print(json.dumps({"checks": [row.__dict__ for row in rows], "memory": memory, "memory_sft": memory_sft}, indent=2))
    else:
        for row in rows:
            print(f"{'ok  ' if row.ok else 'MISS'} {row.name:<14} {row.found}{'' if row.ok else ' — ' + row.remedy}")
        print(*table, sep="\n", end="\n" * bool(table))
    return 0 if all(row.ok for row in rows) else 1


def _counterpart(arguments: Namespace) -> Any:
    """The supervised run beside a recipe's GRPO; None where there is none, or where ``--set`` names what it lacks."""
    from medvlm_r1.errors import ConfigError
    from medvlm_r1.recipes.named import RECIPES

    if not RECIPES[arguments.recipe].grpo:
        return None
    try:
        return configured(arguments, "sft")
    except ConfigError:
        return None
