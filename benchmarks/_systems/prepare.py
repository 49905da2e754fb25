"""What both trainers are given: a Qwen2-VL with random weights, questions, pictures. A process of its own, whose memory is not ours."""

import json
import sys
from collections import Counter
from pathlib import Path

import torch
from PIL import Image
from protocol import Setting, Work
from transformers import AutoTokenizer, GenerationConfig, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.utils import logging

from medvlm_r1.models import nano
from medvlm_r1.reasoning import render

VOCABULARY = 2048


def write_model(out: Path, setting: Setting, texts: list[str]) -> None:
    """A Qwen2-VL with random weights in the Hugging Face layout, the preprocessor's file as the hub has it."""
    tokenizer = nano.build_tokenizer(texts, VOCABULARY)
    shape = nano.build_config(tokenizer).to_dict()
    shape["text_config"] |= {
        "vocab_size": VOCABULARY, "hidden_size": setting.hidden, "intermediate_size": setting.mlp, "num_hidden_layers": setting.layers,
        "num_attention_heads": setting.hidden // 32, "num_key_value_heads": setting.hidden // 64, "layer_types": None,
    }  # fmt: skip
    shape["vision_config"] |= {
        "embed_dim": setting.vision_width, "depth": setting.vision_depth, "num_heads": setting.vision_width // 32, "hidden_size": setting.hidden,
    }  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(**shape))
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    processor = {
        "min_pixels": 3136, "max_pixels": 1003520, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor",
    }  # fmt: skip
    (out / "preprocessor_config.json").write_text(json.dumps(processor))


def write_questions(work: Work) -> None:
    """The model, and phantom questions of equally long prompts in the order of the steps, a picture file each."""
    from medvlm_r1.data.images import load_image  # with them come libraries that the other users of this module do without
    from medvlm_r1.data.phantom import sets

    setting, known = work.setting, sets.load("mri", "train")
    texts = {example.id: render(example, setting.template).text for example in known}
    write_model(work.model, setting, [f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n" for text in texts.values()])
    tokenizer = AutoTokenizer.from_pretrained(work.model)
    lengths = {name: len(tokenizer(text)["input_ids"]) for name, text in texts.items()}
    usual = Counter(lengths.values()).most_common(1)[0][0]
    questions = []
    for example in [example for example in known if lengths[example.id] == usual][: setting.steps]:
        file = work.folder / f"{example.id}.png"
        load_image(example.images[0]).resize((setting.image_px,) * 2, Image.Resampling.BICUBIC).save(file)
        row = {"id": example.id, "question": example.question, "options": example.options, "answer": example.answer}
        questions.append(row | {"image": str(file), "text": texts[example.id]})
    work.write("questions", questions)
    ids = torch.randint(len(nano.SPECIAL), 512, (setting.group, setting.tokens), generator=torch.Generator().manual_seed(0))
    work.write("scored", ids.tolist())


if __name__ == "__main__":
    logging.disable_progress_bar()
    write_questions(Work(Path(sys.argv[1])))
