"""Our GRPO loop against TRL's GRPOTrainer: the same weights, images, prompts and completion length, step by step in turns.

    .venv/bin/python benchmarks/grpo_vs_trl.py [--setting small|large] [--threads 2] [--json FILE]

Makes TRL's own environment under runs/bench/trl-env at the first call.
benchmarks/README.md says what is measured, and what the ratio does not say.
"""

import argparse
import datetime
import json
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "_systems"))

import costs
from processes import ROOT, SYSTEMS, System, commit, environ, hardware, say, write_json
from protocol import SETTINGS, Setting, Work, largest_difference

ENVIRONMENT = ROOT / "runs/bench/trl-env"
PHASES = ("step", "rollout", "reference", "update", "other")
COUNTS = ("images_preprocessed", "images_encoded", "lm_tokens", "lm_head_positions")


# ---------------------------------------------------------------- TRL's environment


def requirements() -> list[str]:
    """TRL with the transformers that we run; torchvision is the release that belongs to this torch."""
    return ["trl==1.16.*", "torch==2.13.0", "torchvision==0.28.*", f"transformers=={version('transformers')}"]


def is_ready(environment: Path) -> bool:
    stamp = environment / ".ready"
    return stamp.exists() and stamp.read_text() == "\n".join(requirements())


def make_environment(environment: Path) -> Path:
    """The Python of a virtual environment with TRL, made unless it is there."""
    python = environment / "bin/python"
    if is_ready(environment):
        return python
    say(f"making {environment} (once; about 1.5 GB on disk)")
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", *requirements()], check=True, stdout=sys.stderr)
    if subprocess.run([python, "-c", "import torchvision"], capture_output=True).returncode:
        [site] = environment.glob("lib/python*/site-packages")
        skip_missing_operators(site / "torchvision/_meta_registrations.py")
    subprocess.run([python, "-c", "import torchvision, trl"], check=True, stdout=sys.stderr)
    (environment / ".ready").write_text("\n".join(requirements()))
    return python


def skip_missing_operators(file: Path) -> None:
    """torchvision's compiled operators are missing beside CPU torch: do not register shapes for what is not there.

    The image processors that TRL uses need none of them.
    """
    file.write_text(re.sub(r'^(@torch\.library\.register_fake\("torchvision::q?nms"\))', r"# \1", file.read_text(), flags=re.MULTILINE))


# ---------------------------------------------------------------- one run


def run(setting: Setting, names: list[str]) -> dict[str, System]:
    """The steps of all systems, in turns."""
    python = {"ours": Path(sys.executable), "trl": make_environment(ENVIRONMENT) if "trl" in names else None}
    script = {"ours": SYSTEMS / "ours.py", "trl": SYSTEMS / "trl_grpo.py"}
    with tempfile.TemporaryDirectory(prefix="grpo-vs-trl-") as folder:
        work = Work(Path(folder))
        work.write_setting(setting)
        env = environ(setting.threads)
        subprocess.run([sys.executable, SYSTEMS / "prepare.py", folder], check=True, env=env, stdout=sys.stderr)
        systems: dict[str, System] = {}
        for name in names:
            say(f"{name}: loading")
            systems[name] = System(name, [python[name], script[name]], work, env)
        for step in range(setting.steps):
            for system in systems.values():
                system.step()
                seconds = system.steps[-1]["seconds"]
                say(f"step {step + 1}/{setting.steps} {system.name}: {sum(seconds.values()):.3f} s" + " (warm-up)" * (step < setting.warmup))
        for system in systems.values():
            system.stop()
    return systems


# ---------------------------------------------------------------- the floor


def rates(setting: Setting) -> dict[str, float]:
    """What the machine's matrix products reach now."""
    command = [sys.executable, SYSTEMS / "rates.py", *map(str, (setting.group, setting.hidden, setting.mlp))]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=environ(setting.threads)).stdout)


