"""The paper's run with our loop: ``grpo.trainer.train`` as it is, with the local engine."""

import sys
from pathlib import Path

import torch
from meters import Recorder
from ours import Engine, Measured, score
from paper import PaperSetting, PaperWork, new_model, reward
from PIL import Image
from protocol import Channel
from transformers import AutoTokenizer, Qwen2VLImageProcessorPil

from medvlm_r1.models.encode import Encoder
from medvlm_r1.models.families import prepare
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.training.grpo.loss import LossConfig
from medvlm_r1.training.grpo.trainer import GRPOConfig, train
from medvlm_r1.training.grpo.update import UpdateConfig
from medvlm_r1.types import Completion, Example, Prompt


def read_examples(work: PaperWork) -> list[Example]:
    return [Example(row["id"], (row["image"],), row["question"], tuple(row["options"]), row["answer"], "mri") for row in work.read("questions")]


def read_encoder(work: PaperWork) -> Encoder:
    """An encoder that has met no image yet. ``data.images.load_image`` would ask for libraries that a GPU machine may lack."""
    return Encoder(AutoTokenizer.from_pretrained(work.model), Qwen2VLImageProcessorPil.from_pretrained(work.model), Image.open)


def grpo_config(setting: PaperSetting) -> GRPOConfig:
    """The paper's recipe, its checkpoints among it: they count as "other" of the step that follows. After the last one none does, as the process ends."""
    return GRPOConfig(
        template=setting.template, steps=setting.steps, prompts_per_step=setting.prompts, dtype=setting.dtype, save_every=setting.save_every,
        sampling=Sampling(n=setting.group, max_tokens=setting.completion, min_tokens=setting.completion),
        update=UpdateConfig(loss=LossConfig(kl_beta=setting.beta), tokens_per_micro_batch=setting.micro_batch_tokens),
    )  # fmt: skip


def rubric(completion: Completion, _: Prompt) -> dict[str, float]:
    return {"reward": reward(list(completion.token_ids))}


def main() -> None:
    work = PaperWork(Path(sys.argv[1]))
    setting = work.setting
    recorder = Recorder(Channel(), counting=setting.device == "cpu")  # on a GPU decoding is replayed, and hooks would miss it
    torch.set_num_threads(setting.threads)
    examples, loaded = read_examples(work), prepare(new_model(work.model, setting), read_encoder(work))
    ready = score(loaded, examples[0], work)
    policy = Measured(loaded.model, read_encoder(work), recorder=recorder)
    if not setting.beta:
        recorder.watch(policy.model)  # else when the reference is copied
    recorder.watch_images(policy.encoder.image_processor)
    policy.remember, policy.prefill = (recorder.timed("prefill", part) for part in (policy.remember, policy.prefill))
    engine = Engine(policy, learning=True)
    engine.recorder, engine.ready = recorder, ready
    (work.folder / "run").mkdir()
    train(grpo_config(setting), policy, engine, examples, rubric, work.folder / "run")


if __name__ == "__main__":
    main()
