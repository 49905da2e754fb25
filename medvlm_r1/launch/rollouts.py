"""Who writes the rollouts of a training: this process, or vLLM servers; and the command that starts one of these."""

import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import medvlm_r1
from medvlm_r1.config import secret
from medvlm_r1.console import notice
from medvlm_r1.errors import ConfigError, EngineError
from medvlm_r1.models.families import is_hub_id, locate
from medvlm_r1.models.policy import Policy
from medvlm_r1.preflight.values import servers
from medvlm_r1.rollout.calling import Endpoint, Fault, call
from medvlm_r1.rollout.engine import Engine
from medvlm_r1.rollout.vllm.engine import VLLMEngine
from medvlm_r1.rollout.vllm.pool import Pool
from medvlm_r1.rollout.vllm.transfer import ByTransfer
from medvlm_r1.rollout.vllm.weights import ByFile, Weights
from medvlm_r1.training import sharding
from medvlm_r1.training.grpo.source import Rollouts
from medvlm_r1.training.grpo.trainer import GRPOConfig

PICTURES, TEXT_TOKENS = 4, 1024  # of a prompt, at most, unless the printed command is changed
TOKEN_PIXELS = 28**2


def endpoints(rollout: Rollouts) -> list[Endpoint]:
    """The servers of a run; their key, where they want one, is in the environment."""
    return [Endpoint(url, "", secret("MEDVLM_API_KEY"), rollout.timeout_s, concurrency=rollout.concurrency) for url in servers(rollout)]


def check_up(rollout: Rollouts) -> None:
    """Before anything is loaded: raises EngineError where no server takes weights; of those that do not answer it says so."""
    faults: dict[str, Fault] = {}
    there = endpoints(rollout)
    for endpoint in there:
        try:
            call(endpoint, "weight_info", timeout_s=30.0)
        except Fault as fault:
            faults[endpoint.url] = fault
    told = "; ".join(f"{url}: {fault}" for url, fault in faults.items())
    remedy = "start it with the command that medvlm-r1 launch --rollout prints"
    if faults and len(faults) == len(there):
        raise EngineError(f"no server writes rollouts ({told}); {remedy}")
    if faults:
        notice(f"warning: going on with {len(there) - len(faults)} of {len(there)} servers ({told}); {remedy}")


def engine(rollout: Rollouts, policy: Policy, run_dir: Path) -> Engine:
    """What writes the rollouts of a policy that learns."""
    if rollout.engine == "local":
        return sharding.engine(policy)
    if not policy.shares_prompts:
        raise ConfigError(
            f'vLLM servers write rollouts for the families of docs/models.md, and "{policy.model.config.model_type}" is none; set rollout.engine=local'
        )
    folder = Path(rollout.folder) if rollout.folder else run_dir / "weights"
    weights: Weights = ByFile(folder, rollout.pause) if rollout.weights == "file" else ByTransfer(rollout.weights, rollout.pause)
    return VLLMEngine(Pool(endpoints(rollout), weights.give, notice), weights, policy.encoder.apart(), policy.banned_ids, policy.stop_ids)


def command(config: GRPOConfig, gpus: int) -> str:
    """For each server a line for its machine's shell. vLLM must be installed there, and this package or its folder be in reach.

    >>> config = GRPOConfig(model="nano", rollout=Rollouts("vllm", ("http://gpu01:8001",)))
    >>> print(command(config, 1).splitlines()[0])
    # on gpu01: vLLM (tried: 0.32); whoever reaches its port can change its weights, so let nobody else
    >>> two = command(GRPOConfig(model="nano", rollout=Rollouts("vllm", ("http://gpu01:8000", "http://gpu01:8001"))), 2)
    >>> [word for word in two.split() if word.startswith("CUDA")]
    ['CUDA_VISIBLE_DEVICES=0,1', 'CUDA_VISIBLE_DEVICES=2,3']
    """
    urls = servers(config.rollout) or ["http://127.0.0.1:8000"]
    hosts = [urlsplit(url).hostname or "" for url in urls]
    before = [hosts[:n].count(host) if hosts.count(host) > 1 else None for n, host in enumerate(hosts)]  # of several on a machine, each has its own GPUs
    return "\n".join(_command(config, url, gpus, None if n is None else range(n * gpus, (n + 1) * gpus)) for url, n in zip(urls, before, strict=True))


def _command(config: GRPOConfig, url: str, gpus: int, own: Sequence[int] | None) -> str:
    place, rollout = urlsplit(url), config.rollout
    host = place.hostname or ""
    listens = {"localhost": "127.0.0.1", "127.0.0.1": "127.0.0.1", "::1": "::1"}.get(host, "::" if ":" in host else "0.0.0.0")
    tokens = PICTURES * (config.max_pixels or 0) // TOKEN_PIXELS + TEXT_TOKENS + config.sampling.max_tokens
    model = config.model if is_hub_id(config.model) else str(locate(config.model).absolute())
    environment = {"VLLM_SERVER_DEV_MODE": "1", "PYTHONPATH": str(Path(medvlm_r1.__file__).parents[1])}
    words = [
        "vllm", "serve", model, "--host", listens, "--port", str(place.port or 80),
        "--dtype", config.dtype, *(["--max-model-len", str(1024 * math.ceil(tokens / 1024))] if config.max_pixels else []), "--enable-scale-out",
        "--logprobs-mode", "processed_logprobs", "--generation-config", "vllm", "--limit-mm-per-prompt", json.dumps({"image": PICTURES}),
        "--worker-extension-cls", "medvlm_r1.rollout.vllm.worker.Extension",
        *(["--tensor-parallel-size", str(gpus)] if gpus > 1 else []),
        *(["--weight-transfer-config", json.dumps({"backend": rollout.weights})] if rollout.weights != "file" else []),
    ]  # fmt: skip
    if own:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, own))
    if rollout.weights == "ipc":
        environment["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
    sets = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
    head = f"# on {host}: vLLM (tried: 0.32); whoever reaches its port can change its weights, so let nobody else"
    return f"{head}\n{sets} {shlex.join(words)}"
