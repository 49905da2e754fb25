"""Our GRPO loop, one step at a time: ``grpo.trainer.train`` as it is, with the local engine."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from meters import Recorder
from protocol import Channel, Work, reward

from medvlm_r1.models.families import load_policy
from medvlm_r1.models.policy import Policy
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.training.batches import batch_indices
from medvlm_r1.training.grpo.loss import LossConfig
from medvlm_r1.training.grpo.trainer import GRPOConfig, train
from medvlm_r1.training.grpo.update import UpdateConfig
from medvlm_r1.types import Completion, Example, Prompt, Rollout, RolloutGroup


class InOrder(list):
    """Examples that the loop's permutation of the first epoch gives back as they stand here."""

    def __init__(self, examples: list[Example]) -> None:
        super().__init__(examples)
        for step, example in enumerate(examples):
            self[batch_indices(len(examples), 1, step, seed=0)[0]] = example


class Unbanned(Policy):
    """Scores like TRL, which forbids no token when it scores (we forbid the five of images and videos)."""

    banned_ids = ()


@dataclass
class Measured(Policy):
    """A policy whose passes are counted; its reference's are timed too."""

    recorder: Any = None
    is_reference: bool = False

    def frozen_copy(self) -> Policy:
        plain = super().frozen_copy()
        reference = Measured(plain.model, plain.encoder, recorder=self.recorder, is_reference=True)
        self.recorder.watch(reference.model)
        self.recorder.watch(self.model)  # not before: a copy takes the hooks along
        return reference

    def logprobs(self, *args: Any) -> torch.Tensor:
        if not self.is_reference:
            return super().logprobs(*args)
        with self.recorder.during("reference"):
            return super().logprobs(*args)

    def _embed(self, over: Any) -> Any:
        self.recorder.count("lm_tokens", len(over.ids_T))
        return super()._embed(over)

    def decode(self, ids_R: torch.Tensor, *args: Any) -> torch.Tensor:
        self.recorder.count("lm_tokens", len(ids_R))
        return super().decode(ids_R, *args)


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
        self.policy = policy
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
    from medvlm_r1.data.images import load_image  # with it come libraries that the other users of this module do without

    work, recorder = Work(Path(sys.argv[1])), Recorder(Channel())
    setting = work.setting
    rows = work.read("questions")
    examples = [Example(row["id"], (row["image"],), row["question"], tuple(row["options"]), row["answer"], "mri") for row in rows]
    loaded = load_policy(str(work.model), load_image, "float32")
    ready = score(Policy(loaded.model, replace(loaded.encoder)), examples[0], work)  # with an encoder of its own, so that training finds nothing cached
    policy = Measured(loaded.model, loaded.encoder, recorder=recorder)
    recorder.watch_images(policy.encoder.image_processor)
    engine = Engine(policy, learning=True)
    engine.recorder, engine.ready = recorder, ready
    config = GRPOConfig(
        template=setting.template, steps=setting.steps, prompts_per_step=1, dtype="float32", save_every=setting.steps + 1,
        sampling=Sampling(n=setting.group, max_tokens=setting.tokens, min_tokens=setting.tokens),
        update=UpdateConfig(loss=LossConfig(kl_beta=setting.beta)),
    )  # fmt: skip
    (work.folder / "run").mkdir()
    train(config, policy, engine, InOrder(examples), lambda completion, _: {"reward": reward(completion.text)}, work.folder / "run")


if __name__ == "__main__":
    main()
