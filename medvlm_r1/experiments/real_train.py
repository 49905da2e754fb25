"""The projector learns to speak in word embeddings, then projector and adapters learn all lessons together.

Legend: I cells of a picture; H width of the decoder; T tokens of a batch, prompt by prompt; L tokens of the longest.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from medvlm_r1.data.modality import DISPLAY
from medvlm_r1.experiments import nano_base, real_stages
from medvlm_r1.experiments.nano_base import completion_loss, shape
from medvlm_r1.experiments.real_lessons import SAID, Lesson, Teacher
from medvlm_r1.experiments.real_model import END, as_pixels
from medvlm_r1.experiments.real_pictures import DRAWN, Gallery
from medvlm_r1.experiments.real_stages import Log
from medvlm_r1.models.adapt import LoRA, Trainable, adapt, part_of
from medvlm_r1.models.family import Pixels
from medvlm_r1.models.policy import Policy


@dataclass(frozen=True)
class ProjectorStage:
    """``pictures`` of each class, whose cells are told the mean of the words that name it.

    >>> ProjectorStage().steps
    150
    """

    steps: int = 150
    batch: int = 64
    pictures: int = 60
    lr: float = 2e-3


@dataclass(frozen=True)
class MixedStage:
    """``shares`` of the kinds of lesson (real_lessons.KINDS); ``weighs`` and ``drawn``: see Teacher. ``kept_every``: steps between two saves.

    >>> round(sum(MixedStage().shares.values()), 9)
    1.0
    """

    steps: int = 150
    batch: int = 8
    lr: float = 6e-4
    rank: int = 16
    shares: dict[str, float] = field(default_factory=lambda: {"lookup": 0.25, "think": 0.45, "direct": 0.1, "report": 0.12, "english": 0.08})
    weighs: float = 1.0
    drawn: float = 0.2
    kept_every: int = 25


def learn_words(policy: Policy, gallery: Gallery, stage: ProjectorStage, seed: int, log: Log) -> None:
    """Train the projector in place: its cells' mean comes near the words of the picture's label and kind."""
    inner, rng = policy.model.model, np.random.default_rng(seed)
    rows = [int(row) for rows in gallery.by_class.values() for row in rng.choice(rows, stage.pictures)]
    with torch.no_grad():
        maps = [inner.vision_tower(as_pixels(gallery.grey_NSS[rows[at : at + 32]])).last_hidden_state for at in range(0, len(rows), 32)]
        seen_NIC = torch.cat(maps).flatten(2).transpose(1, 2)
        words_NH = torch.stack([_words(policy, *gallery.classes[row]) for row in rows])
    projector = inner.multi_modal_projector
    optimizer = torch.optim.AdamW(projector.parameters(), lr=stage.lr)
    for step in range(stage.steps):
        rng = np.random.default_rng([seed, step])
        at = torch.from_numpy(rng.integers(len(rows), size=stage.batch))
        cells = torch.from_numpy(rng.integers(seen_NIC.shape[1], size=(stage.batch, 6)))
        out = projector(seen_NIC[at[:, None], cells])
        loss = F.mse_loss(out.mean(1), words_NH[at]) + 0.2 * F.mse_loss(out, words_NH[at][:, None].expand_as(out))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        log({"stage": "projector", "step": step, "of": stage.steps, "loss": loss.item()})


def _words(policy: Policy, group: str, label: str) -> torch.Tensor:
    """Mean embedding (H) of the words for a label and for its kind of picture, half and half."""
    said = (SAID.get(label, label), DISPLAY.get(group.removeprefix(DRAWN), "picture"))
    ids = [policy.encoder.tokenizer(f" {text}", add_special_tokens=False)["input_ids"] for text in said]
    embeddings = policy.model.get_input_embeddings().weight
    return torch.stack([embeddings[torch.tensor(each)].mean(0) for each in ids]).mean(0)


def add_adapters(policy: Policy, rank: int, seed: int) -> dict[str, torch.Tensor]:
    """Adapters on the decoder; returns by name what learns: they and the projector. The tower stays as it is."""
    adapt(policy.model, Trainable(lora=LoRA(rank=rank)), seed)
    policy.model.model.vision_tower.requires_grad_(False)
    return learning(policy)


def learning(policy: Policy) -> dict[str, torch.Tensor]:
    """What learns, by name."""
    return {name: p for name, p in policy.model.named_parameters() if p.requires_grad}


def learn_lessons(policy: Policy, teacher: Teacher, stage: MixedStage, seed: int, partial: Path, log: Log) -> None:
    """The mixed stage, in place; ``partial`` is where it is kept meanwhile, and what it goes on from."""
    learns = add_adapters(policy, stage.rank, seed)
    optimizer = torch.optim.AdamW(learns.values(), lr=stage.lr, weight_decay=0.0, betas=(0.9, 0.98))
    for step in range(real_stages.load(partial, learns, optimizer), stage.steps):
        rng = np.random.default_rng([seed, step])
        kinds = rng.choice(list(stage.shares), size=stage.batch, p=list(stage.shares.values()))
        policy.version += 1  # the projector has moved on
        loss = loss_of(policy, teacher.gallery, [teacher.lesson(rng, str(kind)) for kind in kinds])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learns.values(), 1.0)
        optimizer.param_groups[0]["lr"] = stage.lr * shape(step / stage.steps)
        optimizer.step()
        optimizer.zero_grad()
        log({"stage": "mixed", "step": step, "of": stage.steps, "loss": loss.item()})
        if (step + 1) % stage.kept_every == 0:
            real_stages.save(partial, learns, step + 1, optimizer)


def loss_of(policy: Policy, gallery: Gallery, lessons: list[Lesson]) -> torch.Tensor:
    """Mean cross-entropy of all completion tokens of the lessons."""
    pixels = [[shown(gallery, lesson)] if lesson.row is not None else [] for lesson in lessons]
    return completion_loss(policy, [(*written(policy, lesson), seen) for lesson, seen in zip(lessons, pixels, strict=True)])


def written(policy: Policy, lesson: Lesson) -> tuple[list[int], int]:
    """Ids of prompt and completion, and where the completion begins."""
    cells = policy.encoder.tile_tokens * (lesson.row is not None)
    return nano_base.written(policy.encoder, lesson.prompt, lesson.completion + END * lesson.ends, cells)


def shown(gallery: Gallery, lesson: Lesson) -> Pixels:
    """The lesson's picture as the image processor would give it."""
    assert lesson.row is not None
    grey = gallery.grey_NSS[lesson.row][:, ::-1] if lesson.mirrored else gallery.grey_NSS[lesson.row]
    return Pixels(as_pixels(np.ascontiguousarray(grey)[None]).contiguous(), (1, 1, 1), f"{lesson.row}{'<' * lesson.mirrored}", "")


def tower_and_projector(policy: Policy) -> dict[str, torch.Tensor]:
    """By name, with what batch norms know: what the first two stages change."""
    return {name: tensor for name, tensor in policy.model.state_dict().items() if part_of(name) == "vision"}
