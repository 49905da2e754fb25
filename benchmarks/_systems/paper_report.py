"""The figures of the paper's run: of one system, of what a step needs, and the file that keeps them."""

import datetime
import shlex
import statistics
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import costs
from paper import PaperSetting
from processes import System, commit, hardware, write_json
from protocol import largest_difference

PHASES = ("step", "rollout", "prefill", "decode", "reference", "update", "other")
DATASHEET_FLOPS = 989e12  # H100 SXM, dense bf16
# Said before any measurement: of the matmul peak in prefill, reference and update, of the copy bandwidth in decoding.
PREDICTED_SHARE = {"prefill": 0.4, "decode": 0.5, "reference": 0.4, "update": 0.4}
PAPER_STEPS = 300


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
    flops = needed_flops(setting, step, done)
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


def needed_flops(setting: PaperSetting, step: costs.Step, steps: int) -> dict[str, float]:
    """A step's arithmetic by phase, in a run of so many; without a penalty there is no reference."""
    flops = costs.step_flops(setting.dimensions, step, fresh_images(setting, steps))
    return flops if setting.beta else flops | {"reference": 0}


def floor(setting: PaperSetting, step: costs.Step, device: dict[str, Any]) -> dict[str, float]:
    """The least seconds of each phase on this device, by the peaks measured on it."""
    fresh, item = fresh_images(setting, PAPER_STEPS), 4 if setting.tiny else 2
    seconds = costs.floor_seconds(setting.dimensions, step, device["matmul_flops"], device["copy_bytes"], fresh, item)
    return seconds if setting.beta else seconds | {"reference": 0.0}


def expectation(setting: PaperSetting, prompt_tokens: int, device: dict[str, Any]) -> dict[str, Any]:
    """What a step needs, the least time for it, and the time predicted for ours."""
    step = setting.step(prompt_tokens)
    least = floor(setting, step, device)
    predicted = {phase: seconds / PREDICTED_SHARE[phase] for phase, seconds in least.items()}
    return {
        "needed": {
            "images_a_pass": step.prompts, "lm_tokens_a_pass": step.lm_tokens,
            "lm_head_positions_a_pass": step.prompts * step.group * step.completion,
            "tflop": {phase: round(flops / 1e12, 3) for phase, flops in needed_flops(setting, step, PAPER_STEPS).items()},
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
    missing = {name: why.strip().splitlines()[-1] for name, why in (content["skipped"] | content["failed"]).items()}
    return "\n".join([*lines, *(f"{name}: {why}" for name, why in missing.items())])
