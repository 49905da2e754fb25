"""What a GRPO step of ours costs against its sizes: group, image, images of a prompt, completion.

    .venv/bin/python benchmarks/scaling.py [--device cuda] [--threads 1] [--repeats 5] [--json FILE]

All sizes in turns on one small model; medians. benchmarks/README.md says what is measured.
"""

import argparse
import datetime
import shlex
import statistics
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "_systems"))

from processes import SYSTEMS, System, commit, environ, hardware, say, write_json
from protocol import SETTINGS, Point, Work

PHASES = ("step", "rollout", "reference", "update")
COUNTS = ("images_encoded", "lm_tokens", "lm_head_positions")
SWEPT = {"group": (4, 8, 16), "image_px": (168, 336, 504), "images": (1, 2, 4), "tokens": (32, 64, 128)}
TINY = {"group": (2, 4), "image_px": (56,), "images": (1, 2), "tokens": (4,)}
CLAIM = 2.2  # the most that four times the completions may cost


def grid(base: Point, swept: dict[str, tuple[int, ...]]) -> list[Point]:
    """The base and its neighbours along each axis, each point once.

    >>> [(p.group, p.tokens) for p in grid(Point(), {"group": (4, 8), "tokens": (64, 128)})]
    [(4, 64), (8, 64), (8, 128)]
    """
    points = [replace(base, **{axis: value}) for axis, values in swept.items() for value in values]
    return list(dict.fromkeys(points))


def figures(point: Point, steps: list[dict[str, Any]], prompt_tokens: int) -> dict[str, Any]:
    """Medians of one point's seconds; the counts of a step, which are the same in all, and those of its update alone."""
    if any(step["counts"] != steps[0]["counts"] for step in steps):
        raise AssertionError(f"the steps at {point} did different work")
    seconds = [step["seconds"] | {"step": sum(step["seconds"].values())} for step in steps]
    counts: Counter = sum((Counter(of) for of in steps[0]["counts"].values()), Counter())
    return {
        **asdict(point),
        "prompt_tokens": prompt_tokens,
        **{f"{phase}_s": round(statistics.median(second[phase] for second in seconds), 4) for phase in PHASES},
        **{name: counts[name] for name in COUNTS},
        "update_counts": steps[0]["counts"].get("update", {}),
        "all_steps_s": [round(second["step"], 4) for second in seconds],
    }


def growth(points: list[dict[str, Any]], base: Point, axis: str, low: int, high: int) -> float | None:
    """A step's seconds at the high value over those at the low one; None where either was not measured.

    >>> rows = [asdict(Point(group=g)) | {"step_s": s} for g, s in ((4, 1.0), (16, 1.9))]
    >>> growth(rows, Point(), "group", 4, 16)
    1.9
    """
    wanted = [asdict(replace(base, **{axis: value})) for value in (low, high)]
    seconds = [row["step_s"] for want in wanted for row in points if want.items() <= row.items()]
    return round(seconds[1] / seconds[0], 2) if len(seconds) == 2 else None


def measure(points: list[Point], args: argparse.Namespace) -> tuple[dict[str, Any], list[list[dict[str, Any]]]]:
    """What the process said when it was ready, and the measured rounds."""
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
        work = Work(Path(folder))
        work.write("sweep", {"points": [asdict(point) for point in points], "setting": args.setting})
        system = System("sweep", [sys.executable, SYSTEMS / "sweep.py"], work, environ(args.threads, gpu=args.device == "cuda"))
        if not system.ready["device"].startswith(args.device):
            system.stop()
            say("--device cuda needs a CUDA GPU, and there is none; leave it out to measure on the CPU")
            raise SystemExit(2)
        for number in range(1 + args.repeats):
            system.step()
            taken = sum(sum(step["seconds"].values()) for step in system.steps[-1]["steps"])
            say(f"round {number + 1}/{1 + args.repeats}: {taken:.1f} s" + " (warm-up)" * (number == 0))
        system.stop()
    return system.ready, [each["steps"] for each in system.steps[1:]]


def report(args: argparse.Namespace, points: list[Point], ready: dict[str, Any], rounds: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """What ``--json`` writes."""
    rows = [figures(point, [steps[n] for steps in rounds], ready["prompt_tokens"][n]) for n, point in enumerate(points)]
    claim = growth(rows, Point(), "group", 4, 16)
    of_model = ("name", "hidden", "layers", "mlp", "vision_width", "vision_depth", "beta")
    model = {name: getattr(SETTINGS[args.setting], name) for name in of_model}
    return {
        "setting": model | {"parameters": ready["parameters"], "device": args.device, "threads": args.threads},
        "points": rows,
        "claim": {"group_4_to_16": claim, "at_most": CLAIM, "holds": None if claim is None else claim <= CLAIM},
        "hardware": hardware(args.device if args.device == "cuda" else None),
        "versions": {"ours": {name: version(name) for name in ("torch", "transformers")}},
        "commit": commit(),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def table(result: dict[str, Any]) -> str:
    """The figures for a person."""
    names = ("group", "image_px", "images", "tokens", "prompt_tokens", *(f"{phase}_s" for phase in PHASES), *COUNTS)
    rows = [[*names], *([f"{point[name]:,}" for name in names] for point in result["points"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(names))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    claim = result["claim"]
    if claim["group_4_to_16"]:
        said = f"G from 4 to 16 costs us {claim['group_4_to_16']}x (claimed: at most {CLAIM}x; 336 px, 64 tokens)"
        lines.append(said if claim["holds"] else f"{said}: the claim does not hold here")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=5, help="measured steps at each size")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="the smallest model and sizes, to see that everything works")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.setting = "tiny" if args.tiny else "small"
    base = Point(group=2, image_px=56, tokens=4) if args.tiny else Point()
    points = grid(base, TINY if args.tiny else SWEPT)
    result = report(args, points, *measure(points, args))
    if args.json:
        write_json(args.json, result)
    print(table(result))


if __name__ == "__main__":
    main()
