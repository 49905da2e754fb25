"""The engine process: loads a model and answers over the socket it was given. ``launch.serving`` starts it.

python -m medvlm_r1.launch.engine_main FD '{"model": "nano", …}'
"""

import json
import os
import signal
import socket
import sys

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
    try:
        with memory_errors():
            policy = load_model(settings["model"], settings["dtype"], settings["max_pixels"])
            identity = f"{model_sha256(locate(settings['model']))} {str(policy.model.dtype).removeprefix('torch.')}"
            about = {"model": called(settings["model"]), "identity": identity, "template": settings["template"] or policy.template}
            EngineProcess(policy, channel, settings["slots"], settings["keep_bytes"]).run(about)
    except MedVLMError as error:
        sys.stderr.write(f"medvlm-r1: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
