"""``medvlm-r1 launch``: one training on many devices, printed or started."""

import argparse
import os
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable

from medvlm_r1.commands import train
from medvlm_r1.commands.options import Commands, Parser, add, whole

EXAMPLES = """
  medvlm-r1 launch --gpus 8 -- train paper --data questions.jsonl                          prints the command for this machine
  medvlm-r1 launch --gpus 8 --run -- train paper --data questions.jsonl                    and starts it
  medvlm-r1 launch --on slurm --nodes 4 --gpus 8 -- train paper --data questions.jsonl     a script for sbatch
  medvlm-r1 launch --on kubernetes --nodes 4 --gpus 8 --image registry/medvlm-r1 -- train paper --data questions.jsonl
  medvlm-r1 launch --rollout -- train paper --data questions.jsonl --set rollout.engine=vllm --set 'rollout.servers=["http://gpu01:8000"]'
"""
STARTERS = {"slurm": ["sbatch"], "kubernetes": ["kubectl", "apply", "-f", "-"]}


def register(commands: Commands) -> None:
    """How many, where, and the training itself behind two dashes."""
    sub = add(commands, "launch", "a training on many devices: prints the torchrun, Slurm or Kubernetes form, or starts it", EXAMPLES, run)
    sub.add_argument("--nodes", type=whole(1), default=1, metavar="N", help="machines (default: 1)")
    sub.add_argument("--gpus", type=whole(1), default=1, metavar="M", help="processes on each, one a GPU; without GPUs one a core (default: 1)")
    sub.add_argument("--on", choices=("torchrun", *STARTERS), default="torchrun", help="what starts the processes (default: torchrun)")
    sub.add_argument("--rollout", action="store_true", help="print the command of its vLLM servers (rollout.servers) instead; --gpus are those of one server")
    sub.add_argument("--run", dest="start", action="store_true", help="start it, too")
    sub.add_argument(
        "--restarts", type=whole(0), default=3, metavar="N", help="how often a lost process is started again, from the last checkpoint (default: 3)"
    )
    sub.add_argument("--head", default="", metavar="HOST", help="for torchrun on several machines: the one where they meet")
    sub.add_argument("--image", default="medvlm-r1", help="for Kubernetes: a container image with this package")
    sub.add_argument("--claim", default="medvlm-r1", help="for Kubernetes: the volume claim that all pods share at /work")
    sub.add_argument("training", nargs=argparse.REMAINDER, help="behind --: train or sft with its options")


def run(arguments: Namespace) -> int:
    """Print the form; with ``--run`` hand it to what starts it, whose exit code is ours."""
    from medvlm_r1.launch import cluster

    words = arguments.training[arguments.training[:1] == ["--"] :]
    if arguments.rollout:
        print(_servers(words, arguments.gpus))
        return 0
    job = cluster.job(words, arguments.nodes, arguments.gpus, arguments.restarts, arguments.head)
    forms: dict[str, Callable[[cluster.Job], str]] = {
        "torchrun": cluster.shell,
        "slurm": cluster.slurm,
        "kubernetes": lambda job: cluster.kubernetes(job, arguments.image, arguments.claim),
    }
    text = forms[arguments.on](job)
    print(text.rstrip("\n"), flush=True)
    if not arguments.start:
        return 0
    if arguments.on in STARTERS:
        return _hand(STARTERS[arguments.on], text)
    there = [f"{name}={value}" for name, value in cluster.ENVIRONMENT.items()]
    os.execvp("env", ["env", *there, sys.executable, "-m", "torch.distributed.run", *cluster.torchrun(job)[1:]])


def _servers(words: list[str], gpus: int) -> str:
    """What starts the servers of a training; its values are checked as it would check them."""
    from medvlm_r1.errors import ConfigError
    from medvlm_r1.launch import rollouts

    if words[:1] != ["train"]:
        raise ConfigError(f'rollouts belong to a training, got "{" ".join(words)}"; write medvlm-r1 launch --rollout -- train paper --data questions.jsonl')
    parser = Parser(prog="medvlm-r1")
    train.register(parser.add_subparsers(dest="command"))
    return rollouts.command(train.configured(parser.parse_args(words), "grpo"), gpus)


def _hand(starter: list[str], text: str) -> int:
    from medvlm_r1.errors import ConfigError

    if shutil.which(starter[0]) is None:
        raise ConfigError(f'"{starter[0]}" is not here, so nothing was started; take what was printed to a machine that has it')
    return subprocess.run(starter, input=text, text=True, check=False).returncode
