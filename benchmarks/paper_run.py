"""The paper's whole run at Qwen2-VL-2B's true size, random weights in bf16, on one GPU: ours, TRL, and the R1-V way.

    .venv/bin/python benchmarks/paper_run.py [--systems ours,trl,r1v] [--image-tokens 512] [--group 8] [--json FILE]

One system after the other, each in a process of its own, those with the fewest
steps first. FILE is whole after every step, so that a run that is killed keeps
what it measured. benchmarks/README.md says what is measured and counted.
"""

import argparse
import datetime
import importlib.util
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "_systems"))

import costs  # noqa: E402
from paper import PaperSetting, PaperWork  # noqa: E402
from processes import SYSTEMS, Stopped, System, commit, environ, hardware, say, write_json  # noqa: E402

SCRIPTS = {"ours": "paper_ours.py", "trl": "paper_trl.py", "r1v": "r1v.py"}
PHASES = ("step", "rollout", "prefill", "decode", "reference", "update", "other")
DATASHEET_FLOPS = 989e12  # H100 SXM, dense bf16
# Said before any measurement: of the matmul peak in prefill, reference and update, of the copy bandwidth in decoding.
PREDICTED_SHARE = {"prefill": 0.4, "decode": 0.5, "reference": 0.4, "update": 0.4}
PAPER_STEPS = 300
NEEDED_GIB = 64


# ---------------------------------------------------------------- figures


def by_phase(seconds: dict[str, float]) -> dict[str, float]:
    """A step's seconds. The prompts' own part of a rollout is measured apart where a system shows it.

    >>> by_phase({"rollout": 3.0, "prefill": 1.0, "reference": 0.5, "update": 0.5, "other": 0.0})["rollout"]
    4.0
    """
    prefill = seconds.get("prefill", 0.0)
    return {
        "step": sum(seconds.values()), "rollout": seconds["rollout"] + prefill, "prefill": prefill, "decode": seconds["rollout"],
        "reference": seconds["reference"], "update": seconds["update"], "other": seconds["other"],
    }  # fmt: skip


def projected(steps_s: list[float], steps: int) -> float:
    """A run of so many steps: the first as it was, the others at their mean.

    >>> projected([5.0, 2.0, 4.0], steps=300)
    902.0
    """
    rest = steps_s[1:] or steps_s
    return steps_s[0] + (steps - 1) * statistics.fmean(rest)


def fresh_images(setting: PaperSetting, steps: int) -> float:
    """The share of a run's images that the reference meets for the first time.

    >>> fresh_images(PaperSetting(), 300), fresh_images(PaperSetting(), 6)
    (0.5, 1.0)
    """
    shown = setting.prompts * steps
    return min(shown, setting.images) / shown


def summary(setting: PaperSetting, system: System, device: dict[str, Any], wanted: int) -> dict[str, Any]:
    """One system's figures after the steps it has done; medians without the first step, sums with it."""
    steps_s = [by_phase(step["seconds"]) for step in system.steps]
    counted = steps_s[setting.warmup :] or steps_s
    median = {phase: statistics.median(step[phase] for step in counted) for phase in PHASES}
    step, done = setting.step(len(system.ready["prompt_ids"])), len(steps_s)
    flops = costs.step_flops(setting.dimensions, step, fresh_images(setting, done))
    total_s = sum(each["step"] for each in steps_s)
    peaks = {"matmul": device["matmul_flops"]} | ({} if setting.tiny else {"datasheet": DATASHEET_FLOPS})
    last = system.steps[-1]
    counts = {phase: dict(of) for phase, of in last["counts"].items() if of}
    return {
        "steps": done,
        "extrapolated": None if done == PAPER_STEPS else f"{PAPER_STEPS} steps from {done} measured ones",
        **{f"{phase}_s": round(median[phase], 4) for phase in PHASES},
        "total_s": round(total_s, 3),
        "phases_total_s": {phase: round(sum(each[phase] for each in steps_s), 3) for phase in PHASES},
        f"projected_{PAPER_STEPS}_steps_s": round(projected([each["step"] for each in steps_s], PAPER_STEPS), 1),
        "mfu_update": {peak: round(costs.mfu(flops["update"], median["update"], of), 4) for peak, of in peaks.items()},
        "mfu_total": {peak: round(costs.mfu(done * sum(flops.values()), total_s, of), 4) for peak, of in peaks.items()},
        "decode_share_of_bandwidth": round(floor(setting, step, device)["decode"] / median["decode"], 4),
        "tokens_per_s": round(step.prompts * step.group * step.completion / median["rollout"], 1),
        "peak_bytes": last.get("peak_gpu_bytes", last["peak_bytes"]),
        "peak_host_bytes": last["peak_bytes"],
        **{name: sum(of.get(name, 0) for of in counts.values()) for name in ("images_encoded", "lm_tokens", "lm_head_positions") if counts},
        "by_phase": counts,
        "is_finished": done == wanted,
        "all_steps_s": [round(each["step"], 4) for each in steps_s],
    }


