"""How often is a model that cannot see called looking, and one that sees called anything else? By simulation, seeded, with the product's rule.

Three modalities. A blind model is right by a text prior of its own that is the same in every arm or drawn anew, and may be silent without its own
picture. A model that sees is right in 80 % with its picture and by chance without it. Patients have one question or four.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medvlm_r1.evaluation.measuring.looking import LOOKS, look
from medvlm_r1.evaluation.samples import Sample

MODALITIES = ("mri", "ct", "xray")


@dataclass(frozen=True)
class Model:
    """A simulated model; ``sees`` is its accuracy with its own picture, None where it is blind."""

    sees: float | None = None
    fixed: bool = False
    refuses: float = 0.0


MODELS = {
    "blind, answers drawn anew": Model(),
    "blind, the same answers": Model(fixed=True),
    "blind, drawn anew, refuses 5 % without its picture": Model(refuses=0.05),
    "blind, drawn anew, refuses 9.5 %": Model(refuses=0.095),
    "blind, the same answers, refuses 9.5 %": Model(fixed=True, refuses=0.095),
    "sees": Model(sees=0.8),
    "sees a little": Model(sees=0.45),
}


def simulated(rng: np.random.Generator, model: Model, patients: int, size: int) -> dict[str, list[Sample]]:
    """The three arms of one evaluation, ``patients`` of ``size`` questions in each modality."""
    n = patients * size * len(MODALITIES)
    ease_N = np.repeat(rng.beta(1, 2, patients * len(MODALITIES)), size)  # 33 % right by text, patients differ
    always_N = rng.random(n) < ease_N
    arms = {}
    for arm in ("image", "blank", "mismatch"):
        right_N = always_N if model.fixed else rng.random(n) < ease_N
        if model.sees is not None:
            right_N = rng.random(n) < (model.sees if arm == "image" else 0.25)
        mute_N = (rng.random(n) < model.refuses) & (arm != "image")
        arms[arm] = [_sample(i, patients * size, size, arm, right, mute) for i, (right, mute) in enumerate(zip(right_N.tolist(), mute_N.tolist(), strict=True))]
    return arms


def _sample(i: int, each: int, size: int, arm: str, right: bool, mute: bool) -> Sample:
    answer = None if mute else "A" if right else "B"
    status = "abstained" if mute else "answered"
    place = f"{'other' if arm == 'mismatch' else ''}{i}.png"
    return Sample(
        str(i), MODALITIES[i // each], "side", str(i // size), "?", ("a", "b", "c", "d"), "A", (place,), arm, "", answer, status, right and not mute, 1
    )


def measure(runs: int, settings: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """model -> "patients x questions" -> shares of modalities, and of whole evaluations, that are called looking."""
    found: dict[str, Any] = {}
    for name, model in MODELS.items():
        for patients, size in settings:
            rng, each, whole = np.random.default_rng(0), 0, 0
            for _ in range(runs):
                told = look(simulated(rng, model, patients, size))
                each += sum(one.level == LOOKS for one in told.modalities.values())
                whole += told.level == LOOKS
            found.setdefault(name, {})[f"{patients} x {size}"] = {"modalities": each / runs / len(MODALITIES), "evaluations": whole / runs}
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Run it, print a line for each cell, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    found = measure(args.runs, [(20, 1), (100, 1), (20, 4), (75, 4)])
    for name, cells in found.items():
        print(name, {setting: f"{100 * cell['modalities']:.1f} / {100 * cell['evaluations']:.1f} %" for setting, cell in cells.items()})
    if args.json:
        args.json.write_text(json.dumps({"command": f"benchmarks/blind.py --runs {args.runs}", "called_looking": found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
