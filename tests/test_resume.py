"""A run is never lost: what many ranks wrote, another number reads; a damaged file costs one checkpoint; changed inputs are named."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
import worlds
from safetensors.torch import load_file, save_file
from test_distributed import PICTURES
from test_training import GRPO, files_of, fresh, vowels

from medvlm_r1.errors import RunError
from medvlm_r1.models import runs
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.training import checkpoint, identity, shards
from medvlm_r1.training.grpo import trainer as grpo
from medvlm_r1.training.optim import OptimConfig, Optimizer


class Interrupted(Exception):
    """What a machine does to a run."""


def train(policy, examples, run_dir, config=GRPO, stop_before=99):
    """The small run on this rank; when a step is asked for behind ``stop_before`` that are done, all ranks' machine goes."""

    def reward(completion, prompt):
        if grpo_step() >= stop_before:
            raise Interrupted
        return vowels(completion, prompt)

    def grpo_step():
        return policy.version

    return grpo.train(config, policy, LocalEngine(policy, learning=True), examples, reward, run_dir)


def assert_near(found, expected, start):
    """Two ends of a run differ by rounding alone: by little of the way that was gone. AdamW makes much of a tiny gradient's rounding."""
    for name in expected:
        assert (found[name] - expected[name]).norm() <= 1e-2 * (expected[name] - start[name]).norm() + 1e-9, name


def weights(policy):
    return {name: p.detach().clone() for name, p in policy.model.named_parameters()}


def on(size, tokenizer, examples, run_dir, **how):
    """The run's weights on ``size`` ranks; every rank's are the same to the last bit."""

    policies = [fresh(tokenizer) for _ in range(size)]  # drawn one after another: random numbers are the process's

    def work(world):
        train(policies[world.rank], examples, run_dir, **how)
        return weights(policies[world.rank])

    found = worlds.run(size, work)
    assert all(torch.equal(found[0][name], other[name]) for other in found[1:] for name in found[0])
    return found[0]


def test_two_ranks_saved_and_another_number_goes_on(tokenizer, examples, tmp_path):
    whole = on(2, tokenizer, examples, tmp_path / "whole")
    assert [file.name for file in sorted((tmp_path / "whole/checkpoints/step-4/trainer").glob("state*"))] == [shards.name_of(r, 2) for r in (0, 1)]
    with pytest.raises(Interrupted):
        on(2, tokenizer, examples, tmp_path / "cut", config=replace(GRPO, save_every=1), stop_before=3)  # the third save waits for the second's name
    assert checkpoint.latest(tmp_path / "cut").name == "step-2"
    for size in (1, 2, 3):
        shutil.copytree(tmp_path / "cut", run := tmp_path / f"on{size}")
        if size == 1:
            policy = fresh(tokenizer)
            assert train(policy, examples, run)
            found = weights(policy)
        else:
            found = on(size, tokenizer, examples, run)
        rows, rollouts = files_of(run)
        assert [row["step"] for row in rows] == [1, 2, 3, 4]
        if size == 2:
            assert all(torch.equal(found[name], whole[name]) for name in whole)
            assert (rows, rollouts) == files_of(tmp_path / "whole")
        assert_near(found, whole, weights(fresh(tokenizer)))


