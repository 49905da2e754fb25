"""``medvlm-r1 ask``: one question about one picture, with reasoning."""

import json
from argparse import Namespace

from medvlm_r1 import INTENDED_USE
from medvlm_r1.commands.options import Commands, add, add_asking
from medvlm_r1.recipes import presets

EXAMPLES = """
  medvlm-r1 ask --model nano scan.png "Which side is the lesion on?" --options left right both
  medvlm-r1 ask --model runs/mine/checkpoints/step-300 scan.png "What is abnormal?" --json
"""


def register(commands: Commands) -> None:
    """A picture, a question, and what may be answered."""
    sub = add(commands, "ask", "one question about one picture, with reasoning", EXAMPLES, run)
    add_asking(sub)
    sub.add_argument("image", help="a PNG, JPEG, TIFF, BMP or DICOM file, or a slice: head.nii.gz#axis=2&slice=17")
    sub.add_argument("question")
    sub.add_argument("--options", nargs="+", default=[], metavar="TEXT", help="the possible answers, in order of their letters; free text if left out")


def run(arguments: Namespace) -> int:
    """Reasoning, answer and option probabilities."""
    from medvlm_r1.launch.asking import load
    from medvlm_r1.rollout.told import question

    presets.apply(arguments)
    question(arguments.image, arguments.question, tuple(arguments.options))  # what cannot be asked need not wait for the model
    model = load(arguments.model, dtype=arguments.dtype, max_pixels=arguments.max_pixels)
    answer = model.ask(arguments.image, arguments.question, arguments.options, template=arguments.template, max_tokens=arguments.max_tokens)
    if arguments.json:
        print(json.dumps(answer.to_dict() | {"intended_use": INTENDED_USE}, indent=2))
        return 0
    print(f"Reasoning  {answer.reasoning or '(none)'}")
    print(f"Answer     {f'{answer.answer}) ' if answer.answer else ''}{answer.answer_text or '(none)'}  [{answer.status}]")
    for warned in answer.warnings:
        print(f"Warning    {warned.text}")
    if not answer.answer_text:
        print(f"Wrote      {answer.text}")
    for (letter, p), option in zip(answer.option_probs.items(), arguments.options, strict=False):
        print(f"  {letter}) {option:<24} {p:6.1%}  {'█' * round(30 * p)}")
    print(INTENDED_USE)
    return 0
