"""The command line: bad input costs one sentence and nothing else, and a stopped run goes on bit for bit."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import SMALL, train
from huggingface_hub import constants
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from medvlm_r1.commands import doctor as doctor_command
from medvlm_r1.commands import eval as eval_command
from medvlm_r1.commands import main as cli
from medvlm_r1.errors import EngineError, RunError
from medvlm_r1.launch.loading import load_model, memory_errors
from medvlm_r1.models import families, nano
from medvlm_r1.training.grpo import asking
from medvlm_r1.training.saving import Saver

# ---------------------------------------------------------------- help


def commands_and_examples():
    subs = cli.parser()._subparsers._group_actions[0].choices
    lines = [(name, line.strip().split("  ")[0]) for name, sub in subs.items() for line in sub.epilog.splitlines()]
    return [(name, line) for name, line in lines if line.startswith("medvlm-r1 ")]


@pytest.mark.parametrize("name", ["train", "sft", "eval", "audit", "ask", "reproduce", "demo", "study", "nano", "real-base", "doctor"])
def test_every_command_explains_itself_with_examples(command, name):
    code, out, _ = command(name, "--help")
    assert code == 0 and "examples:" in out and f"  medvlm-r1 {name}" in out and "Research use only" in out


@pytest.mark.parametrize(("name", "example"), commands_and_examples())
def test_the_examples_are_commands_that_exist(name, example):
    words = shlex.split(example)
    parsed = cli.parser().parse_args(words[1:])
    assert words[:2] == ["medvlm-r1", parsed.command] and parsed.command == name


def test_help_starts_at_once_without_loading_torch():
    lines = "import sys, medvlm_r1.commands.main as m; m.parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", lines], check=False).returncode == 0


# ---------------------------------------------------------------- wrong usage

USAGE = {
    "no command": ([], "COMMAND", "--help"),
    "unknown command": (["trian"], "trian", "train"),
    "unknown option": (["train", "nano", "--stepz", "3"], "--stepz"),
    "unknown recipe": (["train", "papr"], "papr", 'did you mean "paper"'),
    "recipe of the other kind": (["sft", "nano-blank"], "nano-blank", "nano-traces"),
    "no data": (["train", "paper"], "--data"),
    "eval without data": (["eval", "--model", "x", "--out", "y"], "--data"),
    "eval: no tokens": (["eval", "--model", "x", "--data", "x", "--out", "y", "--max-tokens", "0"], "--max-tokens", "1 or more", "0"),
    "ask: half a number": (["ask", "--model", "x", "--max-tokens", "1.5", "a.png", "Why?"], "--max-tokens", "1.5"),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage(refused, case):
    words, *parts = USAGE[case]
    refused(words, *parts)


def test_dry_run_shows_the_configuration_and_touches_nothing(command, tmp_path):
    code, out, _ = command("train", "paper", "--set", "steps=7", "--run-dir", tmp_path / "run", "--dry-run")
    assert code == 0 and json.loads(out)["config"]["steps"] == 7 and not (tmp_path / "run").exists()
    assert command("train", "paper", "--set", "steps=0", "--dry-run")[0] == 2


def test_dry_run_shows_the_memory_plan_where_the_model_is_known(command, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    code, out, _ = command("train", "paper", "--dry-run")
    assert code == 0 and json.loads(out)["memory"]["parts"]["moments"] == 8 * 2_208_985_600
    code, out, _ = command("train", "paper", "--model", "my/own", "--dry-run")
    assert code == 0 and "not on this machine" in json.loads(out)["memory"]["unknown"]


# ---------------------------------------------------------------- data


@pytest.mark.parametrize("data", ["nothing.jsonl", "phantom:mir", "."])
def test_unknown_data(refused, hub_dir, tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    refused(train(hub_dir, data, tmp_path / "run"), data.removeprefix("phantom:"))


# ---------------------------------------------------------------- models


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


def lose_a_layer(folder):
    file = folder / "model-00001-of-00002.safetensors"
    save_file({name: t for name, t in load_file(file).items() if "layers.1" not in name}, file, metadata={"format": "pt"})


def lose_template(folder):
    change(folder / "tokenizer_config.json", chat_template=None)
    (folder / "chat_template.json").unlink()


def lose_tokenizer(folder):
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (folder / name).unlink()


MODELS = {
    "no config": (lambda d: (d / "config.json").unlink(), "config.json"),
    "no processor": (lambda d: (d / "preprocessor_config.json").unlink(), "preprocessor_config.json", "copy it"),
    "no tokenizer": (lose_tokenizer, "tokenizer.json", "copy it"),
    "no chat template": (lose_template, "chat template"),
    "no weights": (lambda d: [f.unlink() for f in d.glob("model*")], "weights", "model.safetensors"),
    "one shard is missing": (lambda d: (d / "model-00002-of-00002.safetensors").unlink(), "model.safetensors.index.json", "model-00002-of-00002"),
    "a shard is cut off": (lambda d: cut(d / "model-00002-of-00002.safetensors"), "model-00002-of-00002.safetensors", "is cut off"),
    "a Git LFS pointer": (lambda d: (d / "model-00001-of-00002.safetensors").write_text("version https://git-lfs"), "pointer of Git LFS", "git lfs pull"),
    "a layer is missing": (lose_a_layer, "weights are missing", "layers.1."),
    "another width": (lambda d: change(d / "config.json", intermediate_size=96), "shape", "mlp"),
    "another vocabulary": (lambda d: change(d / "config.json", image_token_id=5), "<|image_pad|>", "5"),
    "config is no JSON": (lambda d: (d / "config.json").write_text("{"), "config.json", "no JSON"),
    "config is a list": (lambda d: (d / "config.json").write_text("[]"), "config.json", "no JSON object"),
    "another family": (lambda d: change(d / "config.json", model_type="bert"), "bert", "qwen2_vl"),
    "processor is no JSON": (lambda d: (d / "preprocessor_config.json").write_text("{"), "preprocessor_config.json", "no JSON"),
    "tokenizer is no JSON": (lambda d: (d / "tokenizer_config.json").write_text("{"), "tokenizer"),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_model_directory_that_cannot_be_loaded(refused, hub_dir, manifest, tmp_path, case):
    damage, *parts = MODELS[case]
    model = shutil.copytree(hub_dir, tmp_path / "model")
    damage(model)
    refused(train(model, manifest, tmp_path / "run"), model, *parts)
    assert not (tmp_path / "run").exists()


def test_a_model_that_is_nowhere(refused, manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(train("Qwen/Qwen2-VL-2B-Instrct", manifest, tmp_path / "run"), "Qwen/Qwen2-VL-2B-Instrct", "give a local directory")
    refused(train("./nowhere", manifest, tmp_path / "run"), "./nowhere", "nano")
    monkeypatch.setattr(families.nano, "BASE_DIR", tmp_path)
    refused(train("nano", manifest, tmp_path / "run"), "medvlm-r1 nano")


# ---------------------------------------------------------------- run directories


def everything_in(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def test_a_run_directory_keeps_what_it_holds(command, refused, taught, manifest, tmp_path):
    run = tmp_path / "run"
    assert command(*train(taught, manifest, run))[0] == 0
    before = everything_in(run)
    refused(train(taught, manifest, run), run, "--resume")
    refused(train(taught, manifest, run, "--set", "seed=1", "--resume"), run, "another run")
    assert everything_in(run) == before
    code, out, _ = command(*train(taught, manifest, run, "--resume"))  # finished: nothing to do
    assert code == 0 and out.startswith("4 steps: reward ")
    assert out.splitlines()[1:] == [f"report: {run}/report.html", f"model: {run}/checkpoints/step-4"]


STRANGERS = {
    "a file": {"thesis.tex": "years of work"},
    "somebody's config": {"config.json": '{"name": "theirs"}'},
    "somebody's list": {"config.json": "[]"},
    "no JSON": {"config.json": "lr = 1"},
}


@pytest.mark.parametrize("case", STRANGERS)
@pytest.mark.parametrize("resume", [[], ["--resume"]], ids=["new", "resume"])
def test_a_strangers_directory_is_left_alone(refused, hub_dir, manifest, tmp_path, case, resume):
    for name, text in STRANGERS[case].items():
        (tmp_path / name).write_text(text)
    before = everything_in(tmp_path)
    refused(train(hub_dir, manifest, tmp_path, *resume), tmp_path, "choose another --run-dir")
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_run_directory_that_cannot_be(refused, hub_dir, manifest, tmp_path, place):
    (tmp_path / "file").write_text("mine")
    refused(train(hub_dir, manifest, tmp_path / place), tmp_path / place, "--run-dir")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["model.safetensors", "trainer/state.safetensors"])
def test_a_damaged_checkpoint_is_named(command, refused, taught, manifest, tmp_path, name):
    run = tmp_path / "run"
    assert command(*train(taught, manifest, run))[0] == 0
    cut(run / "checkpoints" / "step-4" / name)
    refused(train(taught, manifest, run, "--resume"), "step-4", "damaged")


def test_a_partial_checkpoint_is_no_model(command, taught, manifest, tmp_path):
    run = tmp_path / "run"
    assert command(*train(taught, manifest, run))[0] == 0
    (run / "checkpoints" / "step-9.partial").mkdir()
    assert command(*train(taught, manifest, run, "--resume"))[1].strip().endswith("step-4")


def test_who_may_read_the_run_may_read_the_weights(taught):
    assert len({file.stat().st_mode for file in taught.iterdir() if file.is_file()}) == 1


# ---------------------------------------------------------------- disks


@pytest.fixture
def disk(tmp_path):
    """Mounts a small real file system; the size may be changed with another call."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        again = "remount," if os.path.ismount(folder) else ""
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", folder], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot mount a file system here: {done.stderr.strip()}")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(not shutil.which("mount"), reason="no mount command")
def test_a_full_disk_loses_nothing(command, refused, disk, taught, manifest, tmp_path):
    """A checkpoint has 2.4 MB: one fits, not two."""
    values = (*SMALL[:-1], "save_every=1")
    run = disk("size=4m") / "run"
    refused(train(taught, manifest, run, values=values), run, "no space left", "--resume")
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-1"]
    assert 2 <= len((run / "metrics.jsonl").read_text().splitlines()) <= 3  # step 3 went on while the checkpoint of step 2 was written
    refused(train(taught, manifest, run, "--resume", values=values), run, "free", "--resume")
    disk("size=40m")
    assert command(*train(taught, manifest, run, "--resume", values=values))[0] == 0
    assert command(*train(taught, manifest, tmp_path / "whole", values=values))[0] == 0
    assert_same_run(run, tmp_path / "whole")


