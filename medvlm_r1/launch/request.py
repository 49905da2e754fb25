"""What an evaluation is asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from medvlm_r1.evaluation.asking.meanings import DEFAULT_ARMS


@dataclass(frozen=True)
class Request:
    """One model, one question set, several arms, one folder.

    ``model``: a directory, a hub id, ``nano`` or an endpoint's address. ``arms``: names with commas, or "all".
    ``train``: what the text prior learns from; without it, the other questions of ``data``. ``in_domain``: the modality
    that the model was trained on. ``samples``: answers at temperature 1 beside the greedy one. ``probs``: read the
    options' probabilities too. ``template``: None for the one that the model was trained with. ``dtype``: None for
    the model's own on a GPU and float32 on a CPU. ``cache``: where completions are kept, ``out``/completions.jsonl if
    None. ``timeout``: seconds to wait for an endpoint. ``judge``: an endpoint's address, #MODEL behind it, that judges
    the answers to questions without options.

    >>> Request("nano", "phantom:mri?split=test", Path("runs/base")).arms
    'image,blank,mismatch'
    """

    model: str
    data: str
    out: Path
    arms: str = DEFAULT_ARMS
    train: str | None = None
    in_domain: str | None = None
    samples: int = 0
    probs: bool = False
    template: str | None = None
    max_tokens: int = 512
    max_pixels: int | None = None
    dtype: str | None = None
    cache: Path | None = None
    timeout: float = 300.0
    judge: str | None = None


class Settings(TypedDict, total=False):
    """What may be set beside model, data, place, arms and samples, where Python asks; each is a field of Request.

    >>> set(Settings.__annotations__) < set(Request.__dataclass_fields__)
    True
    """

    train: str | None
    in_domain: str | None
    probs: bool
    template: str | None
    max_tokens: int
    timeout: float
    judge: str | None