def floor(setting: Setting, prompt_tokens: int, reached: dict[str, float]) -> dict[str, float]:
    """Seconds of a step that is nothing but the products it needs, each at the rate ``reached``; attention counts as a product.

    >>> {name: round(s, 3) for name, s in floor(SETTINGS["small"], 236, {"few_rows": 45e9, "many_rows": 150e9}).items()}
    {'rollout': 0.216, 'reference': 0.102, 'update': 0.273, 'step': 0.591}
    """
    size = costs.Dimensions(
        layers=setting.layers, hidden=setting.hidden, heads=setting.hidden // 32, kv_heads=setting.hidden // 64, mlp=setting.mlp, vocabulary=2048,
        vision_layers=setting.vision_depth, vision_width=setting.vision_width, vision_heads=setting.vision_width // 32,
    )  # fmt: skip
    step = costs.Step(1, setting.group, prompt_tokens, setting.tokens, (setting.image_px // 28) ** 2)
    needed = costs.step_flops(size, step)
    prefill = costs.image_flops(size, step.image_tokens) + costs.prompt_flops(size, prompt_tokens)
    rollout = prefill / reached["many_rows"] + (needed["rollout"] - prefill) / reached["few_rows"]
    found = {"rollout": rollout, **{name: needed[name] / reached["many_rows"] for name in ("reference", "update")}}
    return found | {"step": sum(found.values())}


# ---------------------------------------------------------------- the report


def summary(steps: list[dict[str, Any]], ready: dict[str, Any]) -> dict[str, Any]:
    """Medians of the seconds over the steps; the counts of one step, which are the same in all."""
    seconds, cpu_seconds = ([{"step": sum(step[kind].values()), **step[kind]} for step in steps] for kind in ("seconds", "cpu_seconds"))
    counts = [step["counts"] for step in steps]
    if any(count != counts[0] for count in counts):
        raise AssertionError(f"the steps did different work: {counts}")
    by_phase = {phase: counts[0][phase] for phase in PHASES if phase in counts[0]}
    return {
        **{f"{phase}_s": round(statistics.median(second[phase] for second in seconds), 4) for phase in PHASES},
        **{name: sum(phase.get(name, 0) for phase in by_phase.values()) for name in COUNTS},
        "peak_bytes": max(step["peak_bytes"] for step in steps),
        "loaded_bytes": ready["now_bytes"],
        "by_phase": by_phase,
        "cpu_s": {phase: round(statistics.median(second[phase] for second in cpu_seconds), 4) for phase in PHASES},
        "all_steps_s": [round(second["step"], 4) for second in seconds],
        "all_updates_s": [round(second["update"], 4) for second in seconds],
    }


def report(setting: Setting, systems: dict[str, System], reached: dict[str, float]) -> dict[str, Any]:
    """What ``--json`` writes; shared/docs/interfaces.md describes it."""
    measured = {name: summary(system.steps[setting.warmup :], system.ready) for name, system in systems.items()}
    ready = {name: system.ready for name, system in systems.items()}
    ratio, difference = {"step": None, "update": None}, None
    if len(systems) == 2:
        if ready["ours"]["prompt_ids"] != ready["trl"]["prompt_ids"]:
            raise AssertionError("the systems were asked different prompts")
        ratio = {phase: round(measured["trl"][f"{phase}_s"] / measured["ours"][f"{phase}_s"], 2) for phase in ratio}
        difference = largest_difference(ready["ours"]["logprobs"], ready["trl"]["logprobs"])
    least = floor(setting, len(ready["ours"]["prompt_ids"]), reached)
    versions = {"python": platform.python_version(), "torch": version("torch"), "transformers": version("transformers")}
    return {
        "setting": vars(setting) | {"parameters": ready["ours"]["parameters"], "prompt_tokens": len(ready["ours"]["prompt_ids"])},
        "systems": measured,
        "ratio": ratio,
        "floor": {"flops_s": reached, **{f"{name}_s": round(seconds, 4) for name, seconds in least.items()}},
        "share_of_floor": {name: round(seconds / measured["ours"][f"{name}_s"], 3) for name, seconds in least.items()},
        "max_abs_dlogp": difference,
        "hardware": hardware(),
        "versions": {"ours": versions} | ({"trl": ready["trl"]["versions"]} if "trl" in ready else {}),
        "commit": commit(),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def table(result: dict[str, Any]) -> str:
    """The figures for a person."""
    systems = result["systems"]
    rows = [["", *systems, *(["ratio"] if len(systems) == 2 else [])]]
    for name in [*(f"{phase}_s" for phase in PHASES), *COUNTS, "peak_bytes"]:
        values = [system[name] for system in systems.values()]
        shown = [f"{value / 2**20:,.0f} MiB" if name == "peak_bytes" else f"{value:,}" for value in values]
        rows.append([name, *shown, *([f"{values[1] / values[0]:.1f}x"] if len(values) == 2 and values[0] else [])])
    widths = [max(len(row[column]) for row in rows if column < len(row)) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=False)) for row in rows]
    shares = ", ".join(f"{name} {share:.0%}" for name, share in result["share_of_floor"].items())
    return "\n".join(
        [*lines, f"max |Δ log p| {result['max_abs_dlogp']}", f"of the floor, which is a step's products alone at the rate they reach here: {shares}"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setting", choices=("small", "large"), default="small")
    parser.add_argument("--tiny", action="store_true", help="the smallest model, to see that everything works")
    parser.add_argument("--only-ours", action="store_true", help="without TRL, and so without its environment")
    parser.add_argument("--repeats", type=int, help="measured steps of each system")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--trl-checkpointing", action="store_true", help="leave TRL's gradient checkpointing on, as its defaults do")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    given = {"repeats": args.repeats, "threads": args.threads, "checkpointing": args.trl_checkpointing}
    setting = replace(SETTINGS["tiny" if args.tiny else args.setting], **{name: value for name, value in given.items() if value})
    before, systems = rates(setting), run(setting, ["ours"] if args.only_ours else ["ours", "trl"])
    after = rates(setting)
    result = report(setting, systems, {name: max(value, after[name]) for name, value in before.items()})
    print(table(result))
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    main()
