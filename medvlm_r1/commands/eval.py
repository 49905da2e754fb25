"""``medvlm-r1 eval``: accuracy on held-out questions, with intervals and baselines."""

import sys
from argparse import Namespace
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvlm_r1.commands.compare import show
from medvlm_r1.commands.options import Commands, add, add_asking, seconds, whole
from medvlm_r1.errors import ConfigError
from medvlm_r1.evaluation.asking.meanings import DEFAULT_ARMS, MEANINGS
from medvlm_r1.recipes import presets
from medvlm_r1.wording import called

if TYPE_CHECKING:
    from medvlm_r1.launch.request import Request

EXAMPLES = """
  medvlm-r1 eval --model nano --data "phantom:mri?split=test" --out runs/base
  medvlm-r1 eval --model runs/mine/checkpoints/step-300 --data questions.jsonl --arms image,blank --samples 4 --out runs/eval
  medvlm-r1 eval --model http://127.0.0.1:8000/v1 --data questions.jsonl --out runs/served     any OpenAI-compatible endpoint
  medvlm-r1 eval --model nano --data vqa-rad.jsonl --judge http://127.0.0.1:9000/v1#big --out runs/open     free answers, judged too
  medvlm-r1 eval --watch runs/mine --data "q.jsonl?split=val" --arms image --out runs/curve     each checkpoint, while it trains
  medvlm-r1 eval --preset medvlm-r1 --data "data/paper?split=test" --out runs/released   the released checkpoint
"""


def register(commands: Commands) -> None:
    """What may be asked, of whom, and where the answers go."""
    sub = add(commands, "eval", "accuracy on held-out questions, with intervals and baselines", EXAMPLES, run)
    add_asking(sub, "an OpenAI-compatible address, ")
    watch = "ask each checkpoint of this run as it appears, until the run ends; what came of step-N goes to OUT/step-N"
    sub.add_argument("--watch", type=Path, metavar="RUN", help=watch)
    sub.add_argument("--data", required=True, help="a manifest, a folder with one, hub:OWNER/NAME, or phantom:mri")
    sub.add_argument("--arms", default=DEFAULT_ARMS, help="what the questions are asked under, comma-separated, or all (default: %(default)s)")
    sub.add_argument("--train", metavar="DATA", help="what the text prior learns from; if left out, the other questions of --data")
    sub.add_argument("--in-domain", metavar="MODALITY", help="what the model was trained on: the gap to the others is measured")
    sub.add_argument("--probs", action="store_true", help="measure the probability of every option too, for the calibration")
    sub.add_argument("--samples", type=whole(0), default=0, metavar="N", help="answers at temperature 1 beside the greedy one (default: %(default)s)")
    sub.add_argument("--out", type=Path, required=True, help="where samples, summary.json and report.html go")
    record = "where completions are kept; several evaluations may share it, one after the other (default: OUT/completions.jsonl)"
    sub.add_argument("--cache", type=Path, metavar="FILE", help=record)
    judge = "a language model at this address (#MODEL behind it) judges answers to questions without options, beside the rule; key: MEDVLM_JUDGE_KEY"
    sub.add_argument("--judge", metavar="URL", help=judge)
    sub.add_argument("--timeout", type=seconds, default=300.0, metavar="S", help="seconds to wait for an endpoint's answer (default: %(default)g)")
    sub.epilog = f"{sub.epilog}\n\narms:\n" + "\n".join(f"  {name:<18} {meaning}" for name, meaning in MEANINGS.items())
    sub.set_defaults(resume=True)  # the same command goes on where it was stopped


def run(arguments: Namespace) -> int:
    """samples.jsonl per arm, summary.json and report.html in --out. Exit code 1 where answers are missing."""
    from medvlm_r1.launch.evaluating import evaluate
    from medvlm_r1.launch.following import follow
    from medvlm_r1.launch.request import Request

    if arguments.watch and (arguments.model or arguments.preset):
        raise ConfigError(f"--watch {arguments.watch} names the models to ask, so there is none to name beside it; drop --model and --preset")
    arguments.model = str(arguments.watch) if arguments.watch else arguments.model
    presets.apply(arguments)
    request = Request(**{field.name: getattr(arguments, field.name) for field in fields(Request)})
    asked = follow(request, arguments.watch) if arguments.watch else [(request, evaluate(request))]
    return max((_tell(each, summary, arguments) for each, summary in asked), default=0)


def _tell(asked: "Request", summary: dict[str, Any], arguments: Namespace) -> int:
    show({called(asked.model): summary}, summary, Namespace(out=asked.out, json=arguments.json))
    if failed := sum(summary["failed"].values()):
        print(f"medvlm-r1: {failed} answers are missing; the same command again asks only for these", file=sys.stderr)
    if unjudged := ((summary.get("open") or {}).get("judged_by") or {}).get("failed", 0):
        print(f"medvlm-r1: {unjudged} verdicts of the judge are missing; the same command again asks only for these", file=sys.stderr)
    return 1 if failed or unjudged else 0
