"""What every kind of model can do here: the whole recipe, its log-probabilities beside transformers' own, and what a shared prefix saves.

    .venv/bin/python benchmarks/other_models.py [--kinds gemma3 …] [--json FILE]

Tiny models of random weights, all kinds in turns. docs/models.md's table is made of the result; benchmarks/README.md says what is measured.
"""

import argparse
import contextlib
import datetime
import io
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parent / "_systems"))

from general import PATHS, step
from processes import commit, environ, hardware, say, write_json

STAGES = ("ask", "grpo", "resume", "loads in transformers", "eval", "sft")


def recipe(hub: Path, manifest: Path, folder: Path) -> dict[str, bool]:
    """The commands that a user would give, and whether each did what it says."""
    import shutil

    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText

    from medvlm_r1.commands import main as cli

    def does(*words: Any) -> bool:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return bool(cli.main([str(word) for word in words]) == 0)

    sizes = ["--set", "prompts_per_step=2", "--set", "save_every=1", "--set", "dtype=float32", "--set", "optim.lr=1e-3"]
    grpo = ["train", "paper", "--model", hub, "--data", manifest, *sizes, "--set", "sampling.max_tokens=6", "--set", "sampling.n=2", "--set", "steps=2"]
    done = {"ask": does("ask", "--model", hub, manifest.parent / "wide.png", "Which?", "--options", "left", "right", "--max-tokens", "4")}
    done["grpo"] = does(*grpo, "--run-dir", folder / "whole")
    shutil.copytree(folder / "whole", folder / "stopped")
    shutil.rmtree(folder / "stopped" / "checkpoints" / "step-2")
    again = does(*grpo, "--run-dir", folder / "stopped", "--resume")
    ends = [load_file(folder / run / "checkpoints" / "step-2" / "model.safetensors") for run in ("whole", "stopped")]
    done["resume"] = again and all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    model = folder / "whole" / "checkpoints" / "step-2"
    done["loads in transformers"] = not AutoModelForImageTextToText.from_pretrained(model, output_loading_info=True)[1]["missing_keys"]
    done["eval"] = does("eval", "--model", model, "--data", manifest, "--arms", "image", "--max-tokens", "4", "--out", folder / "eval")
    trained = does("sft", "paper", "--model", hub, "--data", manifest, *sizes, "--run-dir", folder / "sft", "--set", "steps=1")
    before, after = (load_file(place / "model.safetensors") for place in (hub, folder / "sft" / "checkpoints" / "step-1"))
    done["sft"] = trained and any(not torch.equal(value, after[name]) for name, value in before.items())
    return done


def apart(hub: Path) -> float:
    """The largest difference of a log-probability to transformers' own forward, a row alone."""
    import family_models
    import torch
    from test_general import groups

    from medvlm_r1.models.families import load_policy
    from medvlm_r1.models.general_encoder import continued

    ours, plain = (load_policy(str(hub), family_models.picture, shared_prefix=shared) for shared in (True, False))
    worst = 0.0
    with torch.no_grad():
        for group in groups(ours):
            found, inputs = ours.logprobs(ours.encoder.groups([group])), plain.encoder.inputs(group.prompt)  # type: ignore[attr-defined]
            for row, rollout in enumerate(group.rollouts):
                ids = torch.tensor([rollout.completion.token_ids])
                logits = plain.model(**continued(inputs, ids, torch.ones_like(ids))).logits[0, -ids.shape[1] - 1 : -1].float()
                logits[:, ours.banned_ids] = -torch.inf
                logits[: group.min_tokens, list(ours.stop_ids)] = -torch.inf
                expected = logits.log_softmax(-1).gather(1, ids[0][:, None])[:, 0]
                finite = expected.isfinite()
                worst = max(worst, float((found[row, : ids.shape[1]][finite] - expected[finite]).abs().max()))
    return worst


def ratio(hub: Path) -> float:
    """How many times as long a GRPO step takes without the shared prefix: two questions, G = 8, 16 tokens each, the median of three in turns."""
    import family_models

    from medvlm_r1.models.families import load_policy
    from medvlm_r1.reasoning import render

    prompts = [render(example, "think") for example in family_models.examples()[1:3]]
    policies = {name: load_policy(str(hub), family_models.picture, shared_prefix=shared) for name, shared in PATHS.items()}
    times: dict[str, list[float]] = {name: [] for name in PATHS}
    for n in range(4):
        for name, policy in policies.items():
            times[name].append(step(policy, prompts, n)["step"])
    medians = {name: statistics.median(rows[1:]) for name, rows in times.items()}
    return round(medians["general"] / medians["shared prefix"], 2)


def measured(kind: str, folder: Path) -> dict[str, Any]:
    """One kind, from its weights to the last stage."""
    import family_models
    import hub_model
    import other_models

    from medvlm_r1.errors import MedVLMError
    from medvlm_r1.models.families import FAMILIES, load_policy

    began, is_family = time.perf_counter(), kind in family_models.TINY
    (folder / "data").mkdir()
    if kind == "qwen2_vl":
        from medvlm_r1.models.nano import BASE_DIR

        hub = BASE_DIR
    elif is_family:
        hub = family_models.checkpoint_of(kind, folder / "first")
    else:
        hub = other_models.write(kind, folder / "hub")
    try:
        load_policy(str(hub), family_models.picture)
    except MedVLMError as error:
        return {"refused": str(error).replace(str(folder), "…")}
    found: dict[str, Any] = {"path": "shared prefix" if kind in FAMILIES else "general", "difference": apart(hub)}
    if kind in FAMILIES:
        found["ratio"] = ratio(hub)
    found["stages"] = recipe(hub, hub_model.write_manifest(folder / "data"), folder)
    return found | {"seconds": round(time.perf_counter() - began, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="*")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    wanted = environ(1)
    if any(os.environ.get(name) != wanted[name] for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "PYTHONPATH")):
        os.execve(sys.executable, [sys.executable, *sys.argv], wanted)
    import family_models
    import other_models
    import torch
    import transformers

    torch.set_num_threads(1)
    found: dict[str, Any] = json.loads(args.json.read_text())["kinds"] if args.kinds and args.json and args.json.exists() else {}
    about = {"hardware": hardware(), "date": datetime.date.today().isoformat(), "commit": commit(), "transformers": transformers.__version__}
    for kind in args.kinds or ("qwen2_vl", *family_models.TINY, *other_models.OTHERS):
        with tempfile.TemporaryDirectory() as folder:
            found[kind] = measured(kind, Path(folder))
        say(f"{kind}: {found[kind]}")
        if args.json:  # what is measured is kept, whatever comes
            write_json(args.json, {"kinds": found, **about, "command": shlex.join(["python", *sys.argv])})


if __name__ == "__main__":
    main()
