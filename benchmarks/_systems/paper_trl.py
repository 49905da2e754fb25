"""The paper's run with TRL's GRPOTrainer and its defaults, generating with transformers. Runs in an environment that has TRL."""

import copy
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Image
from meters import Recorder
from paper import PaperWork, new_model, reward
from protocol import Channel
from transformers import AutoProcessor
from trl import GRPOConfig, GRPOTrainer
from trl.trainer import grpo_trainer
from trl_grpo import Pause, measure, score

FORBIDDEN = ("<|image_pad|>", "<|video_pad|>", "<|vision_pad|>", "<|vision_start|>", "<|vision_end|>")


def reward_of_each(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """The reward function as TRL calls it."""
    return [reward(ids) for ids in completion_ids]


def make_trainer(work: PaperWork) -> GRPOTrainer:
    """A step generates for all prompts at once and learns from one at a time, as the paper's accumulation does.

    The reference is a copy of the model: TRL would load it from a directory, and this one's weights are in none.
    """
    setting, questions = work.setting, work.read("questions")
    rows = {
        "prompt": [[{"role": "user", "content": question["text"]}] for question in questions],
        "image": [question["image"] for question in questions],
    }
    processor, model = AutoProcessor.from_pretrained(work.model), new_model(work.model, setting)
    grpo_trainer.create_model_from_path = lambda *_, **__: copy.deepcopy(model)
    forbidden = processor.tokenizer.convert_tokens_to_ids(list(FORBIDDEN))
    where = {"use_cpu": True, "bf16": False} if setting.device == "cpu" else {}
    config = GRPOConfig(
        output_dir=str(work.folder / "trl"), gradient_checkpointing=setting.checkpointing, **where,
        save_strategy="no", report_to="none", disable_tqdm=True, max_steps=setting.steps, shuffle_dataset=False,
        per_device_train_batch_size=setting.group, gradient_accumulation_steps=setting.prompts, num_generations=setting.group,
        beta=setting.beta, max_completion_length=setting.completion,
        generation_kwargs={"min_new_tokens": setting.completion, "suppress_tokens": forbidden},
    )  # fmt: skip
    data = Dataset.from_dict(rows).cast_column("image", Image())
    return GRPOTrainer(model=model, reward_funcs=reward_of_each, args=config, train_dataset=data, processing_class=processor)


def main() -> None:
    work, recorder = PaperWork(Path(sys.argv[1])), Recorder(Channel())
    torch.set_num_threads(work.setting.threads)
    trainer = make_trainer(work)
    versions = {name: version(name) for name in ("trl", "torch", "transformers", "torchvision", "accelerate")}
    ready = score(trainer, work) | {"versions": versions}
    measure(trainer, recorder)
    trainer.add_callback(Pause(recorder, ready))
    trainer.train()


if __name__ == "__main__":
    main()
