"""``medvlm-r1 train`` and ``sft``: a recipe becomes a run."""

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

from medvlm_r1.commands.options import Commands, add, add_recipe, whole
from medvlm_r1.launch import sinks
from medvlm_r1.recipes import presets

TRAIN = """
  medvlm-r1 train nano                               the embedded model on the phantom, a minute on a CPU
  medvlm-r1 train paper --data questions.jsonl       Qwen2-VL-2B on your own questions
  medvlm-r1 train paper --model ./my-qwen2-vl --data questions.jsonl --set steps=100 --set optim.lr=2e-6
  medvlm-r1 train paper --preset med-r1 --model ./med-r1-ct --data questions.jsonl     a published checkpoint, asked in its own words
  medvlm-r1 train paper --data questions.jsonl --set 'rewards={"accuracy": 1, "my.py:short": 0.5}'     a reward of your own
  medvlm-r1 train paper --data questions.jsonl --set update.loss=dapo --set update.mini_batches=4     another loss: docs/losses.md
  medvlm-r1 train paper --data questions.jsonl --set sampling.n=8 --set meter=2     does it still look at the pictures?
  medvlm-r1 train paper --data "q.jsonl?split=train" --test-during "q.jsonl?split=val" --set stop.patience=4     tested as it learns
  medvlm-r1 train paper --data questions.jsonl --track wandb     numbers go to Weights & Biases, too (WANDB_MODE=offline keeps them here)
  medvlm-r1 train nano --resume                      go on where Ctrl-C stopped it
"""
TESTED = {"held_out.data": "test_during", "held_out.every": "test_every"}
SFT = """
  medvlm-r1 sft nano
  medvlm-r1 sft nano-traces --run-dir runs/traces
  medvlm-r1 sft nano --test-during "phantom:mri?split=test" --test-every 15     and then: medvlm-r1 ask --model runs/…@best …
"""


def register(commands: Commands) -> None:
    """Both trainings take the same options."""
    for name, what, examples in (("train", "reinforcement learning (GRPO)", TRAIN), ("sft", "supervised fine-tuning, the baseline", SFT)):
        sub = add(commands, name, what, examples, run)
        sub.add_argument("recipe", help="a recipe's name; --dry-run shows what it says")
        sub.add_argument("--data", help="a manifest, a folder with one, hub:OWNER/NAME, or phantom:mri")
        add_recipe(sub)
        during = "held-out questions, asked as it learns (held_out.data); the checkpoint that answers most of them right is RUN@best"
        sub.add_argument("--test-during", metavar="DATA", help=during)
        sub.add_argument("--test-every", type=whole(1), metavar="N", help="behind every N-th step and the last (held_out.every; default: 25)")
        sub.add_argument("--track", action="append", default=[], choices=sinks.SINKS, help="also send the numbers there; may be repeated")
        sub.add_argument("--run-dir", type=Path, help="where the run goes; runs/RECIPE-FINGERPRINT if left out")
        sub.add_argument("--resume", action="store_true", help="go on with the run that is in the run directory")
        sub.add_argument("--dry-run", action="store_true", help="print the configuration and stop")


def run(arguments: Namespace) -> int:
    """Train, then tell what changed and where the model is. Of many processes the first tells."""
    from medvlm_r1.training.distributed import joined

    with joined() as world:
        return _run(arguments, world.leads)


def _run(arguments: Namespace, leads: bool) -> int:
    config = configured(arguments, "grpo" if arguments.command == "train" else "sft")
    if arguments.dry_run:
        if leads:
            print(json.dumps(outlook(config), indent=2))
        return 0
    from medvlm_r1.launch import training
    from medvlm_r1.models.runs import best
    from medvlm_r1.report.learning import tell

    run_dir = arguments.run_dir or training.default_run_dir(arguments.recipe, config)
    if not training.run(config, run_dir, arguments.resume, [sinks.opener(name) for name in arguments.track]):
        raise KeyboardInterrupt
    if leads:
        print(f"{tell(run_dir)}\nreport: {run_dir / 'report.html'}\nmodel: {training.trained_model(run_dir)}")
        if found := best(run_dir):
            print(f"best:  {found} ({run_dir}@best)")
    return 0


def configured(arguments: Namespace, kind: str = "") -> Any:
    """The recipe's configuration with everything that the command line changes, its values checked."""
    from medvlm_r1.config import changed, override
    from medvlm_r1.preflight.values import check
    from medvlm_r1.recipes.named import find

    given = presets.trained(arguments.preset) | {key: value for key in ("model", "data") if (value := getattr(arguments, key, None))}
    tested = {key: value for key, name in TESTED.items() if (value := getattr(arguments, name, None))}
    config = override(changed(replace(find(arguments.recipe, kind), **given), tested), arguments.set)
    check(config)
    return config


def outlook(config: Any) -> dict[str, Any]:
    """What a dry run prints: the configuration, and the memory that it takes."""
    from medvlm_r1.config import fingerprint, to_dict
    from medvlm_r1.errors import ModelError
    from medvlm_r1.preflight import forecast

    try:
        planned, assumed = forecast.before_loading(config)
        memory = planned.to_dict() | {"assumed": assumed}
    except ModelError as error:  # the model may be on another machine
        memory = {"unknown": str(error)}
    return {"fingerprint": fingerprint(config), "config": to_dict(config), "memory": memory}
