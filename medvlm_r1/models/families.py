"""Which models can be trained, and how each is loaded: one frozen entry a family."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils import logging

from medvlm_r1.console import notice
from medvlm_r1.errors import ModelError
from medvlm_r1.models import chat, decoder, fast_vlm, folder, gemma, llava, nano, processors, qwen, runs, tiles
from medvlm_r1.models.encode import Encoder
from medvlm_r1.models.family import Family
from medvlm_r1.models.general import GeneralPolicy
from medvlm_r1.models.general_encoder import GeneralEncoder
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
    "llava": llava.LLAVA,
    "gemma3": gemma.GEMMA3,
    "fast_vlm": fast_vlm.FAST_VLM,
}
UNKNOWN_BUDGET = 896 * 896  # pixels of a picture, where a processor does not say: MedGemma's
OTHER_LAYOUTS = {
    "internvl_chat": "give its repository that ends in -hf, such as OpenGVLab/InternVL3-1B-hf",
    **dict.fromkeys(("llava_qwen2", "llava_mistral", "llava_llama"), "convert it to transformers' own LLaVA, as the repositories that end in -hf are"),
}


def locate(model: str, download: bool = True) -> Path:
    """The directory of ``nano``, of a local model, of a run's checkpoint (``models.runs``), or of a hub id (downloaded if need be and allowed)."""
    if model == "nano":
        if not (nano.BASE_DIR / "model.safetensors").exists():
            raise ModelError("the embedded base has no weights here; rebuild them with: medvlm-r1 nano")
        return nano.BASE_DIR
    if Path(model).is_dir():
        return Path(model)
    if checkpoint := runs.named(model):
        return checkpoint
    if not is_hub_id(model):
        raise ModelError(folder.missing(model))
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    small = ["*.json", "*.txt", "*.jinja"]
    try:
        family_of(Path(snapshot_download(model, allow_patterns=small, local_files_only=not download)))  # refused before gigabytes are fetched
        return Path(snapshot_download(model, allow_patterns=[*small, "*.safetensors"], local_files_only=not download))
    except ModelError:
        raise
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        if not download:
            raise ModelError(f'"{model}" is not on this machine; give a local directory, or download it first') from error
        raise ModelError(f'no folder "{model}" is here, and it cannot be downloaded from the hub ({type(error).__name__}); give a local directory') from error


def is_hub_id(model: str) -> bool:
    """Is this OWNER/NAME, and nothing that lies here?

    >>> is_hub_id("Qwen/Qwen2-VL-2B-Instruct"), is_hub_id("./mine"), is_hub_id("~/mine"), is_hub_id("my models/new"), is_hub_id("nano")
    (True, False, False, False, False)
    """
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", model, re.ASCII) is not None and not Path(model).exists()


def own_dtype(config: Mapping[str, Any], device: str) -> str:
    """In which numbers a checkpoint is asked where nobody says: its own on a GPU, float32 on a CPU.

    A processor computes float32 about as fast as shorter numbers, and exactly. Half precision (float16) is widened on
    a GPU too: activations of these models exceed its range, and bfloat16 would round the weights away.

    | config.json says | cuda | cpu |
    |---|---|---|
    | bfloat16 | bfloat16 | float32 |
    | float16, float32, nothing | float32 | float32 |

    >>> own_dtype({"dtype": "bfloat16"}, "cuda"), own_dtype({"torch_dtype": "bfloat16"}, "cuda"), own_dtype({"dtype": "bfloat16"}, "cpu")
    ('bfloat16', 'bfloat16', 'float32')
    >>> own_dtype({"text_config": {"dtype": "bfloat16"}}, "cuda"), own_dtype({"dtype": "float16"}, "cuda"), own_dtype({}, "cuda")
    ('bfloat16', 'float32', 'float32')
    """
    parts = [config, *(part for part in (config.get("text_config"),) if isinstance(part, Mapping))]
    named = next((part[key] for part in parts for key in ("dtype", "torch_dtype") if part.get(key)), "float32")
    return "bfloat16" if device != "cpu" and str(named).removeprefix("torch.") == "bfloat16" else "float32"