def floor(setting: PaperSetting, step: costs.Step, device: dict[str, Any]) -> dict[str, float]:
    """The least seconds of each phase on this device, by the peaks measured on it."""
    item = 4 if setting.tiny else 2
    return costs.floor_seconds(setting.dimensions, step, device["matmul_flops"], device["copy_bytes"], item)


def expectation(setting: PaperSetting, prompt_tokens: int, device: dict[str, Any]) -> dict[str, Any]:
    """What a step needs, the least time for it, and the time predicted for ours."""
    step = setting.step(prompt_tokens)
    least = floor(setting, step, device)
    predicted = {phase: seconds / PREDICTED_SHARE[phase] for phase, seconds in least.items()}
    return {
        "needed": {
            "images_a_pass": step.prompts, "lm_tokens_a_pass": step.lm_tokens,
            "lm_head_positions_a_pass": step.prompts * step.group * step.completion,
            "tflop": {phase: round(flops / 1e12, 3) for phase, flops in costs.step_flops(setting.dimensions, step).items()},
            "decode_gb": round(costs.decode_bytes(setting.dimensions, step) / 1e9, 3),
            "optimizer_gb": round(costs.OPTIMIZER_BYTES * setting.dimensions.parameters / 1e9, 3),
        },
        "floor_s": rounded(least),
        "predicted_s": rounded(predicted),
        "predicted_share": PREDICTED_SHARE,
    }  # fmt: skip


def rounded(seconds: dict[str, float]) -> dict[str, float]:
    total = {"step": sum(seconds.values()), f"{PAPER_STEPS}_steps": PAPER_STEPS * sum(seconds.values())}
    return {phase: round(value, 4) for phase, value in (seconds | total).items()}


def largest_difference(ours: list[list[float]], theirs: list[list[float]]) -> float:
    return max(abs(a - b) for row, other in zip(ours, theirs, strict=True) for a, b in zip(row, other, strict=True))


# ---------------------------------------------------------------- the run


