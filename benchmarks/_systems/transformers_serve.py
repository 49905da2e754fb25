"""transformers' own server, where it starts: for Qwen2-VL it wants torchvision, with what decodes pictures compiled."""

import shlex
from pathlib import Path

from served import Served


class TransformersServe(Served):
    """Ready when entered, stopped when left. ``command``: how ``transformers`` is called here; ``log``: where its words go."""

    def __init__(self, command: str, model: Path, log: Path) -> None:
        words = [*shlex.split(command), "serve", str(model), "--host", "127.0.0.1", "--device", "cpu", "--dtype", "float32"]
        super().__init__(words, log, {"HF_HUB_OFFLINE": "1"})
