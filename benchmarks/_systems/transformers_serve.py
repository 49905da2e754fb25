"""transformers' own server, where it starts: for Qwen2-VL it wants torchvision, with what decodes pictures compiled."""

import os
import shlex
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Self


class TransformersServe:
    """Ready when entered, stopped when left. ``command``: how ``transformers`` is called here; ``log``: where its words go."""

    def __init__(self, command: str, model: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        words = [*shlex.split(command), "serve", str(model), "--host", "127.0.0.1", "--port", str(self.port), "--device", "cpu", "--dtype", "float32"]
        with log.open("w") as file:
            self.process = subprocess.Popen(words, stdout=file, stderr=file, env=os.environ | {"HF_HUB_OFFLINE": "1"})

    def __enter__(self) -> Self:
        until = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).close()
                return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(60)
