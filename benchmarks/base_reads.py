"""What the embedded base reads before it gets its habits: greedy answers to all held-out questions of the phantom, by type, and where on the screen.

    .venv/bin/python benchmarks/base_reads.py runs/nano_base-work/stage-4-….safetensors --json benchmarks/results/base-reads.json

A stage's weights are left by ``medvlm-r1 nano`` beside its model.
"""

import argparse
import datetime
import shlex
import sys
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model

from medvlm_r1.data.phantom import sets
from medvlm_r1.evaluation.asking.run import EvalConfig
from medvlm_r1.evaluation.measuring.statistics import wilson
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.launch import loading
from medvlm_r1.launch.evaluating import evaluate_policy
from medvlm_r1.reasoning import parse
from medvlm_r1.rewards.naming import named_last

sys.path.insert(0, str(Path(__file__).parent / "_systems"))

from processes import commit, hardware, say, write_json

ASKED = ("mri", "ct", "xray", "pointing-mri", "pointing-ct", "pointing-xray")


def read(samples: Sequence[Sample]) -> dict[str, Any]:
    """Accuracy with its interval, by type of question; and how often the letter is that of the option which the thought names last.

    >>> one = Sample("q", "mri", "side", "p", "Which?", ("left", "right"), "B", (), "image", "<think>Hence right.</think><answer>B</answer>", "B", "answered", True, 9)
    >>> found = read([one])
    >>> found["accuracy"], found["by_type"], found["thought_right"], found["letter_follows"]
    (1.0, {'side': {'accuracy': 1.0, 'n': 1}}, 1.0, 1.0)
    """
    of_type: dict[str, list[bool]] = defaultdict(list)
    for sample in samples:
        of_type[sample.question_type].append(sample.correct)
    named = [(named_last(parse(s.text, len(s.options)).think, s.options), s) for s in samples]
    right = sum(s.correct for s in samples)
    return {
        "accuracy": right / len(samples), "ci95_questions": wilson(right, len(samples)), "n": len(samples),
        "by_type": {kind: {"accuracy": sum(of) / len(of), "n": len(of)} for kind, of in sorted(of_type.items())},
        "thought_right": sum(letter == s.gold for letter, s in named) / len(samples),
        "letter_follows": sum(letter == s.answer for letter, s in named) / len(samples),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", type=Path, help="a stage's weights")
    parser.add_argument("--questions", type=int, default=300, help="of each set (default: %(default)s)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    policy = loading.load_model("nano")
    load_model(policy.model, args.stage)
    found = {}
    for name in ASKED:
        samples = evaluate_policy(policy, sets.load(name, "test")[: args.questions], EvalConfig("think", 0, 64, 0, "image"), lambda done: None)
        found[name] = read(samples)
        say(f"{name}: {100 * found[name]['accuracy']:.1f} % right, the letter is the thought's in {100 * found[name]['letter_follows']:.1f} %")
    if args.json:
        write_json(args.json, {
            "date": datetime.date.today().isoformat(), "stage": args.stage.name, "sets": found, "hardware": hardware(),
            "versions": {name: version(name) for name in ("torch", "transformers")}, "commit": commit(), "command": shlex.join(["python", *(word.replace(str(args.stage.parent), "runs/nano_base-work") for word in sys.argv)]),
        })  # fmt: skip


if __name__ == "__main__":
    main()
