"""A model by its name, ready to be asked or trained."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers.utils import logging

from medvlm_r1.console import notice
from medvlm_r1.data.images import load_image
from medvlm_r1.errors import EngineError
from medvlm_r1.models.families import is_hub_id, load_policy, locate
from medvlm_r1.models.policy import Policy
from medvlm_r1.preflight.forecast import gib

SLOW_BYTES = 2**28  # a model of this size takes long enough to load that one wants to know


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turns a full GPU into an EngineError with the remedy."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise EngineError(
            f"the GPU's memory is full; lower max_pixels, prompts_per_step, sampling.n or (update.)tokens_per_micro_batch ({str(error).splitlines()[0]})"
        ) from error


def load_model(name: str, dtype: str | None = "float32", max_pixels: int | None = None) -> Policy:
    """A policy from a directory, a hub id or ``nano``, with every kind of image we can open; ``dtype`` None is the model's own (``own_dtype``)."""
    logging.disable_progress_bar()  # it would write into ours
    logging.set_verbosity_error()  # what it reports of wrong weights is an error of ours, with a remedy
    if is_hub_id(name):
        notice(f"fetching {name} from the hub, as far as it is not here yet")
    directory = locate(name)
    size = sum(file.stat().st_size for file in directory.glob("model*.safetensors"))
    if size >= SLOW_BYTES:
        notice(f"loading {name}, {gib(size)}")
    return load_policy(str(directory), load_image, dtype, max_pixels)