@pytest.mark.skipif(not shutil.which("mount"), reason="no mount command")
def test_a_disk_that_is_too_small_is_refused_before_the_first_step(refused, disk, taught, manifest):
    run = disk("size=1m") / "run"
    refused(train(taught, manifest, run), run, "a checkpoint needs", "--run-dir")
    assert not (run / "metrics.jsonl").exists()


@pytest.mark.skipif(not shutil.which("mount"), reason="no mount command")
def test_a_read_only_disk(refused, disk, taught, manifest):
    folder = disk("ro")
    refused(train(taught, manifest, folder / "run"), folder, "Read-only", "--run-dir")
    refused(["eval", "--model", taught, "--data", manifest, "--out", folder / "eval"], folder, "Read-only", "--out")


def test_the_disks_error_is_dug_out_of_safetensors(tmp_path):
    """What the tests above show on a real disk, where mounting is not permitted."""

    class Full:
        encoder, model = SimpleNamespace(save=lambda out: None), torch.nn.Linear(1, 1)

        def whole(self):
            return self

        def held(self):
            return self

        def save_weights(self, out):
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    class Steps:
        steps, sound = 3, True

        def state(self):
            return {}

    with pytest.raises(RunError, match="no space left"), Saver(tmp_path) as saver:
        saver.keep(Full(), Steps(), is_due=True)
    assert not list(tmp_path.rglob("step-*"))


