"""Does a served model give the answers that the same weights give here? Letters and texts, question by question.

    .venv/bin/python benchmarks/served.py CHECKPOINT http://127.0.0.1:8123/v1 [--data …] [--arms …] [--json FILE]

benchmarks/README.md says how the server is started.
"""

import argparse
import datetime
import json
import shlex
import sys
import tempfile
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medvlm_r1.commands import main as cli
from medvlm_r1.evaluation.samples import Sample, read_samples

sys.path.insert(0, str(Path(__file__).parent / "_systems"))

from processes import commit, hardware, say, write_json

LEAST_EQUAL = 0.99


def evaluate(model: str, template: str, args: argparse.Namespace, out: Path) -> dict[str, list[Sample]]:
    """Arm -> samples, through the command that a user types."""
    words = ["--data", args.data, "--arms", args.arms, "--max-tokens", str(args.max_tokens), "--template", template, "--out", str(out)]
    if cli.main(["eval", "--model", model, *words]):
        raise SystemExit(f"the evaluation of {model} is not complete")
    return {file.stem.removeprefix("samples-"): read_samples(file) for file in sorted(out.glob("samples-*.jsonl"))}


def agreement(here: list[Sample], there: list[Sample]) -> dict[str, Any]:
    """How many of the same prompts were answered with the same letter (none is a letter too), and with the same text."""
    pairs = list(zip(here, there, strict=True))
    if any((a.id, a.question, a.options) != (b.id, b.question, b.options) for a, b in pairs):
        raise SystemExit("the two evaluations asked different questions")
    return {
        "n": len(pairs),
        "same_letters": sum(a.answer == b.answer for a, b in pairs),
        "same_texts": sum(a.text == b.text for a, b in pairs),
        "answered": sum(a.answer is not None for a, _ in pairs),
        "accuracy": [sum(s.correct for s in side) / len(pairs) for side in (here, there)],
    }


def server_of(url: str) -> dict[str, Any]:
    """What the server says of itself, where it does."""
    try:
        with urllib.request.urlopen(url.removesuffix("/v1") + "/version", timeout=10) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return {}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint")
    parser.add_argument("url")
    parser.add_argument("--data", default="phantom:mri?split=test")
    parser.add_argument("--arms", default="image,blank")
    parser.add_argument("--template", default="think")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        here, there = (evaluate(model, args.template, args, Path(folder) / name) for name, model in (("here", args.checkpoint), ("there", args.url)))
    arms = {arm: agreement(samples, there[arm]) for arm, samples in here.items()}
    share = sum(found["same_letters"] for found in arms.values()) / sum(found["n"] for found in arms.values())
    result = {
        "date": datetime.date.today().isoformat(), "command": shlex.join(["benchmarks/served.py", Path(args.checkpoint).name, *sys.argv[2:]]),
        "commit": commit(), "hardware": hardware(), "server": server_of(args.url),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "data": args.data, "arms": arms, "same_letters": share, "claim": {"same_letters": LEAST_EQUAL, "holds": share >= LEAST_EQUAL},
    }  # fmt: skip
    if args.json:
        write_json(args.json, result)
    for arm, found in arms.items():
        say(f"{arm}: {found['same_letters']} of {found['n']} letters, {found['same_texts']} texts")
    return 0 if share >= LEAST_EQUAL else 1


if __name__ == "__main__":
    sys.exit(main())
