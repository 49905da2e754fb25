"""The engine process: loads a model and answers over the socket it was given. ``launch.serving`` starts it.

python -m medvlm_r1.launch.engine_main FD '{"model": "nano", …}'
"""

import gc
import json
import os
import signal
import socket
import sys

import torch

from medvlm_r1.errors import MedVLMError
from medvlm_r1.launch.answering import model_sha256
from medvlm_r1.launch.loading import load_model, memory_errors
from medvlm_r1.models.families import locate
from medvlm_r1.serving.engine_process import EngineProcess
from medvlm_r1.wording import called

NICE = 6  # the front answers first, then files are opened


def main(words: list[str]) -> int:
    """Answer until the socket closes. Exit code 2, and a sentence on stderr, where the model cannot be loaded."""
    channel, settings = socket.socket(fileno=int(words[0])), json.loads(words[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the front's business: it hangs up when all is answered
    os.nice(NICE)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(1, min(torch.get_num_threads(), cores - 1)))  # a core is left to the front and to files
    try:
        with memory_errors():
            policy = load_model(settings["model"], settings["dtype"], settings["max_pixels"])
            identity = f"{model_sha256(locate(settings['model']))} {str(policy.model.dtype).removeprefix('torch.')}"
            about = {"model": called(settings["model"]), "identity": identity, "template": settings["template"] or policy.template}
            gc.collect()
            gc.freeze()  # what was loaded is not looked through again and again for garbage
            EngineProcess(policy, channel, settings["slots"], settings["keep_bytes"]).run(about)
    except MedVLMError as error:
        sys.stderr.write(f"medvlm-r1: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
