"""What lies in a folder that somebody calls a model: its configuration and its weights, or one sentence that says what to give instead.

Nothing is loaded here. transformers and peft write many folders beside a model's own: adapters, runs, checkpoints
within runs, quantised copies, weights as pickles. Each is told apart by its files before transformers looks at it.
"""

import json
import re
import struct
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from medvlm_r1.errors import ModelError

SERVED = "serve it (vLLM, llama.cpp) and evaluate its address, --model http://127.0.0.1:8000/v1"
QUANTISING_KEYS = ("quantization_config", "quantization", "compression_config")  # transformers; MLX; early compressed-tensors
QUANTISING_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")  # AutoGPTQ; AutoAWQ; ModelOpt
NUMBERS = {"F64", "F32", "F16", "BF16", "I64", "BOOL"}  # of tensors that are what they say; I64 and BOOL are tables of positions
GGUF = f"holds a GGUF file, which is made for llama.cpp and mostly quantised; give the model that it was made from, or {SERVED}"
INSTEAD = {  # what lies there where safetensors should, and what becomes of it
    ("zero_to_fp32.py",): "holds the pieces of a DeepSpeed run; join them first: python zero_to_fp32.py FOLDER NEW --safe_serialization",
    ("*.gguf",): GGUF,
    ("pytorch_model*.bin", "model*.pt", "model*.pth", "consolidated*.pth"): (
        "holds its weights as a pickle, which can run code when it is read; convert it where you trust it: "
        "AutoModelForImageTextToText.from_pretrained(FOLDER).save_pretrained(NEW) of transformers writes safetensors"
    ),
}
HUB_LIKE = "give a directory, a hub id such as Qwen/Qwen2-VL-2B-Instruct, or nano"


def missing(model: str) -> str:
    """Why a name that is no folder is no model, and what may be meant."""
    path = Path(model)
    if path.is_file():
        return f'"{model}" {GGUF}' if path.suffix == ".gguf" else f'"{model}" is a file; give the folder that it lies in, "{path.parent}"'
    return f'no model directory "{model}"; {_spelled_like(path) or HUB_LIKE}'


def config_of(directory: Path) -> dict[str, Any]:
    """A model's config.json. Raises ModelError where the folder holds something else, or a model that is quantised."""
    if (directory / "adapter_config.json").exists():
        raise ModelError(_adapter(directory))
    file = directory / "config.json"
    content = read_json(file) if file.exists() else {}
    if "fingerprint" in content and "config" in content:
        raise ModelError(f"{directory} is a run, and no model; {_meant(directory) or 'it has saved none yet'}")
    if not file.exists():
        what = "has no config.json, so it is no model directory" if any(directory.iterdir()) else "is empty"
        raise ModelError(f"{directory} {what}; {_meant(directory) or 'give one in the Hugging Face layout'}")
    if (how := quantised(content)) or any((directory / (how := name)).exists() for name in QUANTISING_FILES):
        why = "training and log-probabilities need the numbers as they were trained"
        raise ModelError(f"{directory} is quantised ({how}), and {why}; give the model that it was made from, or {SERVED}")
    return content


def quantised(config: Mapping[str, Any]) -> str:
    """The method by which a model was quantised, "" where it was not.

    >>> quantised({"quantization_config": {"quant_method": "awq", "bits": 4}}), quantised({"text_config": {"quantization_config": {"load_in_4bit": True}}})
    ('awq', 'quantization_config')
    >>> quantised({"quantization": {"bits": 4}}), quantised({"quantization_config": None})
    ('quantization', '')
    """
    parts = [config, *(part for part in config.values() if isinstance(part, Mapping))]
    found = ((key, part[key]) for part in parts for key in QUANTISING_KEYS if part.get(key))
    key, settings = next(found, ("", {}))
    return (settings.get("quant_method") if isinstance(settings, Mapping) else None) or key


def check_files(directory: Path) -> None:
    """Are there weights as safetensors, whole as far as their headers tell? Raises ModelError with what lies there instead."""
    index, single = directory / "model.safetensors.index.json", directory / "model.safetensors"
    files = [single] if single.exists() else [directory / name for name in sorted(set(_shards(index)))] if index.exists() else []
    if not files:
        why = next((why for patterns, why in INSTEAD.items() if any(any(directory.glob(pattern)) for pattern in patterns)), "")
        raise ModelError(f"{directory} {why or 'has no weights, neither model.safetensors nor its index; copy them from the source of the model'}")
    for file in files:
        if not file.exists():
            raise ModelError(f"{directory} lacks {file.name}, which {index.name} names; copy it from the model's source")
        if strange := sorted(kinds(file) - NUMBERS):
            raise ModelError(f"{file} holds numbers of the kind {strange[0]}, so it is quantised; give the model that it was made from, or {SERVED}")


