"""The R1-V way, which MedVLM-R1's authors trained with: our own small version of it, from its description.

One prompt at a time. transformers generates G sequences from a prompt that it
expands G-fold (today's encodes the image once there; the authors' did so G
times); then policy and reference each run all G whole sequences, image, prompt
and completion, with logits at every position, of which a float32 log-softmax is
taken. The gradients of the prompts add up to one step of AdamW, on float32
masters as DeepSpeed keeps them. No gradient checkpointing.

Legend: G completions of a prompt, L prompt tokens, C completion tokens, V vocabulary.
"""

import copy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from meters import Recorder
from paper import PaperSetting, PaperWork, new_model, reward
from paper_ours import read_encoder, read_examples
from protocol import Channel
from transformers import LogitsProcessor, LogitsProcessorList

from medvlm_r1.models.encode import Encoder
from medvlm_r1.reasoning import render
from medvlm_r1.training.batches import batch
from medvlm_r1.training.grpo.advantage import grpo
from medvlm_r1.training.optim import OptimConfig, Optimizer
from medvlm_r1.types import Example, Prompt

FORBIDDEN = ("<|image_pad|>", "<|video_pad|>", "<|vision_pad|>", "<|vision_start|>", "<|vision_end|>")


@dataclass(frozen=True)
class Inputs:
    """One prompt as transformers takes it: token ids and kinds (1, L), patches and grid of its image."""

    ids_1L: torch.Tensor
    kinds_1L: torch.Tensor
    pixels: torch.Tensor
    grid: torch.Tensor

    def expanded(self, ids_GT: torch.Tensor) -> dict[str, torch.Tensor]:
        """Whole sequences that begin with this prompt: everything of it again in every row."""
        group, length = ids_GT.shape
        completion = self.kinds_1L.new_zeros(group, length - self.ids_1L.shape[1])
        return {
            "input_ids": ids_GT,
            "attention_mask": torch.ones_like(ids_GT),
            "mm_token_type_ids": torch.cat([self.kinds_1L.repeat(group, 1), completion], 1),
            "pixel_values": self.pixels.repeat(group, 1),
            "image_grid_thw": self.grid.repeat(group, 1),
        }


def encode(encoder: Encoder, prompt: Prompt, device: torch.device) -> Inputs:
    """A prompt with one image."""
    ids_1L = torch.tensor([encoder.prompt_ids(prompt)], device=device)
    image = encoder.pixels(prompt.example.images[0])
    grid = torch.tensor([image.grid_thw], device=device)
    return Inputs(ids_1L, (ids_1L == encoder.image_id).int(), image.patches.to(device), grid)


def logprobs(model: Any, inputs: Inputs, completions_GC: torch.Tensor) -> torch.Tensor:
    """Log-probability (G, C) of every completion token, by way of those of all prompt tokens."""
    ids_GT = torch.cat([inputs.ids_1L.repeat(len(completions_GC), 1), completions_GC], 1)
    logits_GTV = model(**inputs.expanded(ids_GT)).logits[:, :-1]
    rows = [logits_TV.float().log_softmax(-1).gather(1, ids_T[1:, None])[:, 0] for logits_TV, ids_T in zip(logits_GTV, ids_GT, strict=True)]
    return torch.stack(rows)[:, inputs.ids_1L.shape[1] - 1 :]


def loss(logprobs_GC: torch.Tensor, reference_GC: torch.Tensor, advantages_G: torch.Tensor, beta: float) -> torch.Tensor:
    """One group's loss: policy gradient and k3 penalty, a mean over each row's tokens, then over rows.

    >>> one = torch.ones(1, 2)
    >>> loss(-one, -one, torch.tensor([0.5]), beta=0.04).item()
    -0.5
    >>> round(loss(-one, -2 * one, torch.tensor([0.0]), beta=1.0).item(), 4)  # exp(-1) + 1 - 1
    0.3679
    """
    difference_GC = reference_GC - logprobs_GC
    kl_GC = difference_GC.exp() - difference_GC - 1
    gain_GC = (logprobs_GC - logprobs_GC.detach()).exp() * advantages_G[:, None]
    return -(gain_GC - beta * kl_GC).mean(1).mean()


class EndsPrefill(LogitsProcessor):
    """Changes nothing: at a completion's first logits the prompt has been run, and decoding begins."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.recorder.phase == "prefill":
            self.recorder.enter("rollout")
        return scores


@dataclass
class Trainer:
    """Policy, frozen reference and optimiser."""

    model: Any
    reference: Any
    optimizer: Optimizer
    encoder: Encoder
    setting: PaperSetting
    recorder: Recorder

    @torch.no_grad()
    def generate(self, inputs: Inputs) -> torch.Tensor:
        """G completions (G, C) of one prompt."""
        setting, forbidden = self.setting, self.encoder.tokenizer.convert_tokens_to_ids(list(FORBIDDEN))
        self.recorder.enter("prefill")
        ids_GT = self.model.generate(
            **inputs.expanded(inputs.ids_1L), num_return_sequences=setting.group, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            max_new_tokens=setting.completion, min_new_tokens=setting.completion, suppress_tokens=forbidden,
            logits_processor=LogitsProcessorList([EndsPrefill(self.recorder)]),
        )  # fmt: skip
        return ids_GT[:, inputs.ids_1L.shape[1] :]

    def step(self, examples_P: list[Example]) -> None:
        """Each prompt's gradients one after the other, then the optimiser."""
        for example in examples_P:
            self.recorder.enter("rollout")
            inputs = encode(self.encoder, render(example, self.setting.template), self.model.device)
            completions_GC = self.generate(inputs)
            if completions_GC.shape != (self.setting.group, self.setting.completion):
                raise AssertionError("a completion is shorter than forced")
            self.recorder.enter("update")
            advantages_G = torch.tensor(grpo([reward(ids) for ids in completions_GC.tolist()]), device=self.model.device)
            self.learn(inputs, completions_GC, advantages_G, len(examples_P))
        self.optimizer.step()

    def learn(self, inputs: Inputs, completions_GC: torch.Tensor, advantages_G: torch.Tensor, prompts: int) -> None:
        """Add one prompt's gradients."""
        logprobs_GC = logprobs(self.model, inputs, completions_GC)
        with torch.no_grad(), self.recorder.during("reference"):
            reference_GC = logprobs(self.reference, inputs, completions_GC)
        (loss(logprobs_GC, reference_GC, advantages_G, self.setting.beta) / prompts).backward()


def main() -> None:
    work, recorder = PaperWork(Path(sys.argv[1])), Recorder(Channel())
    setting = work.setting
    torch.set_num_threads(setting.threads)
    examples, encoder = read_examples(work), read_encoder(work)
    model = new_model(work.model, setting).eval()
    reference = copy.deepcopy(model).requires_grad_(False)
    inputs = encode(read_encoder(work), render(examples[0], setting.template), model.device)
    with torch.no_grad():
        scored = logprobs(model, inputs, torch.tensor(work.read("scored"), device=model.device))
    ready = {"prompt_ids": inputs.ids_1L[0].tolist(), "logprobs": scored.tolist(), "parameters": sum(p.numel() for p in model.parameters())}
    for watched in (model, reference):
        recorder.watch(watched)
    recorder.watch_images(encoder.image_processor)
    trainer = Trainer(model, reference, Optimizer(model, OptimConfig(), setting.steps), encoder, setting, recorder)
    recorder.between_steps(**ready)
    for step in range(setting.steps):
        trainer.step(batch(examples, setting.prompts, step, seed=0))
        recorder.between_steps()


if __name__ == "__main__":
    main()
