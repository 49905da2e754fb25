"""The paper's whole run at Qwen2-VL-2B's true size, random weights in bf16, on one GPU: ours, TRL, and the R1-V way.

    .venv/bin/python benchmarks/paper_run.py [--systems ours,trl,r1v] [--image-tokens 512] [--group 8] [--json FILE]

One system after the other, each in a process of its own, those with the fewest
steps first. FILE is whole after every step, so that a run that is killed keeps
what it measured. benchmarks/README.md says what is measured and counted.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "_systems"))

from paper import PaperSetting, PaperWork
from paper_report import PAPER_STEPS, PHASES, Results, by_phase, table
from processes import SYSTEMS, Stopped, System, environ, say

SCRIPTS = {"ours": "paper_ours.py", "trl": "paper_trl.py", "r1v": "r1v.py"}
NEEDED_GIB = 64


# ---------------------------------------------------------------- the run


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


# ---------------------------------------------------------------- the command


def trl_python(given: Path | None) -> Path | None:
    """A Python that has TRL, if there is one."""
    return given or (Path(sys.executable) if importlib.util.find_spec("trl") else None)


def positive(text: str) -> int:
    """An argument that counts something."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f'"{text}" is no whole number above 0')
    return int(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--systems", default="ours,trl,r1v", help="of ours, trl, r1v, with commas")
    parser.add_argument("--steps", type=positive, default=PAPER_STEPS, help="of ours")
    parser.add_argument("--steps-trl", type=positive, default=6)
    parser.add_argument("--steps-r1v", type=positive, default=6)
    parser.add_argument("--image-tokens", type=positive, default=256)
    parser.add_argument("--group", type=positive, default=4)
    parser.add_argument("--completion", type=positive, default=150)
    parser.add_argument("--kl-beta", type=float, default=0.04)
    parser.add_argument("--micro-batch-tokens", type=positive, default=PaperSetting.micro_batch_tokens, help="ours; bounds memory")
    parser.add_argument(
        "--save-every", type=positive, default=PaperSetting.save_every, help="ours; a checkpoint takes 31 GB of disk, and twice that while the next is written"
    )
    parser.add_argument("--no-trl-checkpointing", action="store_true", help="TRL without the gradient checkpointing of its defaults")
    parser.add_argument("--trl-python", type=Path, help="a Python that has TRL; else this one, if it has")
    parser.add_argument("--threads", type=positive, default=PaperSetting.threads)
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
        threads=args.threads, micro_batch_tokens=args.micro_batch_tokens, save_every=args.save_every, checkpointing=not args.no_trl_checkpointing, tiny=args.tiny,
    )  # fmt: skip
    if not 4 <= setting.image_tokens <= 1280:
        refuse(f"--image-tokens {setting.image_tokens} is not from 4 to 1280, which is what the image processor leaves as it is")
    results = Results(setting, read_device(setting), args.json)
    if not setting.tiny:
        plan = results.content["memory_gib"]
        say(f"memory before activations: {sum(plan.values()):.1f} GiB ({', '.join(f'{name} {gib}' for name, gib in plan.items())})")
    steps = {"ours": args.steps, "trl": args.steps_trl, "r1v": args.steps_r1v}
    pythons = {"ours": Path(sys.executable), "r1v": Path(sys.executable), "trl": trl_python(args.trl_python)}
    for name in [name for name in names if pythons[name] is None]:
        results.content["skipped"][name] = "TRL is not installed beside this Python; name one that has it with --trl-python"
    wanted = {name: steps[name] for name in names if pythons[name]}
    if not wanted:
        refuse("--systems leaves nothing to run: TRL is not installed beside this Python; name one that has it with --trl-python")
    measure(results, wanted, pythons)
    results.content["is_finished"] = not results.content["failed"]
    results.write()
    print(table(results.content))
    if results.content["failed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
