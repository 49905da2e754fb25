"""The benchmarks run, count what they say they count, and compare like with like."""

import doctest
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks/grpo_vs_trl.py"


def load(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


grpo_vs_trl = load(SCRIPT)
HAS_TRL = grpo_vs_trl.is_ready(grpo_vs_trl.ENVIRONMENT)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """One run of the smallest setting: with TRL where its environment is there, else without."""
    file = tmp_path_factory.mktemp("bench") / "result.json"
    command = [sys.executable, SCRIPT, "--tiny", "--json", file, *([] if HAS_TRL else ["--only-ours"])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text())


def test_the_file_says_what_was_measured_where_and_how(result):
    wanted = {"setting", "systems", "ratio", "max_abs_dlogp", "hardware", "versions", "commit", "command"}
    assert wanted <= set(result)
    assert set(result["ratio"]) == {"step", "update"}
    ours = result["systems"]["ours"]
    assert ours["step_s"] > max(ours[f"{phase}_s"] for phase in ("rollout", "reference", "update")) > 0
    assert ours["peak_bytes"] >= ours["loaded_bytes"]
    assert "--tiny" in result["command"]


def test_we_do_everything_once(result):
    setting, ours = result["setting"], result["systems"]["ours"]
    group, tokens, prompt = setting["group"], setting["tokens"], setting["prompt_tokens"]
    once = {"lm_tokens": prompt + group * (tokens - 1), "lm_head_positions": group * tokens}
    image = {"images_encoded": 1}
    # The update differentiates the embeddings that the rollouts used; the reference's tower is another one.
    assert ours["by_phase"] == {"rollout": {"images_preprocessed": 1, **image, **once}, "reference": image | once, "update": once}


@pytest.mark.skipif(not HAS_TRL, reason="TRL's environment is not there; benchmarks/grpo_vs_trl.py makes it")
def test_trl_does_the_same_work_on_the_same_weights(result):
    setting, trl = result["setting"], result["systems"]["trl"]
    group, tokens, prompt = setting["group"], setting["tokens"], setting["prompt_tokens"]
    assert result["max_abs_dlogp"] <= 1e-5
    assert (trl["images_preprocessed"], trl["images_encoded"]) == (2 * group, 3 * group)
    assert trl["by_phase"]["update"]["lm_tokens"] == group * (prompt + tokens)
    assert result["ratio"]["update"] == pytest.approx(trl["update_s"] / result["systems"]["ours"]["update_s"], rel=0.02)


def test_steps_that_did_different_work_are_refused():
    seconds = {"rollout": 1.0, "reference": 1.0, "update": 1.0, "other": 0.0}
    step = {"seconds": seconds, "cpu_seconds": seconds, "peak_bytes": 1}
    steps = [step | {"counts": {"update": {"lm_tokens": n}}} for n in (5, 6)]
    with pytest.raises(AssertionError, match="different work"):
        grpo_vs_trl.summary(steps, {"now_bytes": 1})


def test_seconds_are_medians_over_the_steps():
    steps = [
        {"seconds": seconds, "cpu_seconds": seconds, "counts": {}, "peak_bytes": int(seconds["rollout"])}
        for seconds in ({"rollout": s, "reference": 1.0, "update": 2.0, "other": 0.0} for s in (9.0, 3.0, 4.0))
    ]
    measured = grpo_vs_trl.summary(steps, {"now_bytes": 1})
    assert (measured["rollout_s"], measured["step_s"], measured["peak_bytes"]) == (4.0, 7.0, 9)


def test_only_the_missing_operators_of_torchvision_are_skipped(tmp_path):
    file = tmp_path / "meta.py"
    names = ("nms", "qnms", "roi_align")
    file.write_text("".join(f'@torch.library.register_fake("torchvision::{name}")\ndef f(): ...\n' for name in names))
    for _ in range(2):  # a second time changes nothing
        grpo_vs_trl.skip_missing_operators(file)
    assert [line.startswith("# @") for line in file.read_text().splitlines()[::2]] == [True, True, False]


@pytest.mark.parametrize("file", [SCRIPT, SCRIPT.parent / "_systems/protocol.py"], ids=lambda file: file.stem)
def test_doctests(file):
    found = doctest.testmod(load(file))
    assert found.attempted > 0
    assert found.failed == 0