# ---------------------------------------------------------------- Ctrl-C


def rows(run):
    found = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("seconds")} for row in found]


def assert_same_run(run, whole):
    assert rows(run) == rows(whole)
    assert (run / "rollouts.jsonl").read_bytes() == (whole / "rollouts.jsonl").read_bytes()
    steps = sorted(path.name for path in (whole / "checkpoints").iterdir())
    newest = whole / "checkpoints" / steps[-1]
    for name in sorted(file.relative_to(newest) for file in newest.rglob("*") if file.is_file()):
        assert (run / "checkpoints" / steps[-1] / name).read_bytes() == (newest / name).read_bytes(), name


def test_ctrl_c_leaves_a_run_that_goes_on_bit_for_bit(command, taught, manifest, tmp_path):
    """A real process, a real SIGINT, and the very command that it then prints."""
    values = ("steps=24", *SMALL[:2], *SMALL[3:])
    run, whole = tmp_path / "a run", tmp_path / "whole"
    words = [str(word) for word in train(taught, manifest, run, values=values)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "medvlm_r1", *words], stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() or len((run / "metrics.jsonl").read_text().splitlines()) < 1:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert 1 <= len(rows(run)) < 24
    go_on = re.search(r"go on with: medvlm-r1 (.*)", err)[1]
    torch.set_num_threads(1)
    assert command(*shlex.split(go_on))[0] == 0
    assert command(*train(taught, manifest, whole, values=values))[0] == 0
    assert any(row["grad_norm"] > 0 for row in rows(whole))
    assert_same_run(run, whole)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("beta", ["0.04", "0"])
