"""The same training on many devices: the command for torchrun, the script for Slurm, the manifest for Kubernetes. Texts alone; nothing is started here."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from medvlm_r1.errors import ConfigError

PORT = 29400
GRACE_S = 120  # between a SIGTERM and the end: the step under way, and a checkpoint
# A restarted worker may find the old store of a shared one: of 3 kills 1 ended the job, of 5 without sharing none (docs/scale.md).
ENVIRONMENT = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_WAIT_POLICY": "passive"}


@dataclass(frozen=True)
class Job:
    """A training on ``nodes`` with ``gpus`` processes each, one a GPU; ``words`` are those behind ``medvlm-r1``.

    ``head``: the node where the processes meet; not asked for where there is one node, or Slurm or Kubernetes knows.

    >>> Job(("train", "paper"), nodes=2, gpus=8, head="gpu01").world
    16
    """

    words: tuple[str, ...]
    nodes: int = 1
    gpus: int = 1
    restarts: int = 3
    head: str = ""
    name: str = "medvlm-r1"

    @property
    def world(self) -> int:
        """How many processes there are."""
        return self.nodes * self.gpus


def job(words: Sequence[str], nodes: int, gpus: int, restarts: int, head: str) -> Job:
    """A job of words that can be trained. ``--resume`` is added: given again, the same job goes on. Raises ConfigError for other commands."""
    if not words or words[0] not in ("train", "sft"):
        raise ConfigError(
            f'launch takes a training behind "--", got "{" ".join(words)}"; write medvlm-r1 launch --gpus 8 -- train paper --data questions.jsonl'
        )
    return Job(tuple(words) + (() if "--resume" in words else ("--resume",)), nodes, gpus, restarts, head)


def torchrun(job: Job) -> list[str]:
    """One node's command. Raises ConfigError where several nodes have no place to meet.

    >>> print(shlex.join(torchrun(Job(("train", "paper", "--resume"), gpus=8))))
    torchrun --nproc-per-node 8 --max-restarts 3 --shutdown-timeout 120 --standalone -m medvlm_r1 train paper --resume
    """
    if job.nodes > 1 and not job.head:
        raise ConfigError(f"{job.nodes} nodes meet at one of them; name it with --head HOST, and give the same command on every node")
    meet = ["--nnodes", str(job.nodes), "--rdzv-backend", "c10d", "--rdzv-id", job.name, "--rdzv-endpoint", f"{job.head}:{PORT}"]
    return [
        "torchrun", "--nproc-per-node", str(job.gpus), "--max-restarts", str(job.restarts), "--shutdown-timeout", str(GRACE_S),
        *(meet if job.nodes > 1 else ["--standalone"]), "-m", "medvlm_r1", *job.words,
    ]  # fmt: skip


def shell(job: Job) -> str:
    """``torchrun`` with its environment, for a shell."""
    return " ".join([*(f"{name}={value}" for name, value in ENVIRONMENT.items()), shlex.join(torchrun(job))])


def slurm(job: Job) -> str:
    """A script for sbatch. Slurm sends SIGTERM in time before its limit, and starts a job again whose node was lost."""
    here = Job(job.words, job.nodes, job.gpus, job.restarts, "$head", job.name)
    command = shlex.join(torchrun(here)).replace(f"'$head:{PORT}'", f'"$head:{PORT}"')
    return "\n".join(
        [
            "#!/bin/bash",
            f"#SBATCH --job-name={job.name}",
            f"#SBATCH --nodes={job.nodes}",
            "#SBATCH --ntasks-per-node=1",
            f"#SBATCH --gpus-per-node={job.gpus}",
            f"#SBATCH --signal=TERM@{GRACE_S + 60}",
            "#SBATCH --requeue",
            "#SBATCH --open-mode=append",
            *(f"export {name}={value}" for name, value in ENVIRONMENT.items()),
            'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
            f"exec srun --kill-on-bad-exit=1 {command}",
            "",
        ]
    )


def kubernetes(job: Job, image: str, claim: str) -> str:
    """A Service, by which the pods find the first of them, and an indexed Job; JSON, which kubectl takes as it takes YAML.

    ``image`` has the package; ``claim`` names a volume that all pods share: data, models and runs lie at /work.
    """
    here = Job(job.words, job.nodes, job.gpus, job.restarts, f"{job.name}-0.{job.name}", job.name)
    mark = {"app": job.name}
    container = {
        "name": "train", "image": image, "workingDir": "/work", "command": [word.replace("$", "$$") for word in torchrun(here)],
        "env": [{"name": name, "value": value} for name, value in ENVIRONMENT.items()],
        "resources": {"limits": {"nvidia.com/gpu": job.gpus}},
        "volumeMounts": [{"name": "work", "mountPath": "/work"}, {"name": "shm", "mountPath": "/dev/shm"}],
    }  # fmt: skip
    volumes = [{"name": "work", "persistentVolumeClaim": {"claimName": claim}}, {"name": "shm", "emptyDir": {"medium": "Memory"}}]
    pod = {
        "subdomain": job.name, "restartPolicy": "OnFailure", "terminationGracePeriodSeconds": GRACE_S + 60,
        "containers": [container], "volumes": volumes,
    }  # fmt: skip
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": job.name}, "spec": {"clusterIP": "None", "selector": mark}}
    pods = {
        "completionMode": "Indexed", "completions": job.nodes, "parallelism": job.nodes, "backoffLimit": job.restarts,
        "template": {"metadata": {"labels": mark}, "spec": pod},
    }  # fmt: skip
    whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job.name}, "spec": pods}
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [service, whole]}, indent=1) + "\n"
