"""What can be written after ``medvlm-r1``: commands, options, examples."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from medvlm_r1 import INTENDED_USE, __version__
from medvlm_r1.commands import data as data_commands
from medvlm_r1.evaluation.asking.meanings import DEFAULT_ARMS, MEANINGS
from medvlm_r1.recipes.presets import PRESETS

Run = Callable[[argparse.Namespace], int]

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
  medvlm-r1 eval --model runs/mine/checkpoints/step-300 --data questions.jsonl --arms image,blank --samples 4 --out runs/eval
  medvlm-r1 eval --model http://127.0.0.1:8000/v1 --data questions.jsonl --out runs/served     any OpenAI-compatible endpoint
  medvlm-r1 eval --preset medvlm-r1 --data "data/paper?split=test" --out runs/released   the released checkpoint""",
    "compare": """examples:
  medvlm-r1 compare runs/base runs/grpo --out runs/both
  medvlm-r1 compare "2B=runs/eval-2b" "72B=runs/served" runs/mine --out runs/three --json""",
    "export": """examples:
  medvlm-r1 export runs/eval --to csv                             samples.csv and table.csv in runs/eval/export/csv
  medvlm-r1 export runs/eval --to card --out my-model/card        README.md, a model card with the results in its metadata
  medvlm-r1 export runs/eval --to inspect --out logs/mine         then: inspect view --log-dir logs""",
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
    "reproduce": """examples:
  medvlm-r1 reproduce --data data/paper --dry-run    after: medvlm-r1 data split data/omnimedvqa data/paper --paper
  medvlm-r1 reproduce --data data/paper --out runs/reproduce
  medvlm-r1 reproduce --data data/paper --recipe medvlm_r1_lora_24gb --model ./Qwen2-VL-2B-Instruct""",
    "study": """examples:
  medvlm-r1 study --seeds 5                        all arms and controls; what is finished is not done again
  medvlm-r1 study --shortcut --seeds 3             does the evaluation expose a model that reads option texts?
  medvlm-r1 study --openrad openrad --seeds 3      on real pictures: openrad/labels.csv has file,modality,label,split,group""",
    "nano": """examples:
  medvlm-r1 nano --out runs/nano_base""",
    "doctor": """examples:
  medvlm-r1 doctor
  medvlm-r1 doctor paper                             will this recipe fit the memory that is here?
  medvlm-r1 doctor paper --set prompts_per_step=8 --json""",
}
QUICK_START = """first steps:
  medvlm-r1 demo                                     the whole story, in under five minutes on two cores
  medvlm-r1 train paper --data questions.jsonl       Qwen2-VL-2B on your own questions
  medvlm-r1 COMMAND --help                           options and examples of one command"""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage of every option before it."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser(runs: Mapping[str, Run]) -> argparse.ArgumentParser:
    """All commands and their options; ``runs`` says what each does."""
    top = Parser(
        prog="medvlm-r1", description=f"Teach a vision-language model to reason about radiology images. {INTENDED_USE}",
        epilog=QUICK_START, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    top.add_argument("--version", action="version", version=f"medvlm-r1 {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for kind, what in (("train", "reinforcement learning (GRPO)"), ("sft", "supervised fine-tuning, the baseline")):
        sub = _add(commands, kind, what, runs[kind])
        sub.add_argument("recipe", help="a recipe's name; --dry-run shows what it says")
        sub.add_argument("--model", help="a directory, a hub id, or nano; the recipe's if left out")
        sub.add_argument("--data", help="a manifest, a folder with one, hub:OWNER/NAME, or phantom:mri")
        sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value; may be repeated")
        sub.add_argument("--run-dir", type=Path, help="where the run goes; runs/RECIPE-FINGERPRINT if left out")
        sub.add_argument("--resume", action="store_true", help="go on with the run that is in the run directory")
        sub.add_argument("--dry-run", action="store_true", help="print the configuration and stop")
    _evaluating(commands, runs)
    _reproducing(commands, runs["reproduce"])
    _auditing(commands, runs["audit"])
    data_commands.register(commands, runs["data"])
    _embedded(commands, runs)
    return top


def _evaluating(commands: argparse._SubParsersAction, runs: Mapping[str, Run]) -> None:
    sub = _add(commands, "eval", "accuracy on held-out questions, with intervals and baselines", runs["eval"])
    _asking(sub, "an OpenAI-compatible address, ")
    sub.add_argument("--data", required=True, help="a manifest, a folder with one, hub:OWNER/NAME, or phantom:mri")
    sub.add_argument("--arms", default=DEFAULT_ARMS, help="what the questions are asked under, comma-separated, or all (default: %(default)s)")
    sub.add_argument("--train", metavar="DATA", help="what the text prior learns from; if left out, the other questions of --data")
    sub.add_argument("--in-domain", metavar="MODALITY", help="what the model was trained on: the gap to the others is measured")
    sub.add_argument("--probs", action="store_true", help="measure the probability of every option too, for the calibration")
    sub.add_argument("--samples", type=_whole(0), default=0, metavar="N", help="answers at temperature 1 beside the greedy one (default: %(default)s)")
    sub.add_argument("--out", type=Path, required=True, help="where samples, summary.json and report.html go")
    sub.add_argument(
        "--cache",
        type=Path,
        metavar="FILE",
        help="where completions are kept; several evaluations may share it, one after the other (default: OUT/completions.jsonl)",
    )
    sub.add_argument("--timeout", type=_seconds, default=300.0, metavar="S", help="seconds to wait for an endpoint's answer (default: %(default)g)")
    sub.epilog += "\n\narms:\n" + "\n".join(f"  {name:<18} {meaning}" for name, meaning in MEANINGS.items())
    sub.set_defaults(resume=True)  # the same command goes on where it was stopped
    sub = _add(commands, "compare", "several evaluations of the same questions: paired tests and one report", runs["compare"])
    sub.add_argument("evaluations", nargs="+", metavar="[NAME=]DIR", help="what eval left, base first; NAME stands for it on the page")
    sub.add_argument("--out", type=Path, required=True, help="where summary.json and report.html go")
    sub.add_argument("--json", action="store_true", help="print the summary as JSON")
    sub = _add(commands, "export", "an evaluation for a spreadsheet, as a model card, or for the viewer of Inspect AI", runs["export"])
    sub.add_argument("evaluation", type=Path, metavar="DIR", help="a folder that eval has written")
    sub.add_argument("--to", choices=("csv", "card", "inspect"), required=True, help="tables, a README.md for the hub, or logs")
    sub.add_argument("--out", type=Path, metavar="OUT", help="a new folder for the files (default: DIR/export/TO)")
    sub = _add(commands, "ask", "one question about one picture, with reasoning", runs["ask"])
    _asking(sub)
    sub.add_argument("image", help="a PNG, JPEG, TIFF, BMP or DICOM file, or a slice: head.nii.gz#axis=2&slice=17")
    sub.add_argument("question")
    sub.add_argument("--options", nargs="+", default=[], metavar="TEXT", help="the possible answers, in order of their letters; free text if left out")


def _reproducing(commands: argparse._SubParsersAction, run: Run) -> None:
    what = "the paper's table beside yours: base, SFT and GRPO, trained and evaluated; what is finished is not done again"
    sub = _add(commands, "reproduce", what, run)
    sub.add_argument("--data", required=True, help="OmniMedVQA, converted and split with: medvlm-r1 data split D OUT --paper")
    sub.add_argument("--model", help="a directory, a hub id, or nano; the recipe's if left out")
    sub.add_argument("--recipe", default="medvlm_r1_mri", help="a recipe with both trainings (default: %(default)s)")
    sub.add_argument("--out", type=Path, default=Path("runs/reproduce"), help="where everything goes (default: %(default)s)")
    sub.add_argument("--dry-run", action="store_true", help="print the stages and stop")
    sub.add_argument("--json", action="store_true", help="print the table's numbers as JSON")
    sub.set_defaults(resume=True)  # the same command goes on where it was stopped


def _auditing(commands: argparse._SubParsersAction, run: Run) -> None:
    sub = _add(commands, "audit", "what a question set gives away without its pictures, and what its pictures repeat", run)
    sub.add_argument("--data", required=True, help="the questions to audit: a manifest, a folder with one, hub:OWNER/NAME, or phantom:mri")
    sub.add_argument("--train", metavar="DATA", help="what a model is trained on; if left out, the split=train part of --data, else its other questions")
    sub.add_argument("--train-size", type=_whole(1), default=600, metavar="N", help="questions the text prior learns from (default: %(default)s)")
    sub.add_argument("--draws", type=_whole(1), default=20, metavar="K", help="how often they are drawn anew (default: %(default)s)")
    sub.add_argument("--images", choices=("files", "all", "none"), default="files", help="pictures to compare; all: phantoms too (default: %(default)s)")
    sub.add_argument("--html", type=Path, metavar="FILE", help="write the audit as a page")
    sub.add_argument("--json", action="store_true", help="print the result as JSON")


def _asking(sub: argparse.ArgumentParser, or_else: str = "") -> None:
    sub.add_argument("--model", help=f"a directory, a hub id, {or_else}or nano")
    sub.add_argument("--preset", choices=sorted(PRESETS), help="ask a published checkpoint as its authors do; --model may name a copy of it")
    sub.add_argument("--template", help="how the question is put; the one the model was trained with if left out")
    sub.add_argument("--max-tokens", type=_whole(1), metavar="N", help="longest answer, in tokens (default: 512)")
    sub.add_argument("--max-pixels", type=_whole(28**2), metavar="N", help="shrink larger images to this many pixels; the model's own limit if left out")
    sub.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="(default: %(default)s)")
    sub.add_argument("--json", action="store_true", help="print the result as JSON")


def _whole(least: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"wants a whole number, got {text}") from None
        if number < least:
            raise argparse.ArgumentTypeError(f"wants {least} or more, got {text}")
        return number

    return whole


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"wants seconds, more than 0, got {text}")
    return seconds