def test_stopped_and_resumed_is_bit_for_bit(command, taught, manifest, tmp_path, monkeypatch, dtype, beta):
    values = (*SMALL, f"dtype={dtype}", f"update.loss.kl_beta={beta}")
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert command(*train(taught, manifest, whole, values=values))[0] == 0
    steps = []

    def stopping(*arguments, **settings):
        steps.append(1)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return collect(*arguments, **settings)

    collect = asking.collect
    monkeypatch.setattr(asking, "collect", stopping)
    code, out, err = command(*train(taught, manifest, run, values=values))
    assert code == 130 and out == "" and err.strip().endswith("--resume")
    assert len(rows(run)) == 2 and [path.name for path in (run / "checkpoints").iterdir()] == ["step-2"]
    assert command(*train(taught, manifest, run, "--resume", values=values))[0] == 0
    assert any(row["grad_norm"] > 0 for row in rows(whole))
    assert_same_run(run, whole)


def test_a_command_without_a_run_just_stops(command, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor_command, "run", interrupt)
    assert command("doctor") == (130, "", "\nmedvlm-r1: stopped\n")


def test_a_stopped_evaluation_goes_on_with_the_same_command(command, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(eval_command, "run", interrupt)
    words = ["eval", "--model", "nano", "--data", "my questions.jsonl", "--out", "runs/eval"]
    assert command(*words) == (130, "", f"\nmedvlm-r1: stopped; go on with: medvlm-r1 {shlex.join(words)}\n")


# ---------------------------------------------------------------- the machine


def test_a_full_gpu_is_a_sentence():
    with pytest.raises(EngineError, match="max_pixels"), memory_errors():
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")


def test_doctor_fails_with_a_remedy_where_something_is_missing(command, monkeypatch, tmp_path):
    monkeypatch.setattr(nano, "BASE_DIR", tmp_path)
    code, out, _ = command("doctor")
    assert code == 1 and "MISS nano weights" in out and "medvlm-r1 nano" in out
    (tmp_path / "model.safetensors").touch()
    code, out, _ = command("doctor", "--json")
    rows = json.loads(out)["checks"]
    assert code == int(not all(row["ok"] for row in rows))
    assert next(row for row in rows if row["name"] == "nano weights")["ok"]
    assert Path(tmp_path) == nano.BASE_DIR


def test_doctor_plans_the_memory_of_a_recipe(command, refused, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    code, out, _ = command("doctor", "nano-traces")  # there is no GRPO form of it
    assert code == 0 and "ok   memory plan" in out and "activations" in out and "cache" not in out
    code, out, _ = command("doctor", "paper", "--set", "prompts_per_step=1000", "--json")
    found = json.loads(out)
    memory, row = found["memory"], found["checks"][-1]
    assert code == 1 and not memory["fits"] and memory["workload"]["prompts"] == 1000
    assert not row["ok"] and row["name"] == "memory plan" and row["remedy"]
    assert found["memory_sft"]["workload"]["micro_prompts"] == 5 and found["checks"][-2]["name"] == "memory of sft"
    found = json.loads(command("doctor", "paper", "--set", "sampling.n=8", "--json")[1])
    assert found["memory_sft"] is None and found["memory"]["workload"]["rollouts"] == 8  # supervised training samples nothing
    assert json.loads(command("doctor", "--json")[1])["memory"] is None
    refused(["doctor", "papr"], 'did you mean "paper"')
    refused(["doctor", "paper", "--set", "stepz=3"], 'did you mean "steps"')
    refused(["doctor", "paper", "--model", "./nowhere"], "./nowhere")


def test_something_is_said_while_a_large_model_loads(taught, tmp_path, capsys):
    load_model(str(taught))
    assert capsys.readouterr().err == ""
    large = shutil.copytree(taught, tmp_path / "large")
    with (large / "model-more.safetensors").open("wb") as file:
        file.truncate(2**31)  # a hole: no disk is filled
    load_model(str(large))
    assert capsys.readouterr().err == f"loading {large}, 2.0 GiB\n"


def test_a_reader_that_has_seen_enough_is_no_error():
    line = f"{sys.executable} -m medvlm_r1 train nano --dry-run | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "0" and done.stderr == ""