class Results:
    """What ``--json`` holds, written anew whenever there is more to say."""

    def __init__(self, setting: PaperSetting, device: dict[str, Any], file: Path | None) -> None:
        self.setting, self.device, self.file, self.ready = setting, device, file, {}
        self.content: dict[str, Any] = {
            "setting": vars(setting) | {"name": setting.name, "image_px": setting.image_px, "dtype": setting.dtype},
            "systems": {}, "skipped": {}, "failed": {}, "ratio": {}, "max_abs_dlogp": {}, "is_finished": False,
            "device": device, "memory_gib": costs.memory_gib(setting.dimensions, bool(setting.beta)),
            "hardware": hardware(device["gpu"]),
            "versions": {"ours": {name: version(name) for name in ("torch", "transformers")}},
            "commit": commit(),
            "command": shlex.join([Path(sys.executable).name, *sys.argv]),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }  # fmt: skip

    def write(self) -> None:
        if self.file:
            write_json(self.file, self.content)

    def start(self, system: System) -> None:
        """A system is loaded: does it see the same prompt, and say the same about the same completions?"""
        ready, setting = system.ready, self.setting
        self.ready[system.name] = ready
        if any(ready["prompt_ids"] != other["prompt_ids"] for other in self.ready.values()):
            raise AssertionError("the systems were asked different prompts")
        if ready["parameters"] != setting.dimensions.parameters:
            raise AssertionError(f"the model has {ready['parameters']:,} parameters, counted are {setting.dimensions.parameters:,}")
        if "versions" in ready:
            self.content["versions"][system.name] = ready["versions"]
        tokens = len(ready["prompt_ids"])
        self.content["setting"] |= {"prompt_tokens": tokens, "parameters": ready["parameters"]}
        self.content |= expectation(setting, tokens, self.device)
        if "ours" in self.ready:
            others = {name: other for name, other in self.ready.items() if name != "ours"}
            ours = self.ready["ours"]["logprobs"]
            self.content["max_abs_dlogp"] = {name: largest_difference(ours, other["logprobs"]) for name, other in others.items()}

    def add(self, system: System, wanted: int) -> None:
        """A system has taken a step."""
        systems = self.content["systems"]
        systems[system.name] = summary(self.setting, system, self.device, wanted)
        if "ours" in systems:
            self.content["ratio"] = {
                name: {phase: round(other[f"{phase}_s"] / systems["ours"][f"{phase}_s"], 2) for phase in ("step", "rollout", "update")}
                for name, other in systems.items() if name != "ours"
            }  # fmt: skip
        self.write()


def measure(results: Results, steps: dict[str, int], pythons: dict[str, Path]) -> None:
    """All systems, one after the other: two models of this size with their optimisers do not fit on one GPU."""
    setting = results.setting
    env = environ(setting.threads, gpu=not setting.tiny)
    with tempfile.TemporaryDirectory(prefix="paper-run-") as folder:
        work = PaperWork(Path(folder))
        work.model.mkdir()
        work.write_setting(replace(setting, images=min(setting.images, max(steps.values()) * setting.prompts)))
        subprocess.run([sys.executable, SYSTEMS / "paper_prepare.py", folder], check=True, env=env, stdout=sys.stderr)
        for name, wanted in sorted(steps.items(), key=lambda item: item[1]):
            work.write_setting(replace(setting, steps=wanted))
            say(f"{name}: loading")
            try:
                follow(results, System(name, [pythons[name], SYSTEMS / SCRIPTS[name]], work, env), wanted)
            except Stopped as stopped:  # out of memory, say: the others can still run
                say(str(stopped))
                results.content["failed"][name] = str(stopped)
                results.write()


def follow(results: Results, system: System, wanted: int) -> None:
    """One system's steps."""
    results.start(system)
    for number in range(wanted):
        system.step()
        results.add(system, wanted)
        seconds = by_phase(system.steps[-1]["seconds"])
        shown = ", ".join(f"{phase} {seconds[phase]:.3f}" for phase in PHASES[1:])
        say(f"step {number + 1}/{wanted} {system.name}: {seconds['step']:.3f} s ({shown})")
    system.stop()


