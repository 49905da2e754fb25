"""Rollouts by vLLM servers: ids and log-probabilities, weights after every step, servers that die and come back. The server is a small one that behaves alike."""

import json
import time
from dataclasses import replace

import fake_vllm
import pytest
import torch
from test_training import GRPO, files_of, fresh, vowels

from medvlm_r1.errors import EngineError
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.calling import Endpoint
from medvlm_r1.rollout.engine import Apart, Sampling
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.rollout.vllm import pool as pools
from medvlm_r1.rollout.vllm import transfer
from medvlm_r1.rollout.vllm.engine import VLLMEngine
from medvlm_r1.rollout.vllm.pool import Pool
from medvlm_r1.rollout.vllm.speaking import Row
from medvlm_r1.rollout.vllm.weights import ByFile
from medvlm_r1.training.grpo import trainer as grpo
from medvlm_r1.training.grpo.loss import LossConfig
from medvlm_r1.training.grpo.source import Rollouts
from medvlm_r1.training.grpo.update import UpdateConfig
from medvlm_r1.types import Rollout, RolloutGroup

GREEDY = Sampling(n=1, temperature=0.0, max_tokens=8)
DRAWN = Sampling(n=3, max_tokens=8, seed=5)
SYNC = ["/pause", "/collective_rpc", "/reset_prefix_cache", "/reset_encoder_cache", "/reset_mm_cache", "/update_weight_version", "/resume"]


@pytest.fixture
def start(tokenizer):
    """Starts servers; each has a policy of its own."""
    torch.set_num_threads(1)
    started = []

    def server():
        started.append(fake_vllm.Server(fresh(tokenizer)))
        return started[-1]

    yield server
    for each in started:
        if each.alive:
            each.close()


@pytest.fixture
def engine_of(policy, tmp_path):
    """An engine over servers; ``said`` is what its pool told, ``waits`` how often it waited for somebody to come back."""

    def make(*servers, **how):
        said, waits = [], []
        weights = ByFile(tmp_path / "weights", how.pop("pause", "wait"))
        endpoints = [Endpoint(server.url, "", timeout_s=20.0, **how) for server in servers]
        engine = VLLMEngine(Pool(endpoints, weights.give, said.append, waits.append), weights, policy.encoder.apart(), policy.banned_ids, policy.stop_ids)
        engine.said, engine.waits = said, waits
        return engine

    return make