def kinds(file: Path) -> set[str]:
    """The kinds of number in a safetensors file, by its header: 8 bytes that say how long it is, then JSON.

    Raises ModelError where the file is cut off, damaged, or the pointer that Git LFS leaves in its place.
    """
    with file.open("rb") as content:
        start = content.read(8)
        if start == b"version ":
            raise ModelError(f'"{file}" is a pointer of Git LFS in the place of the file; fetch it with: git lfs pull')
        try:
            (length,) = struct.unpack("<Q", start)
            header = json.loads(content.read(min(length, file.stat().st_size)))
            tensors = [row for name, row in header.items() if name != "__metadata__"]
            is_whole = 8 + length + max((row["data_offsets"][1] for row in tensors), default=0) <= file.stat().st_size
            found = {row["dtype"] for row in tensors}
        except (struct.error, ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
            raise ModelError(f'"{file}" is no safetensors file ({error}); copy it again from the model\'s source') from error
    if not is_whole:
        raise ModelError(f'"{file}" is cut off; copy it again from the model\'s source')
    return found


def image_processor(directory: Path) -> dict[str, Any]:
    """The image processor's settings, in whichever of its files transformers has written them.

    Newer releases write one processor_config.json that holds them, older ones a preprocessor_config.json, in which
    the size was for a while called by its bounds. Raises ModelError where there is neither.
    """
    both, alone = directory / "processor_config.json", directory / "preprocessor_config.json"
    settings = read_json(both).get("image_processor") if both.exists() else None
    if settings is None and alone.exists():
        settings = read_json(alone)
    if not isinstance(settings, dict):
        raise ModelError(f"{directory} has no {alone.name}: a model needs a processor; copy it from the model that it was trained from")
    size = settings.get("size")
    if isinstance(size, dict) and "max_pixels" in size:
        bounds = {"shortest_edge": size.get("min_pixels"), "longest_edge": size["max_pixels"]}
        settings = settings | {"size": {name: value for name, value in bounds.items() if value}}
    return settings


def models_below(directory: Path) -> list[Path]:
    """The models in a folder of runs, a run, or a folder of checkpoints; the one with the most steps last."""
    files = (file for pattern in ("*", "checkpoints/*", "*/checkpoints/*") for file in directory.glob(f"{pattern}/config.json"))
    return sorted({file.parent for file in files if _is_model(file.parent)}, key=lambda folder: (steps_of(folder.name), str(folder)))


def steps_of(name: str) -> int:
    """The number at the end of a checkpoint's name.

    >>> steps_of("step-300"), steps_of("checkpoint-20"), steps_of("final"), steps_of("step-300.partial")
    (300, 20, -1, -1)
    """
    number = re.search(r"-(\d+)$", name)
    return int(number[1]) if number else -1


def _meant(directory: Path) -> str:
    """The model within a folder, or around it, that may be meant; "" where there is none."""
    if inside := models_below(directory):
        return f'did you mean "{inside[-1]}"{f", the last of {len(inside)} models there" if len(inside) > 1 else ""}?'
    return f'did you mean "{directory.parent}"?' if _is_model(directory.parent) else ""


def _spelled_like(path: Path) -> str:
    """The model beside a name that is mistyped, or lacks a part."""
    beside = {str(folder.relative_to(path.parent)): folder for folder in models_below(path.parent)}
    close = [name for name in beside if Path(name).name == path.name] or get_close_matches(path.name, beside, n=1)
    return f'did you mean "{beside[close[0]]}"?' if close else ""


def _is_model(directory: Path) -> bool:
    file = directory / "config.json"
    return not directory.name.endswith(".partial") and file.is_file() and b'"model_type"' in file.read_bytes()


def _adapter(directory: Path) -> str:
    base = read_json(directory / "adapter_config.json").get("base_model_name_or_path") or "a model that it does not name"
    if any(directory.glob("model*.safetensors")):
        return f'{directory} holds weights and an adapter of "{base}", merged or not; merge them and save the model anew, or move adapter_config.json away'
    merged = f'did you mean "{directory.parent}", where it is merged?' if _is_model(directory.parent) else ""
    return f'{directory} is an adapter of "{base}", and no model; {merged or "merge it with merge_and_unload() of peft, save the model with tokenizer and processor, and give that"}'


def _shards(index: Path) -> list[str]:
    names = read_json(index).get("weight_map")
    return [str(name) for name in names.values()] if isinstance(names, dict) else []


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelError where the file holds none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} is no JSON ({error}); copy it again from the model's source") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} is no JSON object; copy it again from the model's source")
    return content
