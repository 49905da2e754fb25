"""Our GRPO loop, one step at a time: writes the model and the questions, then trains with ``grpo.trainer.train``."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from meters import Recorder
from PIL import Image
from protocol import Channel, Setting, Work, reward
from transformers import AutoTokenizer, GenerationConfig, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from medvlm_r1.data.images import load_image
from medvlm_r1.data.phantom import sets
from medvlm_r1.grpo.loss import LossConfig
from medvlm_r1.grpo.trainer import GRPOConfig, train
from medvlm_r1.grpo.update import UpdateConfig
from medvlm_r1.models import nano
from medvlm_r1.models.families import load_policy
from medvlm_r1.models.policy import Policy
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.training.batches import batch_indices
from medvlm_r1.types import Completion, Example, Prompt, Rollout, RolloutGroup

VOCABULARY = 2048


# ---------------------------------------------------------------- what both trainers are given


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


def write_questions(work: Work) -> list[Example]:
    """The model, and phantom questions of equally long prompts in the order of the steps, a picture file each."""
    setting, known = work.setting, sets.load("mri", "train")
    texts = {example.id: render(example, setting.template).text for example in known}
    write_model(work.model, setting, [f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n" for text in texts.values()])
    tokenizer = AutoTokenizer.from_pretrained(work.model)
    lengths = {name: len(tokenizer(text)["input_ids"]) for name, text in texts.items()}
    usual = Counter(lengths.values()).most_common(1)[0][0]
    examples = []
    for example in [example for example in known if lengths[example.id] == usual][: setting.steps]:
        file = work.folder / f"{example.id}.png"
        load_image(example.images[0]).resize((setting.image_px,) * 2, Image.Resampling.BICUBIC).save(file)
        examples.append(replace(example, images=(str(file),)))
    work.write("questions", [{"image": example.images[0], "text": texts[example.id]} for example in examples])
    ids = torch.randint(len(nano.SPECIAL), 512, (setting.group, setting.tokens), generator=torch.Generator().manual_seed(0))
    work.write("scored", ids.tolist())
    return examples


class InOrder(list):
    """Examples that the loop's permutation of the first epoch gives back as they stand here."""

    def __init__(self, examples: list[Example]) -> None:
        super().__init__(examples)
        for step, example in enumerate(examples):
            self[batch_indices(len(examples), 1, step, seed=0)[0]] = example


# ---------------------------------------------------------------- the loop, with hooks


class Unbanned(Policy):
    """Scores like TRL, which forbids no token when it scores (we forbid the five of images and videos)."""

    banned_ids = ()


class Endless(Policy):
    """A policy that never ends a completion: the end of turn is forbidden, as min_new_tokens does it."""

    @property
    def banned_ids(self) -> list[int]:
        return [*super().banned_ids, *self.stop_ids]


@dataclass
class Measured(Policy):
    """The policy under training; its reference's passes are timed and counted."""

    recorder: Any = None

    def frozen_copy(self) -> Policy:
        reference = super().frozen_copy()
        self.recorder.watch(reference.model)
        self.recorder.watch(self.model)  # not before: a copy takes the hooks along
        score = reference.logprobs

        def timed(*args: Any) -> torch.Tensor:
            with self.recorder.during("reference"):
                return score(*args)

        reference.logprobs = timed
        return reference


class Engine(LocalEngine):
    """The local engine with completions of one length; between two steps it waits."""

    recorder: Recorder
    ready: dict[str, Any]

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        with self.recorder.during("rollout"):
            completions_PG = super().generate(prompts, sampling)
        self.recorder.enter("update")
        if any(len(c.token_ids) != sampling.max_tokens for completions_G in completions_PG for c in completions_G):
            raise AssertionError("a completion is shorter than forced")
        return completions_PG

    def sync(self, policy: Policy) -> None:
        """Called before the first step and after each."""
        self.policy = Endless(policy.model, policy.encoder)
        self.recorder.between_steps(**self.ready)
        self.ready = {}


def score(policy: Policy, example: Example, work: Work) -> dict[str, Any]:
    """What we say about the completions that both trainers score."""
    prompt = render(example, work.setting.template)
    rollouts = [Rollout(Completion(tuple(ids), (0.0,) * len(ids), "", False), {}) for ids in work.read("scored")]
    with torch.no_grad():
        logprobs = Unbanned(policy.model, policy.encoder).logprobs(policy.encoder.groups([RolloutGroup(prompt, tuple(rollouts))]))
    parameters = sum(p.numel() for p in policy.model.parameters())
    return {"prompt_ids": policy.encoder.prompt_ids(prompt), "logprobs": logprobs.tolist(), "parameters": parameters}


def main() -> None:
    work, recorder = Work(Path(sys.argv[1])), Recorder(Channel())
    setting = work.setting
    examples = write_questions(work)
    loaded = load_policy(str(work.model), load_image, "float32")
    ready = score(loaded.viewing(None), examples[0], work)  # with an encoder of its own, so that training finds nothing cached
    policy = Measured(loaded.model, loaded.encoder, recorder=recorder)
    recorder.watch_images(policy.encoder.image_processor)
    engine = Engine(policy)
    engine.recorder, engine.ready = recorder, ready
    config = GRPOConfig(
        template=setting.template, steps=setting.steps, prompts_per_step=1, dtype="float32", save_every=setting.steps + 1,
        sampling=Sampling(n=setting.group, max_tokens=setting.tokens), update=UpdateConfig(loss=LossConfig(kl_beta=setting.beta)),
    )  # fmt: skip
    (work.folder / "run").mkdir()
    train(config, policy, engine, InOrder(examples), lambda completion, _: {"reward": reward(completion.text)}, work.folder / "run")


if __name__ == "__main__":
    main()