def moved(policy, seed=1):
    """The same policy with other weights, one version on."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in policy.model.parameters():
            p.mul_(1 + 0.3 * torch.randn(p.shape, generator=generator))
    policy.version += 1
    return policy


def prompts_of(examples):
    return [render(example, "think") for example in examples]


def test_greedy_tokens_are_the_local_engines_and_log_probabilities_the_trainers(policy, examples, start, engine_of):
    """Pictures of two shapes, and two in one prompt; a weight that has moved since the server began."""
    server = start()
    engine, prompts = engine_of(server), prompts_of(examples)
    assert isinstance(engine, Apart)
    engine.sync(moved(policy))
    found = engine.generate(prompts, GREEDY)
    local = LocalEngine(policy).generate(prompts, GREEDY)
    assert [c.token_ids for [c] in found] == [c.token_ids for [c] in local]
    assert [(c.text, c.finished, c.version) for [c] in found] == [(c.text, c.finished, c.version) for [c] in local]
    drawn = engine.generate(prompts, DRAWN)
    groups = [RolloutGroup(prompt, tuple(Rollout(c, {}) for c in written)) for prompt, written in zip(prompts, drawn, strict=True)]
    batch = policy.encoder.groups(groups)
    scored = policy.logprobs(batch)[batch.mask_RC.bool()]
    said = torch.tensor([value for written in drawn for c in written for value in c.logprobs])
    assert (scored - said).abs().max() < 1e-5


def test_every_row_has_numbers_of_its_own_and_the_seed_of_the_step_counts(policy, examples, start, engine_of):
    engine, prompts = engine_of(start()), prompts_of(examples)
    engine.sync(policy)
    first = engine.generate(prompts, DRAWN)
    assert len({c.token_ids for written in first for c in written}) == 9
    assert engine.generate(list(reversed(prompts)), DRAWN) == list(reversed(first))
    assert engine.generate(prompts, replace(DRAWN, seed=6)) != first
    assert engine.generate([replace(prompts[0], first=3)], DRAWN)[0] != first[0]  # drawn twice in a step: other rows the second time


def test_a_banned_token_is_never_written(policy, examples, start, engine_of):
    with torch.no_grad():
        policy.model.lm_head.weight[policy.banned_ids] = 50 * policy.model.lm_head.weight.mean(0).sign()
    engine = engine_of(start())
    engine.sync(policy)
    written = {token for group in engine.generate(prompts_of(examples), DRAWN) for c in group for token in c.token_ids}
    assert not written & set(policy.banned_ids)


def test_a_sync_pauses_loads_forgets_names_and_resumes(policy, examples, start, engine_of, tmp_path):
    """The second sync meets pictures that the server knows: without a reset it would die of them. Two versions of the weights stay on disk."""
    server = start()
    engine, prompts = engine_of(server), prompts_of(examples)
    for version in range(4):
        policy.version = version
        engine.sync(policy)
        assert [c.version for group in engine.generate(prompts, GREEDY) for c in group] == [version] * 3
        assert server.log == [*SYNC, *["/inference/v1/generate"] * 3]
        server.log.clear()
        moved(policy)
    assert sorted(folder.name for folder in (tmp_path / "weights").iterdir()) == [f"{engine.run}-{version}" for version in (2, 3)]
    assert engine.said == []


@pytest.mark.parametrize("pause", ["wait", "keep"])
def test_what_is_under_way_is_waited_for_or_kept_as_the_recipe_says(policy, start, engine_of, pause):
    server = start()
    engine_of(server, pause=pause).sync(policy)
    assert server.modes == [pause]


def test_the_fake_dies_of_a_known_picture_after_a_reload_without_a_reset(policy, examples, start, engine_of):
    server = start()
    engine, prompts = engine_of(server), prompts_of(examples)
    engine.sync(policy)
    engine.generate(prompts, GREEDY)
    server.stale = True
    engine.pool._wait = lambda seconds: engine.pool.close()
    with pytest.raises(EngineError):
        engine.generate(prompts[:1], GREEDY)


def test_a_dead_server_is_routed_around_and_rejoins_with_the_weights_of_the_next_sync(policy, examples, start, engine_of):
    one, other = start(), start()
    engine, prompts = engine_of(one, other, concurrency=1), prompts_of(examples) * 2
    engine.sync(policy)
    one.before = lambda body: one.kill() if one.alive else None  # with a request in its hands
    expected = LocalEngine(policy).generate(prompts, GREEDY)
    found = engine.generate(prompts, GREEDY)
    assert [c.token_ids for [c] in found] == [c.token_ids for [c] in expected] and not one.written
    assert len(engine.said) == 1 and f"{one.url} is lost" in engine.said[0] and "going on with 1 of 2" in engine.said[0]
    engine.sync(moved(policy))  # still dead: nobody is told again
    one.before = lambda body: None
    one.start()
    engine.generate(prompts, GREEDY)
    assert not one.written and len(engine.said) == 1
    one.log.clear()
    engine.sync(moved(policy, seed=2))
    found = engine.generate(prompts, GREEDY)
    assert one.log[: len(SYNC)] == SYNC and set(one.written) == {f"{engine.run}/2"}
    assert [c.token_ids for [c] in found] == [c.token_ids for [c] in LocalEngine(policy).generate(prompts, GREEDY)]
    assert engine.said[1:] == [f"{one.url} is back, with the newest weights"]


def test_a_server_that_was_started_again_unseen_gets_the_weights_before_it_counts(policy, examples, start, engine_of):
    server = start()
    engine, prompts = engine_of(server), prompts_of(examples)
    engine.sync(moved(policy))
    server.kill()
    server.start()
    found = engine.generate(prompts, GREEDY)
    assert [c.token_ids for [c] in found] == [c.token_ids for [c] in LocalEngine(policy).generate(prompts, GREEDY)]
    assert 'its weights are "default" and none of this run' in engine.said[0] and engine.said[-1].endswith("is back, with the newest weights")


def test_while_all_are_dead_it_waits_and_goes_on_with_the_first_that_is_back(policy, examples, start, engine_of):
    server = start()
    engine = engine_of(server)
    engine.sync(moved(policy))
    server.kill()
    engine.pool._wait = lambda seconds: engine.waits.append(seconds) or (len(engine.waits) == 3 and server.start())
    [[found], *_] = engine.generate(prompts_of(examples), GREEDY)
    assert found.version == 1 and len(engine.waits) == 3


def test_it_does_not_wait_for_ever(policy, examples, start, engine_of, monkeypatch):
    server = start()
    engine = engine_of(server)
    engine.sync(policy)
    server.kill()
    monkeypatch.setattr(pools, "PATIENCE_S", -1.0)
    with pytest.raises(EngineError, match=rf"no server writes rollouts since .*{server.url}.*--resume"):
        engine.generate(prompts_of(examples), GREEDY)


def test_what_every_server_would_refuse_ends_the_run_at_once(policy, examples, start, engine_of, serve):
    engine = engine_of(start())
    engine.sync(policy)
    strange = serve((404, {}, {"detail": "Not Found"}))
    engine.pool.servers[0].endpoint = Endpoint(strange.url.removesuffix("/v1"), "")
    with pytest.raises(EngineError, match="404.*launch --rollout"):
        engine.generate(prompts_of(examples[:1]), GREEDY)
    assert len(strange.asked) == 1


def test_a_prompt_that_fails_everywhere_ends_the_run_after_a_few_servers(policy, examples, start, engine_of):
    server = start()
    engine = engine_of(server)
    engine.sync(policy)
    server.spans = [{"version": "another/7", "start": 0, "end": 1}]
    with pytest.raises(EngineError, match='5 servers were asked.*"another/7" and none of this run'):
        engine.generate(prompts_of(examples[:1]), GREEDY)


def test_a_server_that_reads_the_prompt_otherwise_is_told_of_by_the_question(policy, examples, start, engine_of):
    """Its processor lets larger pictures through than ours."""
    server = start()
    engine = engine_of(server)
    engine.sync(policy)
    engine.encoder.image_processor.size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28}
    server.policy.encoder.image_processor.size = {"shortest_edge": 56 * 56, "longest_edge": 84 * 84}
    with pytest.raises(EngineError, match='reads question "q1" otherwise than this run .token [0-9]+ is .* its own processor'):
        engine.generate(prompts_of(examples[:1]), GREEDY)


def test_a_completion_is_as_old_as_its_oldest_token(policy, examples, start, engine_of):
    engine = engine_of(start())
    row = Row([7, policy.stop_ids[0]], [-0.5, -0.1], [f"{engine.run}/4", f"{engine.run}/3", f"{engine.run}/5"])
    completion = engine._completion(prompts_of(examples[:1])[0], row)
    assert (completion.version, completion.finished, completion.logprobs) == (3, True, (-0.5, -0.1))


def test_closed_it_asks_no_more_and_leaves_no_weights(policy, examples, start, engine_of, tmp_path):
    server = start()
    engine = engine_of(server)
    engine.sync(policy)
    engine.close()
    assert server.log[-1] == "/abort_requests" and not any((tmp_path / "weights").iterdir())
    with pytest.raises(EngineError, match="asks no more"):
        engine.generate(prompts_of(examples), GREEDY)


AHEAD = replace(GRPO, rollout=Rollouts("vllm", ("http://here",), lag=1), update=UpdateConfig(loss=LossConfig(trust="truncated")))


def test_a_run_loses_no_step_to_a_server_that_dies_and_comes_back(tokenizer, policy, examples, start, engine_of, tmp_path):
    """Two servers, one step ahead; one dies in its third request and is back two steps later."""
    one, other = start(), start()
    engine, asked = engine_of(one, other, concurrency=1), []

    def dies(body):
        asked.append(time.monotonic())
        if len(asked) == 3:
            one.kill()

    one.before = dies

    def reward(completion, prompt):
        if not one.alive and policy.version >= 2:
            one.before = lambda body: None
            one.start()
        return vowels(completion, prompt)

    assert grpo.train(replace(AHEAD, steps=6), policy, engine, examples, reward, tmp_path / "run")
    rows, rollouts = files_of(tmp_path / "run")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6] and len(rollouts.splitlines()) == 6 * 2 * 3
    assert rows[0]["lag"] == 0 and all(row["lag"] <= 1 for row in rows) and any(row["lag"] == 1 for row in rows)
    assert rows[0]["sampler_mismatch"] < 1e-5
    assert any("is lost" in text for text in engine.said) and any("is back" in text for text in engine.said)


def test_without_a_lag_the_sampler_is_the_policy_in_every_step(tokenizer, policy, examples, start, engine_of, tmp_path):
    engine, config = engine_of(start()), replace(GRPO, rollout=Rollouts("vllm", ("http://here",)))
    assert grpo.train(config, policy, engine, examples, vowels, tmp_path / "run")
    rows, _ = files_of(tmp_path / "run")
    assert [row["lag"] for row in rows] == [0, 0, 0, 0] and all(row["sampler_mismatch"] < 1e-5 for row in rows)
    assert json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[0])["seconds/sync"] > 0


# ---------------------------------------------------------------- what can be set, and the command


VLLM = ("--set", "rollout.engine=vllm", "--set", 'rollout.servers=["http://127.0.0.1:9/v1"]')


@pytest.mark.parametrize(
    ("sets", "parts"),
    [
        (["rollout.engine=vlm"], ['unknown engine "vlm"', "vllm"]),
        (["rollout.engine=vllm"], ['"rollout.servers" is empty', "http://HOST:PORT"]),
        (['rollout.servers=["http://a:1"]'], ["nobody asks", "rollout.engine=vllm"]),
        (['rollout={"engine": "vllm", "servers": ["a:1"]}'], ['"a:1" is no address']),
        (['rollout={"engine": "vllm", "servers": ["http://a:1", "http://a:1/v1/"]}'], ["names a server twice"]),
        (["rollout.lag=1"], ["by turns", "rollout.lag=0"]),
        (['rollout={"engine": "vllm", "servers": ["http://a:1"], "lag": 1}'], ["older weights", "update.loss.trust=truncated"]),
        (['rollout={"engine": "vllm", "weights": "ftp"}'], ['unknown weights "ftp"']),
        (["rollout.timeout_s=0"], ["more than 0"]),
        (['rollout={"lagg": 1}'], ['unknown key "rollout.lagg"', "lag"]),
        (["rollout={lag}"], ['"rollout" wants']),
    ],
)
def test_a_wrong_value_is_told_before_anything_is_loaded(refused, sets, parts):
    refused(["train", "nano", "--dry-run", *(word for value in sets for word in ("--set", value))], *parts)


def test_a_run_whose_servers_do_not_answer_says_how_to_start_them(refused, tmp_path):
    refused(["train", "nano", "--run-dir", tmp_path / "run", *VLLM], "no server writes rollouts", "http://127.0.0.1:9", "launch --rollout")
    assert not (tmp_path / "run").exists()


class Worker:
    """vLLM's client of one server; notes what it is told."""

    def __init__(self):
        self.told = []

    def init_weight_transfer_engine(self, info):
        self.told.append(info)

    def update_weights(self, info):
        self.told.append(info)


def test_in_a_transfer_each_servers_workers_lie_behind_those_of_the_others():
    """The trainer is rank 0; two workers, then one, then four."""
    workers = [Worker(), Worker(), Worker()]
    client = transfer.Client(workers, [2, 1, 4])
    client.init_weight_transfer_engine({"rank_offset": 1, "world_size": 8})
    client.update_weights({"names": ["a"]})
    assert [worker.told[0]["rank_offset"] for worker in workers] == [1, 3, 4]
    assert all(worker.told[1] == {"names": ["a"]} for worker in workers)
    transfer.Client(workers, [2, 1, 4]).init_weight_transfer_engine({"packed": False})
    assert workers[2].told[2] == {"packed": False}


def test_between_two_syncs_no_weights_are_sent():
    there = Endpoint("http://127.0.0.1:9", "")
    carrier = transfer.ByTransfer("nccl", "wait")
    assert "between two steps" in str(carrier.give([there])[there])
