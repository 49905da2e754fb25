"""The benchmarks run, count what they say they count, and compare like with like."""

import copy
import doctest
import importlib.util
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForImageTextToText

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks/grpo_vs_trl.py"


def load(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


grpo_vs_trl = load(SCRIPT)
scaling = load(ROOT / "benchmarks/scaling.py")
evaluating = load(ROOT / "benchmarks/evaluate.py")
HAS_TRL = grpo_vs_trl.is_ready(grpo_vs_trl.ENVIRONMENT)

# What loading them has put on the path: the parts of which the benchmarks are made.
import costs  # noqa: E402
import paper  # noqa: E402
import paper_prepare  # noqa: E402
import paper_report  # noqa: E402
import r1v  # noqa: E402
from meters import Recorder  # noqa: E402
from ours import Unbanned  # noqa: E402
from paper_ours import grpo_config, read_encoder, read_examples  # noqa: E402

from medvlm_r1.models import nano  # noqa: E402
from medvlm_r1.models.families import prepare  # noqa: E402
from medvlm_r1.reasoning import render  # noqa: E402
from medvlm_r1.training.grpo.update import Learner, update  # noqa: E402
from medvlm_r1.training.optim import OptimConfig, Optimizer  # noqa: E402
from medvlm_r1.types import Completion, Rollout, RolloutGroup  # noqa: E402


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


# ---------------------------------------------------------------- what a step needs

SMALL = costs.Dimensions(layers=1, hidden=4, heads=2, kv_heads=1, mlp=3, vocabulary=5, vision_layers=1, vision_width=2, vision_heads=1, patch=1, temporal=1)


def test_arithmetic_of_a_step_by_hand():
    # Weights: layer 2·16 + 2·4·2 + 3·4·3 = 84, head 20, patch 6, block 12·4 = 48, merger 8·8 + 8·4 = 96.
    assert costs.image_flops(SMALL, 2) == 2 * (6 + 48) * 8 + 4 * 2 * 8 * 8 + 2 * 96 * 2 == 1760
    assert costs.prompt_flops(SMALL, 3) == 2 * 84 * 3 + 4 * 4 * (1 + 2 + 3) == 600
    assert costs.completion_flops(SMALL, 3, 3) == 2 * 84 * 2 + 4 * 4 * (4 + 5) + 2 * 20 * 3 == 600
    step = costs.Step(prompts=1, group=2, prompt_tokens=3, completion=3, image_tokens=2)
    assert step.lm_tokens == 3 + 2 * 2
    # Image once, prompt once, two completions; the reference has met half of its images; the update repeats the language forward, not the images', and a backward pass is two.
    assert costs.step_flops(SMALL, step, fresh_images=0.5) == {"rollout": 3560, "reference": 2680, "update": 8920}


def test_bytes_of_decoding_by_hand():
    step = costs.Step(prompts=1, group=2, prompt_tokens=3, completion=3, image_tokens=2)
    # Two tokens after the first: all weights each, the prompt's 3 keys and values once, one and then two of each completion's own.
    assert costs.decode_bytes(SMALL, step) == 2 * (2 * (84 + 20) + 8 * 3) + 8 * 2 * (1 + 2) == 512


def test_the_floor_is_the_slower_of_arithmetic_and_bytes():
    step = costs.Step(prompts=1, group=2, prompt_tokens=3, completion=3, image_tokens=2)
    assert costs.floor_seconds(SMALL, step, flops_s=100, bytes_s=1e9)["decode"] == 1200 / 100
    assert costs.floor_seconds(SMALL, step, flops_s=1e9, bytes_s=64)["decode"] == 512 / 64


@pytest.fixture(scope="module")
def tiny_work(tmp_path_factory):
    """The files of a tiny run of the paper."""
    work = paper.PaperWork(tmp_path_factory.mktemp("paper"))
    work.model.mkdir()
    work.write_setting(paper.PaperSetting(image_tokens=6, group=3, completion=5, prompts=1, images=2, tiny=True))
    paper_prepare.write_all(work)
    return work


@pytest.mark.parametrize("dimensions", [costs.Dimensions(), paper.TINY], ids=["2b", "tiny"])
def test_dimensions_are_those_of_the_model_that_transformers_builds(dimensions, tmp_path):
    special = {name: n for n, name in enumerate(nano.SPECIAL)}
    (tmp_path / "config.json").write_text(json.dumps(paper.model_config(dimensions, special)))
    config = AutoConfig.from_pretrained(tmp_path)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    assert sum(p.numel() for p in model.parameters()) == dimensions.parameters
    assert config.text_config.rope_parameters["mrope_section"] == ([16, 24, 24] if dimensions.layers == 28 else [4, 6, 6])


def test_matrix_products_are_those_that_torch_counts(tiny_work):
    model, encoder = paper.new_model(tiny_work.model, tiny_work.setting), read_encoder(tiny_work)
    inputs = r1v.encode(encoder, render(read_examples(tiny_work)[0], "paper-train"), model.device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs.expanded(inputs.ids_1L))
    counted = counter.get_flop_counts()["Global"]
    dense = sum(flops for op, flops in counted.items() if str(op) in ("aten.mm", "aten.addmm", "aten.convolution"))
    d, tokens, patches = paper.TINY, inputs.ids_1L.numel(), 4 * 6
    ours = costs.image_flops(d, 6) + costs.prompt_flops(d, tokens) + 2 * d.head_weights * tokens
    attention = d.vision_layers * 4 * d.vision_width * patches**2 + d.layers * 4 * d.hidden * tokens * (tokens + 1) // 2
    assert dense == ours - attention


# ---------------------------------------------------------------- the R1-V way


def test_the_r1v_way_has_our_log_probabilities_and_our_gradient(tiny_work):
    """Two ways to the same step: theirs over G whole sequences, ours with everything once."""
    setting, examples = tiny_work.setting, read_examples(tiny_work)
    model, encoder = paper.new_model(tiny_work.model, setting).eval(), read_encoder(tiny_work)
    other = copy.deepcopy(model).requires_grad_(False)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(0.99)  # a penalty to be had
    prompt = render(examples[0], setting.template)
    ids_GC = torch.randint(20, 1000, (setting.group, setting.completion), generator=torch.Generator().manual_seed(1))
    advantages_G = [1.0, -0.5, -0.5]

    theirs = copy.deepcopy(model)
    trainer = r1v.Trainer(theirs, other, None, encoder, setting, Recorder())
    inputs = r1v.encode(encoder, prompt, model.device)
    trainer.learn(inputs, ids_GC, torch.tensor(advantages_G), prompts=1)

    policy, reference = (Unbanned(prepare(m, encoder).model, encoder) for m in (model, other))  # theirs forbids nothing when it scores
    optimizer = Optimizer(model, OptimConfig(lr=0.0, max_grad_norm=1e9), 10)
    gradients = {}
    for name, p in model.named_parameters():
        p.register_post_accumulate_grad_hook(lambda p, name=name: gradients.update({name: p.grad.clone()}))
    rollouts = [Rollout(Completion(tuple(ids), (0.0,) * len(ids), "", False), {}) for ids in ids_GC.tolist()]
    update(Learner(policy, reference, optimizer, grpo_config(setting).update), [RolloutGroup(prompt, tuple(rollouts))], [advantages_G])

    assert gradients.keys() == dict(theirs.named_parameters()).keys()
    for name, p in theirs.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad, rtol=1e-3, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


# ---------------------------------------------------------------- the paper's run


def wait_for(file, is_enough, process, timeout_s=120):
    """The file's content once it has enough."""
    for _ in range(10 * timeout_s):
        if file.exists() and is_enough(content := json.loads(file.read_text())):
            return content
        assert process.poll() is None, "the benchmark ended by itself"
        time.sleep(0.1)
    raise AssertionError("the benchmark did not get so far")


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """What is left of a tiny run that was killed in the middle of our steps, and of its processes."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, ROOT / "benchmarks/paper_run.py", "--tiny", "--systems", "ours,trl,r1v", "--steps", "100000"]
    command += ["--steps-r1v", "2", "--steps-trl", "2", "--image-tokens", "4", "--group", "2", "--completion", "5", "--threads", "1"]
    command += ["--json", folder / "result.json"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"TMPDIR": str(folder)}, start_new_session=True)
    try:
        wait_for(folder / "result.json", lambda content: content["systems"].get("ours", {}).get("steps", 0) >= 3, process)
    finally:
        process.kill()
        process.wait()
    return json.loads((folder / "result.json").read_text()), process.pid


def running(group):
    """Processes of a group that still run; one that nobody has buried does not."""
    stats = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended since
            stats.append(file.read_text())
    fields = [stat.rpartition(")")[2].split() for stat in stats]  # state, parent, group, ...
    return [field for field in fields if field[0] != "Z" and int(field[2]) == group]


def test_a_killed_run_keeps_what_it_measured_and_leaves_no_process(killed):
    content, group = killed
    assert content["systems"]["r1v"]["is_finished"] is True
    assert content["systems"]["ours"]["is_finished"] is False
    assert content["is_finished"] is False
    assert len(content["systems"]["ours"]["all_steps_s"]) == content["systems"]["ours"]["steps"] >= 3
    assert content["systems"]["ours"]["extrapolated"].startswith("300 steps from ")
    assert content["skipped"].keys() == {"trl"}
    for _ in range(200):
        if not running(group):
            break
        time.sleep(0.1)
    assert not running(group)


def test_both_do_the_work_that_is_said_of_them(killed):
    content, _ = killed
    prompts, group, tokens, prompt = 4, 2, 5, content["setting"]["prompt_tokens"]
    lm_tokens = prompts * (prompt + group * (tokens - 1))
    once = {"lm_tokens": lm_tokens, "lm_head_positions": prompts * group * tokens}
    assert content["systems"]["ours"]["by_phase"]["update"] == once  # the images were encoded before the rollouts
    assert content["needed"]["lm_tokens_a_pass"] == once["lm_tokens"]
    whole = prompts * group * (prompt + tokens)
    g_fold = {"images_encoded": prompts * group, "lm_tokens": whole, "lm_head_positions": whole}
    assert content["systems"]["r1v"]["by_phase"]["update"] == g_fold
    assert content["max_abs_dlogp"]["r1v"] <= 1e-4
    assert content["ratio"]["r1v"].keys() == {"step", "rollout", "update"}


def test_the_table_of_a_partial_result_names_what_is_missing(killed):
    table = paper_report.table(killed[0])
    assert "(projected)" in table
    assert "trl: TRL is not installed" in table


def test_figures_of_a_run_by_hand():
    setting = paper.PaperSetting(image_tokens=6, group=2, completion=5, prompts=1, tiny=True)
    steps = [
        {"seconds": {"rollout": 3.0, "prefill": 1.0, "reference": 1.0, "update": update_s, "other": 0.0}, "counts": {}, "peak_bytes": 7}
        for update_s in (9.0, 2.0, 4.0)
    ]
    system = SimpleNamespace(name="ours", steps=steps, ready={"prompt_ids": [0] * 20})
    flops = costs.step_flops(paper.TINY, setting.step(20))
    device = {"matmul_flops": flops["update"] / 30, "copy_bytes": costs.decode_bytes(paper.TINY, setting.step(20), 4) / 1.5}
    done = paper_report.summary(setting, system, device, wanted=300)
    assert (done["update_s"], done["step_s"], done["rollout_s"], done["decode_s"]) == (3.0, 8.0, 4.0, 3.0)  # the first step is a warm-up
    assert done["mfu_update"]["matmul"] == 10.0  # 30 seconds' worth in 3
    assert done["mfu_total"]["matmul"] == pytest.approx(3 * sum(flops.values()) / 30 / device["matmul_flops"], rel=1e-3)
    assert done["total_s"] == 14 + 7 + 9
    assert done["projected_300_steps_s"] == 14 + 299 * 8
    assert done["decode_share_of_bandwidth"] == pytest.approx(max(1.5, done_by_arithmetic(flops, device, setting)) / 3, rel=1e-3)
    assert done["extrapolated"] == "300 steps from 3 measured ones"


def done_by_arithmetic(flops, device, setting):
    prefill = costs.image_flops(paper.TINY, 6) + costs.prompt_flops(paper.TINY, 20)
    return (flops["rollout"] - prefill) / device["matmul_flops"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_sentence_says_what_is_needed():
    done = subprocess.run([sys.executable, ROOT / "benchmarks/paper_run.py"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("this benchmark needs a CUDA GPU with at least 64 GiB of memory")
    assert done.stderr.count("\n") == 1


def test_a_machine_with_torch_and_transformers_suffices():
    """What a GPU machine may lack: the libraries of the phantoms, of DICOM, and TRL's."""
    block = "import sys; sys.modules.update(dict.fromkeys(('nibabel', 'pydicom', 'datasets', 'trl')))"
    parts = "peaks, paper_prepare, paper_ours, r1v, sweep"
    path = os.pathsep.join([str(ROOT), str(SCRIPT.parent / "_systems")])
    env = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", f"{block}; import {parts}"], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- scaling


def test_scaling_counts_each_image_and_prompt_once(tmp_path):
    file = tmp_path / "scaling.json"
    command = [sys.executable, ROOT / "benchmarks/scaling.py", "--tiny", "--repeats", "1", "--json", file]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    points = json.loads(file.read_text())["points"]
    assert [(p["group"], p["images"]) for p in points] == [(2, 1), (4, 1), (2, 2)]
    for p in points:
        once = {"lm_tokens": p["prompt_tokens"] + 3 * p["group"], "lm_head_positions": 4 * p["group"]}
        assert p["update_counts"] == once
        assert {name: p[name] for name in once} == {name: 3 * count for name, count in once.items()}  # rollout, reference, update
        assert p["images_encoded"] == 2 * p["images"]  # by the policy before the rollouts, and by the reference
        assert p["step_s"] > max(p["rollout_s"], p["reference_s"], p["update_s"]) > 0


def test_scaling_says_whether_its_claim_holds():
    rows = [{"group": g, "image_px": 336, "images": 1, "tokens": 64, "step_s": s} for g, s in ((4, 1.0), (16, 2.5))]
    growth = scaling.growth(rows, scaling.Point(), "group", 4, 16)
    assert growth == 2.5
    shown = scaling.table({"points": [], "claim": {"group_4_to_16": growth, "holds": False}})
    assert shown.endswith("does not hold here")


# ---------------------------------------------------------------- evaluate


def test_evaluate_asks_both_the_same(tmp_path):
    file = tmp_path / "evaluate.json"
    words = ["--questions", "4", "--rounds", "2", "--threads", "1", "--json", file]
    done = subprocess.run([sys.executable, ROOT / "benchmarks/evaluate.py", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert (found["compared"], found["equal_letters"]) == (8, 1.0)  # four questions in two arms, each compared once
    ours = found["systems"]["ours"]
    assert all(total > engine > 0 for total, engine in zip(ours["total_s"], ours["engine_s"], strict=True)) and found["summary_s"] > 0
    assert found["overheads"] == pytest.approx([t / e - 1 for t, e in zip(ours["total_s"], ours["engine_s"], strict=True)], abs=0.05)


def test_evaluate_says_which_claim_does_not_hold():
    slow = [{"total_s": 2.2, "engine_s": 2.0, "summary_s": 0.1}]  # 10 % over the engine, 10 answers a second
    found = evaluating.figures(slow, [2.0], [1.0], [True, False], 22)
    assert found["overhead"] == 0.1 and found["ratio"] == {"two_threads": 5.0, "one_thread": 10.0}
    assert found["claims"] == {"overhead": False, "ratio": False, "equal": False}
    assert evaluating.table(found).count("does not hold here") == 3


PARTS = [SCRIPT.parent / f"_systems/{name}.py" for name in ("protocol", "costs", "paper", "paper_report", "r1v")]


@pytest.mark.parametrize(
    "file",
    [SCRIPT.parent / "scaling.py", SCRIPT.parent / "evaluate.py", SCRIPT.parent / "real_grpo.py", SCRIPT.parent / "base_reads.py", *PARTS],
    ids=lambda file: file.stem,
)
def test_doctests(file):
    found = doctest.testmod(load(file))
    assert found.attempted > 0
    assert found.failed == 0


# ---------------------------------------------------------------- report


def test_report_measures_a_small_page_without_a_browser(tmp_path):
    file, page = tmp_path / "report.json", tmp_path / "report.html"
    command = [sys.executable, ROOT / "benchmarks/report.py", "--questions", "6", "--keep", page, "--json", file]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PATH": str(tmp_path), "PYTHONPATH": str(ROOT)})
    found = json.loads(file.read_text())
    assert found["browser"] is None
    assert found["seconds"].keys() == {"numbers", "pictures", "page", "write", "total"}
    assert found["megabytes"] == round(page.stat().st_size / 1e6, 1)
    assert found["claim"]["holds"] and page.read_text().count('"id":"case-') == 6
