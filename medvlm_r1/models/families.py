"""Which models can be trained, and how each is loaded: one frozen entry a family."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoTokenizer
from transformers.utils import logging

from medvlm_r1.errors import ModelError, nearest
from medvlm_r1.models import decoder, nano, qwen, tiles
from medvlm_r1.models.encode import Encoder
from medvlm_r1.models.family import Family
from medvlm_r1.models.policy import Policy

logging.disable_progress_bar()  # ours show what a person waits for
LoadImage = Callable[[str], Image.Image]


FAMILIES = {
    "qwen2_vl": qwen.QWEN2_VL,
    "qwen2_5_vl": qwen.QWEN2_5_VL,
    "qwen3_vl": qwen.QWEN3_VL,
    "smolvlm": tiles.SMOLVLM,
    "idefics3": tiles.IDEFICS3,
    "internvl": tiles.INTERNVL,
}


def locate(model: str, download: bool = True) -> Path:
    """The directory of ``nano``, of a local model, or of a hub id (downloaded if need be and allowed)."""
    if model == "nano":
        if not (nano.BASE_DIR / "model.safetensors").exists():
            raise ModelError("the embedded base has no weights here; rebuild them with: medvlm-r1 nano")
        return nano.BASE_DIR
    if Path(model).is_dir():
        return Path(model)
    if not is_hub_id(model):
        raise ModelError(f'no model directory "{model}"; give a directory, a hub id such as Qwen/Qwen2-VL-2B-Instruct, or nano')
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(model, allow_patterns=wanted, local_files_only=not download))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        if not download:
            raise ModelError(f'"{model}" is not on this machine; give a local directory, or download it first') from error
        raise ModelError(f'cannot download "{model}" from the hub ({type(error).__name__}); give a local directory') from error


def is_hub_id(model: str) -> bool:
    """Is this OWNER/NAME, and nothing that lies here?

    >>> is_hub_id("Qwen/Qwen2-VL-2B-Instruct"), is_hub_id("./mine"), is_hub_id("nano")
    (True, False, False)
    """
    return not Path(model).exists() and model.count("/") == 1 and not model.startswith((".", "/"))


def load_policy(model: str, load_image: LoadImage, dtype: str = "float32", max_pixels: int | None = None) -> Policy:
    """A policy ready to train or ask, from a directory, a hub id or ``nano``.

    ``load_image`` opens the image references of the questions;
    ``max_pixels`` lowers the image budget (the paper: 401408 = 512 visual tokens).
    Raises ModelError naming the file that is missing or the kind that is unknown.
    """
    directory = locate(model)
    family = _family(directory)
    for needed, what in (("tokenizer.json", "a tokenizer"), ("preprocessor_config.json", "a processor")):
        if not (directory / needed).exists() and not (needed == "tokenizer.json" and (directory / "vocab.json").exists()):
            raise ModelError(f"{directory} has no {needed}: a model needs {what}; copy it from the model that it was trained from")
    tokenizer = _read("tokenizer", AutoTokenizer.from_pretrained, directory)
    processor = _read("image processor", family.image_processor_class.from_pretrained, directory)
    if max_pixels is not None:
        family.shrink(processor, max_pixels)
    loaded = _weights(family, directory, dtype)
    _check_tokenizer(directory, tokenizer, family, loaded.config)
    encoder = Encoder(tokenizer, processor, load_image, family=family, tile_tokens=family.tile_tokens(loaded.config))
    return prepare(loaded.to("cuda" if torch.cuda.is_available() else "cpu"), encoder)


def skeleton(directory: Path) -> Any:
    """The model that a directory's config.json describes, without weights: every tensor is on the meta device."""
    family = _family(directory)
    with torch.device("meta"):
        return _read("configuration", lambda folder: family.model_class(family.model_class.config_class.from_pretrained(folder)), directory)


def image_budget(directory: Path) -> int:
    """The most pixels of an image that a directory's processor lets through."""
    family = _family(directory)
    return family.most_pixels(_read("image processor", family.image_processor_class.from_pretrained, directory))


def _weights(family: Family, directory: Path, dtype: str) -> Any:
    """The model, every weight of it from the files: transformers draws at random what it does not find."""
    options = {"dtype": getattr(torch, dtype), "ignore_mismatched_sizes": True, "output_loading_info": True}
    loaded, info = _read("weights", family.model_class.from_pretrained, directory, **options)
    wrong = sorted(info["missing_keys"]) + sorted(key for key, *_ in info["mismatched_keys"])
    if wrong:
        what = f'{len(wrong)} weights are missing or of another shape than config.json says, the first is "{wrong[0]}"'
        raise ModelError(f"{directory}: {what}; copy config.json and weights again from one source")
    return loaded


def _read(what: str, load: Callable, directory: Path, **options: Any) -> Any:
    """What transformers makes of a file; it raises errors of all kinds for a damaged one."""
    try:
        return load(directory, **options)
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
        raise ModelError(f"cannot load the {what} in {directory} ({reason}); copy the files again from the model's source") from error


def _check_tokenizer(directory: Path, tokenizer: Any, family: Family, config: Any) -> None:
    """Do tokenizer and weights belong together, and can a conversation be written?"""
    if not tokenizer.chat_template:
        raise ModelError(f"{directory} has no chat template; copy tokenizer_config.json or chat_template.jinja from the model's source")
    image_id = tokenizer.convert_tokens_to_ids(family.image_token)
    if image_id != config.image_token_id or len(tokenizer) > config.text_config.vocab_size:
        raise ModelError(
            f'{directory}: the tokenizer has {len(tokenizer)} tokens and "{family.image_token}" is {image_id}, config.json says '
            f"{config.text_config.vocab_size} and {config.image_token_id}; copy both from one source"
        )


def prepare(model: Any, encoder: Encoder) -> Policy:
    """A policy around a loaded model, which computes the same faster and without dropout.

    Raises ModelError where models.decoder would compute something else than the model's own layers.
    """
    if (strange := decoder.strange(encoder.family.decoder(model))) is not None:
        kind = model.config.text_config.model_type
        raise ModelError(f'the text model "{kind}" has decoder layers that are not supported yet ({strange}); choose another model')
    encoder.family.adapt(model)
    return Policy(model.eval(), encoder)


def _family(directory: Path) -> Family:
    file = directory / "config.json"
    if not file.exists():
        raise ModelError(f"{directory} has no config.json, so it is no model directory; give one in the Hugging Face layout")
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise ModelError(f"{file} is no JSON ({error}); copy it again from the model's source") from error
    kind = content.get("model_type", "") if isinstance(content, dict) else ""
    if kind not in FAMILIES:
        raise ModelError(f'{directory} holds a "{kind}" model, which is not supported yet{nearest(kind, FAMILIES)}')
    return FAMILIES[kind]
