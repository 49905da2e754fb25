"""What each loss makes of the embedded model: trained as the demo's GRPO is, with the loss, its advantages and its updates exchanged.

    .venv/bin/python benchmarks/losses.py [--steps 60] [--seeds 3] [--jobs 2] [--json FILE]

Every run's answers are kept in --out: the same call goes on where it was stopped. benchmarks/README.md says what is measured.
"""

import argparse
import datetime
import json
import os
import shlex
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "_systems"))

from processes import ROOT, commit, environ, hardware, say, write_json

FOUR = ("update.mini_batches=4",)  # of two questions each: with one update a rollout no ratio leaves 1, and no bound is met
ARMS: dict[str, tuple[str, ...]] = {
    "demo": (),
    "grpo": FOUR,
    "gdpo": (*FOUR, "advantage=gdpo"),
    "dr_grpo": (*FOUR, "update.loss=dr_grpo", "advantage=dr_grpo"),
    "dapo": (*FOUR, "update.loss=dapo", "redraws=2", 'rewards={"format": 1, "accuracy": 1, "overlong": 1}'),
    "gspo": (*FOUR, "update.loss=gspo"),
    "cispo": (*FOUR, "update.loss=cispo"),
    "sapo": (*FOUR, "update.loss=sapo"),
}
REPORTED = ("reward", "completion_length", "entropy", "kl", "ratio", "clip_fraction", "skipped_groups", "zero_variance_groups", "drawn_groups", "drawn_reward")
SCOPES = {"all": ("mri", "ct", "xray"), "ct+xray": ("ct", "xray")}


def config(name: str, steps: int, seed: int) -> Any:
    """The demo's recipe with an arm's values."""
    from medvlm_r1.config import override
    from medvlm_r1.recipes.named import find

    return override(find("nano", "grpo"), [f"steps={steps}", f"save_every={steps}", f"seed={seed}", *ARMS[name]])


def of_arm(args: argparse.Namespace, seed: int, name: str) -> dict[str, Any]:
    """Its answers with the picture (greedy and drawn) and without (greedy); "base" is the model before."""
    from medvlm_r1.evaluation.asking.run import EvalConfig
    from medvlm_r1.evaluation.samples import read_samples, write_samples
    from medvlm_r1.experiments.study import test_questions
    from medvlm_r1.launch import training
    from medvlm_r1.launch.evaluating import evaluate_policy
    from medvlm_r1.launch.loading import load_model
    from medvlm_r1.recipes import nano

    folder = args.out / f"seed-{seed}" / name
    files = {arm: folder / f"{arm}.jsonl" for arm in ("image", "blank")}
    if not files["blank"].exists():
        say(f"seed {seed}, {name}")
        test = [example for m in SCOPES["all"] for example in [e for e in test_questions() if e.modality == m][: args.questions]]
        model = "nano"
        if name != "base":
            training.run(config(name, args.steps, seed), folder / "run", resume=True)
            model = str(training.trained_model(folder / "run"))
        folder.mkdir(parents=True, exist_ok=True)
        for arm, drawn in (("image", args.samples), ("blank", 0)):
            write_samples(files[arm], evaluate_policy(load_model(model), test, EvalConfig("think", drawn, nano.MAX_TOKENS, seed, arm), lambda done: None))
    return {arm: read_samples(file) for arm, file in files.items()}


def figures(samples: dict[str, list[dict[str, Any]]], args: argparse.Namespace) -> dict[str, Any]:
    """Means over seeds with 95 % intervals by question, each arm against the demo's, and what training reported at its end."""
    from medvlm_r1.evaluation.measuring import metrics
    from medvlm_r1.experiments.study import mean_cell, paired

    arms = {
        name: {
            "sets": list(ARMS.get(name, ())),
            **{m: mean_cell([one["image"] for one in per_seed], m) for m in SCOPES["all"]},
            "blank": {m: _mean([metrics.arm_table(one["blank"])[m]["accuracy"] for one in per_seed]) for m in SCOPES["all"]},
            "training": [training_of(args.out / f"seed-{seed}" / name / "run") for seed in range(len(per_seed))] if name != "base" else [],
        }
        for name, per_seed in samples.items()
    }
    images = {name: [one["image"] for one in per_seed] for name, per_seed in samples.items()}
    first = next((name for name in samples if name != "base"), "base")
    against = {f"{name}-{first}": paired(images[name], images[first], SCOPES) for name in samples if name not in (first, "base")}
    chance = {m: cell["accuracy"] for m, cell in metrics.chance(images["base"][0]).items() if isinstance(cell, dict)}
    return {"chance": chance, "arms": arms, "paired": against | {f"{first}-base": paired(images[first], images["base"], SCOPES)}}


def training_of(run_dir: Path) -> dict[str, float]:
    """Means over the last tenth of a run's steps, and its seconds."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    last = rows[-max(1, len(rows) // 10) :]
    told = {key: _mean([row[key] for row in last]) for key in REPORTED if all(row.get(key) is not None for row in last)}
    return told | {"seconds": sum(value for row in rows for key, value in row.items() if key.startswith("seconds/"))}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def table(result: dict[str, Any]) -> str:
    """Sampled / greedy accuracy for a person."""
    lines = [f"{'':10}" + "".join(f"{m:>16}" for m in (*SCOPES["all"], "mean"))]
    for name, arm in result["arms"].items():
        cells = [[100 * arm[m][key] for m in SCOPES["all"]] for key in ("sampled", "accuracy")]
        lines.append(f"{name:10}" + "".join(f"{s:9.1f} /{g:5.1f}" for s, g in zip(*([*row, _mean(row)] for row in cells), strict=True)))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--losses", type=lambda text: text.split(","), default=list(ARMS), help=f"of {', '.join(ARMS)}; the others are compared with the first")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=300, help="of each modality")
    parser.add_argument("--samples", type=int, default=4, help="drawn answers to each question")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, one thread each")
    parser.add_argument("--out", type=Path, default=ROOT / "runs/bench/losses")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if unknown := [name for name in args.losses if name not in ARMS]:
        parser.error(f"unknown loss {unknown[0]}; known are {', '.join(ARMS)}")
    wanted = environ(1)
    if any(os.environ.get(name) != wanted[name] for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "PYTHONPATH")):
        os.execve(sys.executable, [sys.executable, *sys.argv], wanted)  # the library reads them once, when it is loaded
    from medvlm_r1.experiments.study import every_seed

    args.out = args.out / f"steps-{args.steps}-questions-{args.questions}-samples-{args.samples}"
    started = time.monotonic()
    result = {
        "setting": {key: value for key, value in vars(args).items() if key not in ("json", "out")},
        **figures(every_seed(partial(of_arm, args), {name: name for name in ("base", *args.losses)}, args.seeds, args.jobs), args),
        "seconds": time.monotonic() - started,
        "hardware": hardware(),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "date": datetime.date.today().isoformat(), "commit": commit(), "command": shlex.join(["python", *sys.argv]),
    }  # fmt: skip
    if args.json:
        write_json(args.json, result)
    say(table(result))


if __name__ == "__main__":
    main()
