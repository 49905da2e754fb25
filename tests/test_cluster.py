"""The forms of one training for torchrun, Slurm and Kubernetes."""

import json
import shlex
import subprocess

from torch.distributed.run import get_args_parser

from medvlm_r1.launch import cluster
from medvlm_r1.rollout.vllm.worker import Extension

TRAINING = ("train", "paper", "--data", "my questions.jsonl")


def told(line):
    """What torchrun understands of a command line."""
    words = shlex.split(line)
    return get_args_parser().parse_args(words[words.index("torchrun") + 1 :])


def test_one_node_needs_no_meeting_point(command):
    code, out, _ = command("launch", "--gpus", 8, "--", *TRAINING)
    found = told(out)
    assert code == 0 and (found.nproc_per_node, found.standalone, found.max_restarts, found.shutdown_timeout) == ("8", True, 3, 120)
    assert [found.training_script, *found.training_script_args] == ["medvlm_r1", *TRAINING, "--resume"] and found.module


def test_several_nodes_meet_at_the_head(command, refused):
    found = told(command("launch", "--nodes", 2, "--gpus", 4, "--head", "gpu01", "--restarts", 0, "--", *TRAINING)[1])
    assert (found.nnodes, found.rdzv_backend, found.rdzv_endpoint, found.max_restarts) == ("2", "c10d", "gpu01:29400", 0)
    refused(["launch", "--nodes", 2, "--gpus", 4, "--", *TRAINING], "2 nodes", "--head")


def test_slurm_asks_for_what_the_job_needs_and_bash_can_read_it(command):
    script = command("launch", "--on", "slurm", "--nodes", 4, "--gpus", 8, "--", *TRAINING)[1]
    asked = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in script.splitlines() if line.startswith("#SBATCH"))
    assert (asked["nodes"], asked["gpus-per-node"], asked["ntasks-per-node"], asked["signal"]) == ("4", "8", "1", "TERM@180") and "requeue" in asked
    fakes = "scontrol() { printf 'gpu07\\ngpu08\\n'; }; exec() { shift; printf '%s\\n' \"${@:2}\"; }\n"
    words = subprocess.run(
        ["bash", "-c", fakes + script], capture_output=True, text=True, check=True, env={"SLURM_JOB_NODELIST": "gpu[07-08]", "PATH": "/bin:/usr/bin"}
    )
    found = told(shlex.join(words.stdout.splitlines()))
    assert (found.nnodes, found.rdzv_endpoint, found.training_script_args[3]) == ("4", "gpu07:29400", "my questions.jsonl")


def test_kubernetes_gets_a_service_and_one_pod_a_node(command):
    service, job = json.loads(command("launch", "--on", "kubernetes", "--nodes", 2, "--gpus", 8, "--image", "here/it:1", "--", *TRAINING)[1])["items"]
    pod = job["spec"]["template"]["spec"]
    found = told(shlex.join(pod["containers"][0]["command"]))
    assert (job["spec"]["completions"], job["spec"]["parallelism"], job["spec"]["completionMode"]) == (2, 2, "Indexed")
    assert found.rdzv_endpoint == f"{job['metadata']['name']}-0.{pod['subdomain']}:29400" and service["metadata"]["name"] == pod["subdomain"]
    assert service["spec"]["selector"] == job["spec"]["template"]["metadata"]["labels"]
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 8} and pod["terminationGracePeriodSeconds"] > found.shutdown_timeout


def test_kubernetes_expands_none_of_the_words(command):
    """It makes "$" of "$$", and "$(NAME)" of the environment's."""
    _, job = json.loads(command("launch", "--on", "kubernetes", "--image", "here/it:1", "--", *TRAINING, "--set", "note=$(HOME)$$")[1])["items"]
    assert job["spec"]["template"]["spec"]["containers"][0]["command"].count("note=$$(HOME)$$$$") == 1


def test_only_trainings_are_launched_and_a_missing_starter_is_named(refused, command, monkeypatch):
    refused(["launch", "--gpus", 2, "--", "eval", "--model", "nano"], "behind", "eval")
    refused(["launch", "--gpus", 2], "behind")
    monkeypatch.setenv("PATH", "")
    code, out, err = command("launch", "--on", "slurm", "--run", "--", *TRAINING)
    assert code == 2 and out.startswith("#!/bin/bash") and '"sbatch" is not here' in err


def test_the_same_job_given_again_goes_on():
    assert cluster.job([*TRAINING, "--resume"], 1, 2, 3, "").words == cluster.job(TRAINING, 1, 2, 3, "").words == (*TRAINING, "--resume")


def test_rollout_prints_what_starts_each_server(command, refused):
    """For the recipe as the training would have it: its model, its type, room for four pictures of 512 tokens, 1,024 of text and the answer."""
    rollout = json.dumps({"engine": "vllm", "servers": ["http://gpu01:8001", "http://127.0.0.1:8002/v1"], "weights": "nccl"})
    words = ["launch", "--rollout", "--gpus", 2, "--", *TRAINING, "--set", f"rollout={rollout}"]
    code, out, _ = command(*words)
    first, one, second, other = out.splitlines()
    assert code == 0 and first.startswith("# on gpu01:") and second.startswith("# on 127.0.0.1:")
    environment, said = shlex.split(one)[:2], shlex.split(one)[2:]
    assert environment[0] == "VLLM_SERVER_DEV_MODE=1" and environment[1].startswith("PYTHONPATH=")
    assert said[:7] == ["vllm", "serve", "Qwen/Qwen2-VL-2B-Instruct", "--host", "0.0.0.0", "--port", "8001"]
    options = dict(zip(said[7::2], said[8::2], strict=False)) | dict(zip(said[8::2], said[9::2], strict=False))
    assert (options["--dtype"], options["--max-model-len"], options["--tensor-parallel-size"]) == ("bfloat16", "4096", "2")
    assert options["--logprobs-mode"] == "processed_logprobs" and json.loads(options["--weight-transfer-config"]) == {"backend": "nccl"}
    assert options["--worker-extension-cls"] == "medvlm_r1.rollout.vllm.worker.Extension" and "--enable-scale-out" in said
    assert shlex.split(other)[5:9] == ["--host", "127.0.0.1", "--port", "8002"]
    assert "VLLM_ALLOW_INSECURE_SERIALIZATION" not in out
    refused(["launch", "--rollout", "--", "sft", "paper"], "rollouts belong to a training", "sft paper")
    refused(["launch", "--rollout", "--", *TRAINING, "--set", "rollout.engine=vllm"], "rollout.servers")


def test_the_servers_extension_loads_and_then_lays_a_tied_head_out_anew():
    """A worker that notes what is done to it, in the place of vLLM's."""

    class ParallelLMHead:
        def __init__(self):
            self.quant_method = self

        def process_weights_after_loading(self, module):
            done.append(module)

    class Model:
        def modules(self):
            return [object(), head]

    class Worker(Extension):
        def __init__(self):
            self.model_runner = self

        def reload_weights(self, weights_path):
            done.append(weights_path)

        def get_model(self):
            return Model()

    done, head = [], ParallelLMHead()
    Worker().reload_from("/weights/7")
    assert done == ["/weights/7", head]
