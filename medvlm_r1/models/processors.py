"""The processor that a model's own authors use, for pictures and text, where no torchvision is installed.

transformers' AutoProcessor wants a video processor wherever a model could watch films, and that wants torchvision.
Nobody here shows films: the processor is built from its settings with a picture processor and a tokenizer alone.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoImageProcessor

from medvlm_r1.errors import ModelError
from medvlm_r1.models.folder import read_json

_NAMES: dict[str, str | None] = import_module("transformers.models.auto.processing_auto").PROCESSOR_MAPPING_NAMES
FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")


class Absent(dict[str, Any]):
    """In the place of what reads films or sound: a dictionary of no settings, which transformers prints and copies as it would the other."""

    def __getattr__(self, name: str) -> None:
        """Nothing, but what Python itself looks for is not there."""
        if name.startswith("__"):
            raise AttributeError(name)


def load(directory: Path, tokenizer: Any) -> Any:
    """The processor in a folder, around a tokenizer that is loaded already.

    Raises ModelError where the folder names none, transformers has none of that name, or it cannot be built here.
    """
    name = class_name(directory)
    kind: Any = getattr(transformers, name, None)
    if kind is None:
        raise ModelError(f'{directory} wants the processor "{name}", which this transformers does not have; install the version that its authors name')
    images = AutoImageProcessor.from_pretrained(directory, backend="pil")
    alone: Any = type(name, (kind,), {"check_argument_for_proper_class": lambda self, name, value: None, "__module__": kind.__module__})
    parts = {"image_processor": images, "tokenizer": tokenizer}
    settings, _ = kind.get_processor_dict(directory)
    made = alone.from_args_and_dict([parts.get(part, Absent()) for part in alone.get_attributes()], settings)
    if getattr(made, "image_processor", None) is None:
        raise ModelError(f'{directory}: the processor "{name}" takes no pictures; give a vision-language model')
    return made


def class_name(directory: Path) -> str:
    """By the folder's own word, else by transformers' for the kind of model. Raises ModelError where neither has one."""
    for file in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        if (directory / file).exists() and (name := read_json(directory / file).get("processor_class")):
            return str(name)
    kind = read_json(directory / "config.json").get("model_type")
    if not (named := _NAMES.get(str(kind))):
        raise ModelError(f'{directory} names no processor, and transformers has none for "{kind}"; copy processor_config.json from the model\'s source')
    return str(named)


def copy_settings(source: Path, out: Path) -> None:
    """The processor's files as they are: what was trained is asked in the same way."""
    for name in FILES:
        if (source / name).exists():
            (out / name).write_bytes((source / name).read_bytes())