def load_policy(model: str, load_image: LoadImage, dtype: str | None = "float32", max_pixels: int | None = None, shared_prefix: bool = True) -> Policy:
    """A policy ready to train or ask, from a directory, a hub id or ``nano``.

    ``load_image`` opens the image references of the questions; ``dtype`` None is ``own_dtype``;
    ``max_pixels`` lowers the image budget (the paper: 401408 = 512 visual tokens); without ``shared_prefix`` the model's own code runs.
    Raises ModelError naming the file that is missing, the kind that is unknown, or what lies in the place of a model.
    """
    directory = locate(model)
    family, dtype = family_of(directory) if shared_prefix else None, dtype or own_dtype(folder.config_of(directory), _device())
    folder.check_files(directory)
    if family is None:
        return _general(directory, load_image, dtype, max_pixels)
    tokenizer, processor = _tokenizer(directory), _processor(family, directory)
    if max_pixels is not None:
        family.shrink(processor, max_pixels)
    loaded = _weights(family.model_class, directory, dtype)
    _check_tokenizer(directory, tokenizer, family, loaded.config)
    _settle(directory, tokenizer, loaded)
    told = (family.tile_tokens(loaded.config), family.processor(loaded.config))
    return prepare(loaded, Encoder(tokenizer, processor, load_image, _context(loaded), family, *told))


def _general(directory: Path, load_image: LoadImage, dtype: str, max_pixels: int | None) -> GeneralPolicy:
    """A policy over the model's own forward, and a word about what that costs."""
    _check_size(directory, skeleton(directory))
    tokenizer = _tokenizer(directory)
    processor = _read("processor", partial(processors.load, tokenizer=tokenizer), directory)
    loaded = _weights(AutoModelForImageTextToText, directory, dtype)
    _settle(directory, tokenizer, loaded)
    kind = loaded.config.model_type
    notice(
        f'"{kind}" has no family of its own here: it runs by transformers\' own code, each completion with its prompt and pictures anew '
        "(docs/models.md says what that costs)"
    )
    if max_pixels is not None:  # its checkpoints remember it, as an image processor that was shrunk does
        loaded.config.reasoning_max_pixels = max_pixels
    seen = {"processor": processor, "source": directory, "max_pixels": getattr(loaded.config, "reasoning_max_pixels", 0)}
    return GeneralPolicy(loaded.eval(), GeneralEncoder(tokenizer, processor.image_processor, load_image, _context(loaded), **seen))


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _context(model: Any) -> int:
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", 2**20))


def _tokenizer(directory: Path) -> Any:
    if not any((directory / name).exists() for name in ("tokenizer.json", "vocab.json")):
        raise ModelError(f"{directory} has no tokenizer.json: a model needs a tokenizer; copy it from the model that it was trained from")
    tokenizer = _read("tokenizer", AutoTokenizer.from_pretrained, directory, trust_remote_code=False)
    chat.use_template(directory, tokenizer)
    return tokenizer


def _settle(directory: Path, tokenizer: Any, model: Any) -> None:
    """Its ends said, on its device, and every weight of it a number."""
    if settled := chat.use_ends(directory, tokenizer, model):
        notice(settled)
    if damaged := not_finite(model.to(_device()).named_parameters()):
        raise ModelError(f'{directory}: the weight "{damaged}" holds numbers that are not finite; take another checkpoint, or copy the weights again')


def not_finite(tensors: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """The name of the first tensor that holds NaN or an infinity.

    >>> not_finite([("a", torch.ones(3)), ("b", torch.tensor([1.0, torch.inf, -torch.inf]))])
    'b'
    >>> not_finite([("a", torch.full((4,), 3e38))])  # their sum overflows, and none of them is infinite
    """
    named = [(name, tensor) for name, tensor in tensors if tensor.numel()]
    sums = torch.stack([tensor.detach().sum(dtype=torch.float32) for _, tensor in named])  # one pass, nothing written, one wait
    suspects = (named[row] for row in (~sums.isfinite()).nonzero()[:, 0].tolist())
    return next((name for name, tensor in suspects if not tensor.isfinite().all()), None)


def skeleton(directory: Path) -> Any:
    """The model that a directory's config.json describes, without weights: every tensor is on the meta device."""
    family = family_of(directory)
    with torch.device("meta"):
        if family is None:
            return _read("configuration", lambda path: AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(path)), directory)
        return _read("configuration", lambda path: family.model_class(family.model_class.config_class.from_pretrained(path)), directory)


