"""The decoder's weights and its tokenizer out of a GGUF file; transformers knows how, and nothing but gguf can read the numbers."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from medvlm_r1.errors import ModelError, install


def smollm2(file: Path) -> tuple[Any, Any]:
    """(language model in float32, tokenizer) of a GGUF file; its quantised numbers as they are, widened."""
    try:
        import gguf  # noqa: F401 - transformers asks for it without a remedy
    except ImportError as error:
        raise ModelError(f"{file} is a GGUF file, and gguf is missing ({error}); {install('gguf')}") from error
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    return model, tokenizer