def table(content: dict[str, Any]) -> str:
    """The figures for a person."""
    systems = content["systems"]
    show: dict[str, Callable[[dict[str, Any]], str]] = {
        "steps measured": lambda s: f"{s['steps']}",
        **{f"{phase}, s": lambda s, phase=phase: f"{s[f'{phase}_s']:.3f}" for phase in PHASES},
        f"{PAPER_STEPS} steps, s": lambda s: f"{s[f'projected_{PAPER_STEPS}_steps_s']:,.0f}" + " (projected)" * bool(s["extrapolated"]),
        "MFU update, total": lambda s: f"{s['mfu_update']['matmul']:.1%}, {s['mfu_total']['matmul']:.1%}",
        "decoding / bandwidth bound": lambda s: f"{s['decode_share_of_bandwidth']:.1%}",
        "peak memory, GiB": lambda s: f"{s['peak_bytes'] / 2**30:.1f}",
    }
    rows = [["", *systems], *([name, *map(of, systems.values())] for name, of in show.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    for name in ("floor_s", "predicted_s"):
        if name in content:
            lines.append(f"{name}: " + ", ".join(f"{phase} {seconds:g}" for phase, seconds in content[name].items()))
    return "\n".join([*lines, *(f"{name}: {why}" for name, why in (content["skipped"] | content["failed"]).items())])


# ---------------------------------------------------------------- the command


def trl_python(given: Path | None) -> Path | None:
    """A Python that has TRL, if there is one."""
    return given or (Path(sys.executable) if importlib.util.find_spec("trl") else None)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--systems", default="ours,trl,r1v", help="of ours, trl, r1v, with commas")
    parser.add_argument("--steps", type=int, default=PAPER_STEPS, help="of ours")
    parser.add_argument("--steps-trl", type=int, default=6)
    parser.add_argument("--steps-r1v", type=int, default=6)
    parser.add_argument("--image-tokens", type=int, default=256)
    parser.add_argument("--group", type=int, default=4)
    parser.add_argument("--completion", type=int, default=150)
    parser.add_argument("--kl-beta", type=float, default=0.04)
    parser.add_argument("--micro-batch-tokens", type=int, default=PaperSetting.micro_batch_tokens, help="ours: lower it where memory is short")
    parser.add_argument("--no-trl-checkpointing", action="store_true", help="turn off TRL's gradient checkpointing, which its defaults turn on")
    parser.add_argument("--trl-python", type=Path, help="a Python that has TRL; else this one, if it has")
    parser.add_argument("--threads", type=int, default=PaperSetting.threads)
    parser.add_argument("--tiny", action="store_true", help="a small random model on the CPU, to see that everything works")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def refuse(sentence: str) -> None:
    say(sentence)
    raise SystemExit(2)


def read_device(setting: PaperSetting) -> dict[str, Any]:
    """The device's own peaks; ends the command where there is no device for the setting."""
    command = [sys.executable, SYSTEMS / "peaks.py", *(["--tiny"] if setting.tiny else [])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environ(setting.threads, gpu=not setting.tiny))
    device = json.loads(done.stdout)
    if not setting.tiny and not device["gpu"]:
        refuse(f"this benchmark needs a CUDA GPU with at least {NEEDED_GIB} GiB of memory, and there is none; --tiny tries it on the CPU")
    return device


def main() -> None:
    args = arguments()
    names = args.systems.split(",")
    if unknown := set(names) - set(SCRIPTS):
        refuse(f'--systems names "{sorted(unknown)[0]}"; known are {", ".join(SCRIPTS)}')
    setting = PaperSetting(
        image_tokens=args.image_tokens, group=args.group, completion=args.completion, beta=args.kl_beta, steps=args.steps,
        threads=args.threads, micro_batch_tokens=args.micro_batch_tokens, checkpointing=not args.no_trl_checkpointing, tiny=args.tiny,
    )  # fmt: skip
    plan = costs.memory_gib(setting.dimensions, bool(setting.beta))
    device = read_device(setting)
    say(f"memory before activations: {sum(plan.values()):.1f} GiB ({', '.join(f'{name} {gib}' for name, gib in plan.items())})")
    results = Results(setting, device, args.json)
    steps = {"ours": args.steps, "trl": args.steps_trl, "r1v": args.steps_r1v}
    pythons = {"ours": Path(sys.executable), "r1v": Path(sys.executable), "trl": trl_python(args.trl_python)}
    for name in [name for name in names if pythons[name] is None]:
        results.content["skipped"][name] = "TRL is not installed beside this Python; name one that has it with --trl-python"
    wanted = {name: steps[name] for name in names if pythons[name]}
    measure(results, wanted, pythons)
    results.content["is_finished"] = not results.content["failed"]
    results.write()
    print(table(results.content))
    if results.content["failed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
