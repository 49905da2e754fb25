"""Checkpoints written beside the run: whole or not there, the same bytes whoever waits, errors told in a sentence; and one writer a run."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import worlds
from safetensors.torch import load_file
from test_training import GRPO, SFT, files_of, fresh, run_sft

from medvlm_r1.errors import RunError
from medvlm_r1.models import runs
from medvlm_r1.training import checkpoint, sft
from medvlm_r1.training.claim import Claim
from medvlm_r1.training.optim import Optimizer
from medvlm_r1.training.saving import Saver, size_of

ROOT = Path(__file__).resolve().parents[1]


class Gate:
    """A model whose writing waits until it may, and then does what a test likes."""

    def __init__(self, policy, then=lambda: None):
        self.policy, self.then, self.opened, self.begun = policy, then, threading.Event(), threading.Event()
        self.model, self.encoder, self.version = policy.model, policy.encoder, 0

    def whole(self):
        return self

    def held(self):
        other = Gate(self.policy.held(), self.then)
        other.opened, other.begun = self.opened, self.begun
        return other

    def save_weights(self, out):
        self.begun.set()
        assert self.opened.wait(30)
        self.then()
        self.policy.save_weights(out)


def stepped(tokenizer, steps):
    policy = fresh(tokenizer)
    optimizer = Optimizer(policy.model, SFT.optim, 10)
    optimizer.steps = steps
    return policy, optimizer


def names(run_dir):
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def test_the_run_goes_on_while_a_checkpoint_is_written_and_what_is_kept_is_of_its_step(tokenizer, tmp_path):
    policy, optimizer = stepped(tokenizer, 1)
    before = policy.model.lm_head.weight.detach().clone()
    gate = Gate(policy)
    with Saver(tmp_path) as saver:
        saver.keep(gate, optimizer, is_due=True)
        assert gate.begun.wait(30) and names(tmp_path) == ["step-1.partial"]
        with torch.no_grad():
            policy.model.lm_head.weight.add_(1.0)  # the next step
        saver.keep(gate, optimizer, is_due=False)  # not done yet: nothing waits
        assert names(tmp_path) == ["step-1.partial"] and runs.checkpoints(tmp_path) == []
        gate.opened.set()
        saver.settle()
        assert names(tmp_path) == ["step-1"]
    kept = load_file(tmp_path / "checkpoints/step-1/model.safetensors")
    assert torch.equal(next(w for name, w in kept.items() if name.endswith("embed_tokens.weight")), before)


def test_a_second_save_and_leaving_wait_for_the_first(tokenizer, tmp_path):
    policy, optimizer = stepped(tokenizer, 1)
    gate = Gate(policy)
    with Saver(tmp_path) as saver:
        saver.keep(gate, optimizer, is_due=True)
        threading.Timer(0.1, gate.opened.set).start()
        optimizer.steps = 2
        saver.keep(gate, optimizer, is_due=True)
        assert (tmp_path / "checkpoints/step-1").exists()
    assert names(tmp_path) == ["step-1", "step-2"]


def test_an_error_behind_a_save_is_left_with_what_was_written(tokenizer, tmp_path):
    policy, optimizer = stepped(tokenizer, 1)
    with pytest.raises(ValueError, match="of the next step"), Saver(tmp_path) as saver:
        saver.keep(policy, optimizer, is_due=True)
        raise ValueError("of the next step")
    assert names(tmp_path) == ["step-1"]


@pytest.mark.parametrize(("number", "told"), [(errno.ENOSPC, "no space left on the disk"), (errno.EROFS, "cannot write .*Read-only")])
def test_a_disk_that_fails_while_the_run_goes_on_ends_it_in_a_sentence_and_the_checkpoint_before_stays(number, told, tokenizer, tmp_path):
    policy, optimizer = stepped(tokenizer, 1)

    def fail():
        raise OSError(number, os.strerror(number))

    with Saver(tmp_path) as saver:
        saver.keep(policy, optimizer, is_due=True)
        optimizer.steps = 2
        gate = Gate(policy, fail)
        saver.keep(gate, optimizer, is_due=True)
        gate.opened.set()
        with pytest.raises(RunError, match=told):
            saver.settle()
    assert names(tmp_path) == ["step-1"]
    assert checkpoint.resume(tmp_path, policy, optimizer) == 1


def test_on_many_ranks_one_disk_that_fails_ends_all_of_them_in_the_same_sentence(tokenizer, tmp_path):
    policies = [stepped(tokenizer, 1) for _ in range(2)]

    def work(world):
        policy, optimizer = policies[world.rank]
        with Saver(tmp_path) as saver:
            saver.keep(policy, optimizer, is_due=True)
            saver.settle()
            optimizer.steps = 2
            saver.keep(policy, optimizer, is_due=True)
            if world.rank == 1:  # its disk, not the other's
                saver._writing.files.result()
                saver._writing.files._exception = RunError("no space left on rank 1's disk")
            try:
                saver.settle()
            except RunError as error:
                return str(error)

    assert worlds.run(2, work) == ["no space left on rank 1's disk"] * 2
    assert names(tmp_path) == ["step-1"]


def test_who_has_no_room_for_a_copy_waits_and_writes_the_same_bytes(tokenizer, examples, tmp_path):
    run_sft(tokenizer, examples, tmp_path / "copied")
    policy = fresh(tokenizer)
    optimizer = Optimizer(policy.model, SFT.optim, 4)
    assert checkpoint.resume(tmp_path / "copied", policy, optimizer) == 4
    with Saver(tmp_path / "waited", free=lambda: 0) as saver:
        saver.keep(policy, optimizer, is_due=True)
        assert names(tmp_path / "waited") == ["step-4"]
    there, here = (tmp_path / name / "checkpoints/step-4" for name in ("copied", "waited"))
    files = [file.relative_to(there) for file in there.rglob("*") if file.is_file()]
    assert {"model.safetensors", "state.safetensors", "files.json", "tokenizer.json"} <= {file.name for file in files}
    for file in files:
        assert (there / file).read_bytes() == (here / file).read_bytes(), file


def test_what_is_copied_is_counted(policy):
    optimizer = Optimizer(policy.model, SFT.optim, 10)
    n = sum(p.numel() for p in policy.model.parameters())
    assert size_of(policy.model.parameters()) == 4 * n and size_of(optimizer.state().values()) == 16  # before the first step: what was skipped


def test_sigterm_waits_for_the_checkpoint_under_way(tokenizer, examples, tmp_path):
    """It comes in step 1; the run ends behind it with a whole checkpoint, and no other is left half."""
    policy, calls = fresh(tokenizer), []
    hook = policy.model.lm_head.register_forward_hook(lambda *_: calls.append(1) or (len(calls) == 1 and os.kill(os.getpid(), signal.SIGTERM)) or None)
    assert not sft.train(replace(SFT, save_every=1), policy, examples, tmp_path)
    hook.remove()
    assert names(tmp_path) == ["step-1"] and [row["step"] for row in files_of(tmp_path)[0]] == [1]


# ---------------------------------------------------------------- one writer


def test_a_second_process_in_the_same_folder_is_refused_after_a_while(tmp_path):
    checkpoint.open_run(tmp_path, GRPO, resume=False)
    before, waits = (tmp_path / "config.json").read_bytes(), []
    with Claim(tmp_path, 2.0):
        with pytest.raises(RunError, match="another process trains in .*; wait for its end or stop it"):
            Claim(tmp_path, 2.0, waits.append)
        assert waits == [0.5] * 4
    with Claim(tmp_path, 0.0):
        assert (tmp_path / "config.json").read_bytes() == before and json.loads(before)


def test_a_rank_is_gone_with_the_torchrun_that_started_it(tmp_path):
    """The parent is killed outright, as the kernel's memory killer does it; the child would have said something a while later."""
    child = (
        "import os, time; from medvlm_r1.training.parent import die_with_parent; die_with_parent(); print(os.getpid(), flush=True); time.sleep(60); print(1)"
    )
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True).wait()"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}) as started:
        os.kill(int(started.stdout.readline()), 0)  # it is there
        started.kill()
        assert started.stdout.read() == ""  # ends when the child, which holds the other end, is gone


def test_a_worker_of_a_study_is_gone_with_the_study():
    """It would train on for hours, beside the study that is started in its place."""
    words = "from multiprocessing import get_context; from medvlm_r1.experiments.study import worker; pool = get_context('spawn').Pool(1, worker); "
    words += "pool.apply(exec, ('import time; print(0, flush=True); time.sleep(60); print(1, flush=True)',))"
    with subprocess.Popen([sys.executable, "-c", words], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}) as started:
        assert started.stdout.readline() == "0\n"  # it works
        started.kill()
        assert started.stdout.read() == ""  # ends when the worker, which holds the other end, is gone
