"""TRL's GRPOTrainer on a vision-language model, one step at a time, set up as its documentation does. Runs in TRL's own environment."""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Image
from meters import Recorder
from protocol import Channel, Work, reward
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.trainer import utils


def reward_of_each(completions: list[list[dict[str, str]]], **_: Any) -> list[float]:
    """The reward function as TRL calls it: conversations in, numbers out."""
    return [reward(completion[0]["content"]) for completion in completions]


def make_trainer(work: Work) -> GRPOTrainer:
    """One prompt with G generations a step; every value that is not named here is TRL's default.

    Off on purpose: bf16, as we compare float32; gradient checkpointing, which
    would only slow TRL down where memory is not short; saving and reporting.
    """
    setting, questions = work.setting, work.read("questions")
    rows = {
        "prompt": [[{"role": "user", "content": question["text"]}] for question in questions],
        "image": [question["image"] for question in questions],
    }
    config = GRPOConfig(
        output_dir=str(work.folder / "trl"), use_cpu=True, bf16=False, gradient_checkpointing=setting.checkpointing,
        save_strategy="no", report_to="none", disable_tqdm=True, max_steps=setting.steps, shuffle_dataset=False,
        per_device_train_batch_size=setting.group, num_generations=setting.group, beta=setting.beta,
        max_completion_length=setting.tokens, generation_kwargs={"min_new_tokens": setting.tokens},
    )  # fmt: skip
    data = Dataset.from_dict(rows).cast_column("image", Image())
    return GRPOTrainer(model=str(work.model), reward_funcs=reward_of_each, args=config, train_dataset=data)


# ---------------------------------------------------------------- hooks


class Pause(TrainerCallback):
    """Waits before the first step and after each."""

    def __init__(self, recorder: Recorder, ready: dict[str, Any]) -> None:
        self.recorder, self.ready = recorder, ready

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.recorder.between_steps(**self.ready)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.recorder.between_steps()


def measure(trainer: GRPOTrainer, recorder: Recorder) -> None:
    """Tell the recorder which phase runs, and count the work in each."""
    prepare, score = trainer._prepare_inputs, trainer._get_per_token_logps_and_entropies
    shape = (trainer.args.num_generations, trainer.args.max_completion_length)

    def timed_prepare(*args: Any) -> Any:
        with recorder.during("rollout"):
            inputs = prepare(*args)
        recorder.enter("update")
        if tuple(inputs["completion_ids"].shape) != shape or not inputs["completion_mask"].all():
            raise AssertionError("a completion is shorter than forced")
        return inputs

    def timed_score(model: Any, *args: Any, **kwargs: Any) -> Any:
        with recorder.during("reference" if model is trainer.ref_model else recorder.phase):
            return score(model, *args, **kwargs)

    trainer._prepare_inputs, trainer._get_per_token_logps_and_entropies = timed_prepare, timed_score
    recorder.watch(trainer.model)
    if trainer.ref_model is not None:
        recorder.watch(trainer.ref_model)
    recorder.watch_images(trainer.processing_class.image_processor)
    count_fused_head(recorder)


def count_fused_head(recorder: Recorder) -> None:
    """TRL's training passes go around the head's module: count at the function that they call."""
    function = utils._ChunkedLogProbFunction

    class Counted:
        @staticmethod
        def apply(hidden: torch.Tensor, *args: Any) -> Any:
            recorder.count("lm_head_positions", hidden.shape[:-1].numel())
            return function.apply(hidden, *args)

    utils._ChunkedLogProbFunction = Counted


def score(trainer: GRPOTrainer, work: Work) -> dict[str, Any]:
    """What TRL says about the completions that both trainers score."""
    question, completions = work.read("questions")[0], torch.tensor(work.read("scored"))
    picture = Dataset.from_dict({"image": [question["image"]]}).cast_column("image", Image())[0]["image"]
    content = [{"type": "image", "image": picture}, {"type": "text", "text": question["text"]}]
    ids, _, fields = trainer._tokenize_prompts([[{"role": "user", "content": content}] for _ in completions])
    rows = torch.cat([torch.tensor(ids), completions], 1)
    kinds = torch.cat([torch.as_tensor(fields.pop("mm_token_type_ids")), torch.zeros_like(completions)], 1)
    device = trainer.accelerator.device
    rows, kinds = rows.to(device), kinds.to(device)
    fields = {name: torch.as_tensor(value).to(device) for name, value in fields.items()}
    with torch.no_grad():
        logprobs, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, rows, torch.ones_like(rows), completions.shape[1],
            num_images=[1] * len(rows), mm_token_type_ids=kinds, **fields,
        )  # fmt: skip
    parameters = sum(p.numel() for p in trainer.model.parameters())
    return {"prompt_ids": ids[0], "logprobs": logprobs.tolist(), "parameters": parameters}


def main() -> None:
    work, recorder = Work(Path(sys.argv[1])), Recorder(Channel())
    trainer = make_trainer(work)
    ready = score(trainer, work) | {"versions": {name: version(name) for name in ("trl", "torch", "transformers", "torchvision", "accelerate")}}
    measure(trainer, recorder)
    trainer.add_callback(Pause(recorder, ready))
    trainer.train()


if __name__ == "__main__":
    main()
