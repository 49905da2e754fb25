"""What it costs to run a model by transformers' own code: a GRPO step of the same model with a shared prefix and without, in turns.

    .venv/bin/python benchmarks/general.py [--kind gemma3] [--repeats 5] [--json FILE]

The embedded model, or a tiny one of another kind with random weights (tests/family_models.py); 8 questions, 8 rollouts each, as long as
the demo's. benchmarks/README.md says what is measured.
"""

import argparse
import datetime
import os
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "_systems"))

from processes import commit, environ, hardware, say, write_json

PATHS = {"shared prefix": True, "general": False}


def step(policy: Any, prompts: Any, seed: int) -> dict[str, float]:
    """Seconds of the rollouts, and of a backward pass through the log-probabilities of what they wrote."""
    from medvlm_r1.recipes import nano
    from medvlm_r1.rollout.engine import Sampling
    from medvlm_r1.rollout.engines import local
    from medvlm_r1.types import Rollout, RolloutGroup

    began = time.perf_counter()
    written = local(policy, learning=True).generate(prompts, Sampling(8, 1.0, nano.MAX_TOKENS, seed))
    between = time.perf_counter()
    groups = [RolloutGroup(prompt, tuple(Rollout(each, {}) for each in group)) for prompt, group in zip(prompts, written, strict=True)]
    with policy.images.cut_off():
        policy.logprobs(policy.encoder.groups(groups)).sum().backward()
    policy.images.backward()
    policy.model.zero_grad(set_to_none=True)
    policy.version += 1
    return {"rollout": between - began, "update": time.perf_counter() - between, "step": time.perf_counter() - began}


def tiny(kind: str, folder: Path) -> str:
    """A checkpoint with random weights, as the tests of families make it."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    import family_models

    return str(family_models.checkpoint_of(kind, folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", default="nano")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    wanted = environ(2)
    if any(os.environ.get(name) != wanted[name] for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "PYTHONPATH")):
        os.execve(sys.executable, [sys.executable, *sys.argv], wanted)  # the library reads them once, when it is loaded
    from medvlm_r1.data.dataset import load_dataset
    from medvlm_r1.data.images import load_image
    from medvlm_r1.models.families import load_policy
    from medvlm_r1.reasoning import render

    with tempfile.TemporaryDirectory() as folder:
        model = args.kind if args.kind == "nano" else tiny(args.kind, Path(folder))
        policies = {name: load_policy(model, load_image, shared_prefix=shared) for name, shared in PATHS.items()}
    prompts = [render(example, "think") for example in load_dataset("phantom:mri?split=train").head(8)]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in PATHS}
    for n in range(args.repeats + 1):  # the first warms up
        for name, policy in policies.items():
            found[name].append(step(policy, prompts, n))
    medians = {name: {part: statistics.median(row[part] for row in rows[1:]) for part in rows[0]} for name, rows in found.items()}
    ratio = {part: round(medians["general"][part] / value, 2) for part, value in medians["shared prefix"].items()}
    say(f"seconds {medians}; the general path takes {ratio} times as long")
    if args.json:
        about = {"hardware": hardware(), "date": datetime.date.today().isoformat(), "commit": commit(), "command": shlex.join(["python", *sys.argv])}
        write_json(args.json, {"kind": args.kind, "seconds": medians, "ratio": ratio, "repeats": args.repeats, **about})


if __name__ == "__main__":
    main()