def _embedded(commands: argparse._SubParsersAction, runs: Mapping[str, Run]) -> None:
    sub = _add(commands, "demo", "the whole story on embedded data and weights", runs["demo"])
    sub.add_argument("--quick", action="store_true", help="a small form, for a check")
    sub.add_argument("--run-dir", type=Path, default=Path("runs/demo"))
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--resume", action="store_true", help="go on where it was stopped")
    sub = _add(commands, "study", "all arms and controls over several seeds", runs["study"])
    sub.add_argument("--openrad", type=Path, metavar="DIR", help="real pictures instead of the phantom: MRI, CT and X-ray with a labels.csv")
    sub.add_argument("--shortcut", action="store_true", help="models that read option texts against one that looks: does the evaluation tell them apart?")
    sub.add_argument("--seeds", type=_whole(1), default=5)
    sub.add_argument("--jobs", type=_whole(1), default=2, help="seeds at a time, one thread each (default: %(default)s)")
    sub.add_argument("--run-dir", type=Path, help="where it goes; runs/study, runs/study-openrad or runs/study-shortcut if left out")
    sub = _add(commands, "nano", "rebuild the embedded base model's weights", runs["nano"])
    sub.add_argument("--out", type=Path, default=Path("runs/nano_base"))
    sub = _add(commands, "doctor", "hardware, versions and a recipe's memory plan, each with its remedy", runs["doctor"])
    sub.add_argument("recipe", nargs="?", help="plan the memory of this recipe")
    sub.add_argument("--model", help="a directory, a hub id, or nano; the recipe's if left out")
    sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value; may be repeated")
    sub.add_argument("--json", action="store_true")


def _add(commands: argparse._SubParsersAction, name: str, what: str, run: Run) -> argparse.ArgumentParser:
    sub = commands.add_parser(
        name, help=what, description=f"{what}. {INTENDED_USE}",
        epilog=EXAMPLES.get(name), formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    sub.set_defaults(run=run)
    return sub