def image_budget(directory: Path, max_pixels: int | None = None) -> int:
    """The most pixels of an image that a directory's processor lets through where it is told to let no more through than ``max_pixels``."""
    family = family_of(directory)
    if family is None:
        return max_pixels or UNKNOWN_BUDGET
    processor = _processor(family, directory)
    if max_pixels is not None:
        family.shrink(processor, max_pixels)
    return family.most_pixels(processor)


def _processor(family: Family, directory: Path) -> Any:
    settings = folder.image_processor(directory)
    return _read("image processor", lambda _: family.image_processor_class.from_dict(settings), directory)


def _check_size(directory: Path, described: Any) -> None:
    """Raises ModelError where a configuration speaks of more than the files can hold: of another kind's own sizes much would be built first."""
    count, size = sum(p.numel() for p in described.parameters()), sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    if count > size:
        raise ModelError(f"{directory}: config.json says {count:,} parameters and its weights are {size:,} bytes; copy both again from one source")


def _weights(model_class: Any, directory: Path, dtype: str) -> Any:
    """The model, every weight of it from the files: transformers draws at random what it does not find."""
    options = {"dtype": getattr(torch, dtype), "ignore_mismatched_sizes": True, "output_loading_info": True, "use_safetensors": True}
    loaded, info = _read("weights", model_class.from_pretrained, directory, **options)
    wrong = sorted(info["missing_keys"]) + sorted(key for key, *_ in info["mismatched_keys"])
    if wrong:
        what = f'{len(wrong)} weights are missing or of another shape than config.json says, the first is "{wrong[0]}"'
        raise ModelError(f"{directory}: {what}; copy config.json and weights again from one source")
    return loaded


def _read(what: str, load: Callable[..., Any], directory: Path, **options: Any) -> Any:
    """What transformers makes of a file; it raises errors of all kinds for a damaged one."""
    try:
        return load(directory, **options)
    except ModelError:
        raise
    except ImportError as error:
        missing = re.search(r"pip install ([\w-]+)", str(error)) or re.search(r"requires the (\w+) library", str(error))
        remedy = f"; install it with: pip install {missing[1].lower()}" if missing else ""
        raise ModelError(f"the {what} in {directory} needs a library that is missing ({' '.join(str(error).split())[:80]}){remedy}") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
        raise ModelError(f"cannot load the {what} in {directory} ({reason}); copy the files again from the model's source") from error


def _check_tokenizer(directory: Path, tokenizer: Any, family: Family, config: Any) -> None:
    """Do tokenizer and weights belong together, and can a question about a picture be written?"""
    image_id = tokenizer.convert_tokens_to_ids(family.image_token)
    if image_id != config.image_token_id or len(tokenizer) > config.text_config.vocab_size:
        raise ModelError(
            f'{directory}: the tokenizer has {len(tokenizer)} tokens and "{family.image_token}" is {image_id}, config.json says '
            f"{config.text_config.vocab_size} and {config.image_token_id}; copy both from one source"
        )
    chat.check_template(directory, tokenizer, family.written)


def prepare(model: Any, encoder: Encoder) -> Policy:
    """A policy around a loaded model, which computes the same faster and without dropout.

    Raises ModelError where models.decoder would compute something else than the model's own layers.
    """
    if (strange := decoder.strange(encoder.family.decoder(model))) is not None:
        kind = model.config.text_config.model_type
        raise ModelError(f'the text model "{kind}" has decoder layers that are not supported yet ({strange}); choose another model')
    encoder.family.adapt(model)
    return Policy(model.eval(), encoder)


def family_of(directory: Path) -> Family | None:
    """The family that a model's config.json names; None for another that transformers knows as a vision-language model.

    Raises ModelError for what it does not know, and as ``folder.config_of`` does.
    """
    kind = str(folder.config_of(directory).get("model_type", ""))
    if kind not in FAMILIES and kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        instead = OTHER_LAYOUTS.get(
            kind, f"give one of {', '.join(FAMILIES)}, or another vision-language model that transformers {transformers.__version__} knows"
        )
        raise ModelError(f'{directory} holds a "{kind}" model, which is not supported yet; {instead}, or {folder.SERVED}')
    return FAMILIES.get(kind)
