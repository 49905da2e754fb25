"""Our GRPO step at several sizes, in turns, on one model: a round takes a step at each."""

import itertools
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from meters import Recorder
from ours import Measured
from paper import reward
from paper_prepare import OPTIONS, QUESTION, grey_picture
from PIL import Image
from prepare import write_model
from protocol import SETTINGS, Channel, Point, Setting, Work

from medvlm_r1.data.views import Shown
from medvlm_r1.models.families import load_policy
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.collect import collect
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.training.grpo.advantage import grpo
from medvlm_r1.training.grpo.update import Learner, UpdateConfig, update
from medvlm_r1.training.optim import OptimConfig, Optimizer
from medvlm_r1.types import Completion, Example, Prompt


def grey(reference: str) -> Image.Image:
    """The picture behind "number:pixels"."""
    number, px = map(int, reference.split(":"))
    return grey_picture(number, px, px)


def rubric(completion: Completion, _: Prompt) -> dict[str, float]:
    return {"reward": reward(list(completion.token_ids))}


@dataclass
class Sweep:
    """The model under training and its engine; every step asks a new question about new pictures, so that no cache helps."""

    learner: Learner
    engine: LocalEngine
    recorder: Recorder
    setting: Setting

    def __post_init__(self) -> None:
        self.numbers = itertools.count()

    def example(self, point: Point) -> Example:
        pictures = tuple(f"{next(self.numbers)}:{point.image_px}" for _ in range(point.images))
        return Example(pictures[0], pictures, QUESTION, OPTIONS, OPTIONS[0], "mri")

    def step(self, point: Point) -> dict[str, Any]:
        """One step of one prompt: its seconds and counts."""
        example, sampling = self.example(point), Sampling(n=point.group, max_tokens=point.tokens, min_tokens=point.tokens)
        self.recorder.lap()
        with self.recorder.during("rollout"):
            groups = collect(self.engine, [Shown(example, sampling.n)], rubric, self.setting.template, sampling)
        if any(len(rollout.completion.token_ids) != point.tokens for rollout in groups[0].rollouts):
            raise AssertionError("a completion is shorter than forced")
        self.recorder.enter("update")
        update(self.learner, groups, [grpo(groups[0].rewards_G)])
        lap = self.recorder.lap()
        if self.learner.policy.device.type == "cuda":
            lap["counts"].pop("rollout", None)  # decoding is replayed there, and hooks see none of it
        return lap


def make_sweep(folder: Path, setting: Setting) -> Sweep:
    """The model of ``grpo_vs_trl.py``, trained as it is there."""
    text = render(Example("q", ("0:28",), QUESTION, OPTIONS, OPTIONS[0], "mri"), setting.template).text
    write_model(folder, setting, [f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"] * 2)
    loaded, recorder = load_policy(str(folder), grey), Recorder()
    policy = Measured(loaded.model, loaded.encoder, recorder=recorder)
    learner = Learner(policy, policy.frozen_copy(), Optimizer(policy.model, OptimConfig(), 10_000), UpdateConfig())
    return Sweep(learner, LocalEngine(policy, learning=True), recorder, setting)


def main() -> None:
    work, channel = Work(Path(sys.argv[1])), Channel()
    asked = work.read("sweep")
    points = [Point(**point) for point in asked["points"]]
    sweep = make_sweep(work.model, SETTINGS[asked["setting"]])
    policy = sweep.learner.policy
    channel.send({
        "parameters": sum(p.numel() for p in policy.model.parameters()), "device": str(policy.device),
        "prompt_tokens": [len(policy.encoder.prompt_ids(render(sweep.example(point), sweep.setting.template))) for point in points],
    })  # fmt: skip
    while True:
        channel.wait()
        channel.send({"steps": [asdict(point) | sweep.step(point) for point in points]})


if __name__ == "__main__":
    main()