DAMAGES = {
    "a torn shard": (shards.name_of(1, 2), lambda file: file.write_bytes(file.read_bytes()[:-100]), "of [0-9]+ bytes"),
    "a page of zeros": (shards.name_of(0, 2), lambda file: file.write_bytes(file.read_bytes()[:-4096] + bytes(4096)), "other bytes"),
    "a missing rank file": (shards.name_of(1, 2), lambda file: file.unlink(), "is missing"),
    "the model": ("../model.safetensors", lambda file: file.write_bytes(b""), "0 of [0-9]+ bytes"),
}


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory):
    """A run of two ranks with two checkpoints that can be resumed from."""
    run_dir = tmp_path_factory.mktemp("runs") / "two"
    on(2, tokenizer, PICTURES, run_dir)
    return run_dir


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(saved, tokenizer, tmp_path, capsys, kind):
    name, spoil, why = DAMAGES[kind]
    shutil.copytree(saved, run := tmp_path / "run")
    spoil(run / "checkpoints/step-4/trainer" / name)
    policy = fresh(tokenizer)
    assert checkpoint.resume(run, policy, Optimizer(policy.model, GRPO.optim, 4)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "step-4 is damaged" in said and "going on from step-2" in said and re.search(why, said)
    assert [path.name for path in runs.checkpoints(run)] == ["step-2"] and (run / "checkpoints/step-4.damaged").exists()
    kept = load_file(run / "checkpoints/step-2/model.safetensors")
    assert torch.equal(policy.model.lm_head.weight, next(w for name, w in kept.items() if name.endswith("embed_tokens.weight")))


def test_where_none_is_whole_the_run_is_refused_and_nothing_is_moved(saved, tokenizer, tmp_path):
    shutil.copytree(saved, run := tmp_path / "run")
    for step in (2, 4):
        (run / f"checkpoints/step-{step}/trainer" / shards.name_of(0, 2)).unlink()
    policy = fresh(tokenizer)
    with pytest.raises(RunError, match='step-4 is damaged .*"trainer/state-00001-of-00002.safetensors" is missing.*backup'):
        checkpoint.resume(run, policy, Optimizer(policy.model, GRPO.optim, 4))
    assert len(runs.checkpoints(run)) == 2


def test_a_changed_value_is_named(tmp_path):
    checkpoint.open_run(tmp_path / "run", GRPO, resume=False)
    other = replace(GRPO, seed=1, optim=OptimConfig(lr=2e-3))
    with pytest.raises(RunError, match=r"another run \(optim.lr was 0.001 and is 0.002; seed was 0 and is 1\)"):
        checkpoint.open_run(tmp_path / "run", other, resume=True)


def test_changed_questions_pictures_and_weights_are_named(policy, examples, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model.safetensors").write_bytes(bytes(3 * 2**20))

    def check(some):
        identity.check(tmp_path, {"file of the model": identity.of_model(tmp_path / "model"), "question": identity.of_questions(some, policy.encoder)})

    check(examples)
    check([replace(e, images=tuple("a.png" if image == "a.png" else image for image in e.images)) for e in examples])
    for other, told in (
        ([replace(examples[0], answer="coronal"), *examples[1:]], 'question "q1" has changed'),
        ([replace(examples[0], images=("c.png",)), *examples[1:]], 'question "q1" has changed'),  # the same question about another picture
        (examples[1:], 'question "q1" is gone'),
        ([*examples, replace(examples[0], id="q9")], 'question "q9" is new'),
    ):
        with pytest.raises(RunError, match=told):
            check(other)
    (tmp_path / "inputs.json").unlink()
    shown = [*examples, *(replace(examples[0], images=(image,)) for image in ("c.png", "d.png"))]  # under other views, with partners' pictures
    check(shown)
    check(shown[::-1])
    with pytest.raises(RunError, match='question "q1" has changed'):
        check([*examples, *(replace(examples[0], images=(image,)) for image in ("e.png", "d.png"))])
    (tmp_path / "model/model.safetensors").write_bytes(bytes(3 * 2**20 - 1) + b"1")
    with pytest.raises(RunError, match='file of the model "model.safetensors" has changed'):
        check(examples)


def test_weights_that_differ_in_the_middle_alone_are_others(tmp_path):
    """As those behind merged adapters: one layer of thirty is enough."""
    file, found = tmp_path / "model.safetensors", []
    with file.open("wb") as opened:
        opened.truncate(2**28)
    for layer in (None, 11, 29):
        if layer:
            with file.open("r+b") as opened:
                opened.seek(2**20 + layer * 2**23)
                opened.write(b"1" * 2**23)
        found.append(identity.of_model(tmp_path)["model.safetensors"])
    assert len(set(found)) == 3


def test_a_run_of_before_that_knew_less_goes_on(tmp_path):
    identity.check(tmp_path, {"question": {"q1": "a"}})
    identity.check(tmp_path, {"question": {"q1": "a"}, "file of the model": {"model.safetensors": "b"}})


def test_rows_of_any_cut_are_read_for_any_other(tmp_path):
    """Seven rows written by three ranks, read by one, two and five."""
    whole = torch.arange(14.0).view(7, 2)
    for rank in range(3):
        mine = shards.rows_of(7, rank, 3)
        rows = json.dumps({"a": [mine.start, 7, 2]})
        save_file({"a": whole[mine.start : mine.stop].contiguous()}, tmp_path / shards.name_of(rank, 3), metadata={"rows": rows})
    stored = shards.Stored(tmp_path)
    for size in (1, 2, 5, 8):
        parts = [stored.rows("a", shards.rows_of(7, rank, size)) for rank in range(size)]
        assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(stored.like("a", torch.zeros(7, 2)), whole)
