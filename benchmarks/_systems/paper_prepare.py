"""What the systems of the paper's run are given: a tokenizer, a configuration, grey pictures, questions. A process of its own."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from paper import PaperSetting, PaperWork, model_config
from PIL import Image

from medvlm_r1.models import nano
from medvlm_r1.reasoning import render
from medvlm_r1.types import Example

QUESTION = "Which plane of the body does this MRI picture show, as far as its outline lets you tell?"
OPTIONS = ("Axial plane", "Coronal plane", "Sagittal plane", "Oblique plane")


def write_model(folder: Path, setting: PaperSetting, text: str) -> None:
    """All of a model's directory but its weights."""
    conversation = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    tokenizer = nano.build_tokenizer([conversation, conversation], 600)
    tokenizer.save_pretrained(folder)
    special = {name: tokenizer.convert_tokens_to_ids(name) for name in nano.SPECIAL}
    (folder / "config.json").write_text(json.dumps(model_config(setting.dimensions, special)))
    processor = {
        "min_pixels": 3136, "max_pixels": 1003520, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor",
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


def grey_picture(number: int, height: int, width: int) -> Image.Image:
    """A smooth random picture, another for every number."""
    levels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
    return Image.fromarray(levels).resize((width, height), Image.Resampling.BICUBIC)


def write_all(work: PaperWork) -> None:
    setting = work.setting
    files = [str(work.folder / f"{n}.png") for n in range(setting.images)]
    examples = [Example(f"grey-{n:03d}", (file,), QUESTION, OPTIONS, OPTIONS[n % 4], "mri") for n, file in enumerate(files)]
    text = render(examples[0], setting.template).text
    write_model(work.model, setting, text)
    for n, example in enumerate(examples):
        grey_picture(n, *setting.image_px).save(example.images[0], compress_level=1)
    shared = {"question": QUESTION, "options": OPTIONS, "text": text}
    work.write("questions", [shared | {"id": e.id, "answer": e.answer, "image": e.images[0]} for e in examples])
    ids = torch.randint(len(nano.SPECIAL), setting.dimensions.vocabulary, (setting.group, 16), generator=torch.Generator().manual_seed(0))
    work.write("scored", ids.tolist())


if __name__ == "__main__":
    write_all(PaperWork(Path(sys.argv[1])))
