"""How the embedded base model is made: ``medvlm-r1 nano`` runs this.

The tower first: it learns to see (``nano_sight``). Text only: copy a random sequence, then find an option's letter;
without the first, the second is never learned. Clean: captions and questions on
all three modalities, then more questions, until letters follow thoughts. Noisy teacher: the habits of ``nano_lessons``.
"""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from safetensors.torch import load_model, save_model
from transformers import PreTrainedTokenizerFast

from medvlm_r1.config import fingerprint
from medvlm_r1.console import stderr
from medvlm_r1.data.phantom.questions import MODALITIES, Question
from medvlm_r1.experiments import nano_lessons as lessons
from medvlm_r1.experiments.muon import Muon
from medvlm_r1.experiments.nano_pool import Pool, load_pool, make_pool, save_pool
from medvlm_r1.experiments.nano_sight import TOKENS, Lectures, Sight
from medvlm_r1.files import output_errors
from medvlm_r1.models import nano, vision
from medvlm_r1.models.encode import Encoder
from medvlm_r1.models.family import Pixels
from medvlm_r1.models.policy import Policy

Row = tuple[list[int], int, list[Pixels]]  # ids, the first position to learn, the picture


@dataclass(frozen=True)
class Stage:
    """A stretch of training: steps of ``batch`` lessons, drawn in these shares: "copy", and the kinds of ``Classroom.lesson``; does the tower learn, too?"""

    steps: int
    batch: int
    shares: dict[str, float]
    lr: float
    tower: bool = True


@dataclass(frozen=True)
class NanoConfig:
    """Everything that decides the base's weights."""

    seed: int = 0
    pictures: int = 60_000
    stages: tuple[Stage | Sight, ...] = (
        Sight(2700, 128, 2.5e-3),
        Stage(200, 64, {"copy": 1.0}, 3e-3),
        Stage(400, 80, {"copy": 0.1, "lookup": 0.9}, 3e-3),
        Stage(800, 80, {"lookup": 0.1, "caption": 0.25, "question": 0.4, "direct": 0.1, "point": 0.15}, 3e-3, tower=False),
        Stage(400, 80, {"lookup": 0.1, "caption": 0.1, "question": 0.55, "direct": 0.1, "point": 0.15}, 2e-3, tower=False),
        Stage(200, 80, {"teacher": 0.7, "point-teacher": 0.15, "direct": 0.1, "lookup": 0.05}, 1e-3, tower=False),
    )

    def until(self, number: int) -> str:
        """Fingerprint of all that decides the weights after stage ``number``; -1: of the pictures."""
        return fingerprint(replace(self, stages=self.stages[: number + 1]))


class Classroom:
    """Draws batches of lessons as tensors."""

    def __init__(self, policy: Policy, pool: Pool) -> None:
        self.policy, self.pool = policy, pool
        self.tokenizer = policy.encoder.tokenizer
        self.by_modality, self.by_cell = pool.by_modality(), pool.by_cell()

    def loss(self, rng: np.random.Generator, stage: Stage) -> torch.Tensor:
        """Mean cross-entropy of the tokens to learn, over one batch."""
        kinds = rng.choice(list(stage.shares), size=stage.batch, p=list(stage.shares.values()))
        return completion_loss(self.policy, [self._row(rng, str(kind)) for kind in kinds])

    def _row(self, rng: np.random.Generator, kind: str) -> Row:
        if kind == "copy":
            half = rng.integers(len(nano.SPECIAL), len(self.tokenizer), size=rng.integers(6, 20)).tolist()
            return half + half, len(half) + 1, []
        lesson = self.lesson(rng, kind)
        pixels = [] if lesson.picture is None else [self.pool.seen(lesson.picture, self.policy.encoder.image_processor, rng)]
        return *written(self.policy.encoder, lesson.prompt, f"{lesson.completion}<|im_end|>", TOKENS * len(pixels)), pixels

    def lesson(self, rng: np.random.Generator, kind: str) -> lessons.Lesson:
        """One lesson of a kind, about a picture drawn from the pool: "lookup" (without one), "caption", "question", "direct", "teacher", "point", "point-teacher"."""
        if kind == "lookup":
            return lessons.lookup(rng)
        if kind in ("point", "point-teacher"):
            modality = str(rng.choice(list(MODALITIES)))
            (asked, picture), (misread, _) = self._place(rng, modality), self._place(rng, modality)
            return lessons.point(asked, picture) if kind == "point" else lessons.point_teacher(rng, asked, misread, picture)
        picture = int(rng.integers(len(self.pool.scenes)))
        scene = self.pool.scenes[picture]
        if kind == "teacher":
            other = self.pool.scenes[int(rng.choice(self.by_modality[scene.modality]))]
            return lessons.teacher(rng, scene, other, picture)
        return {"caption": lessons.caption, "question": lessons.question, "direct": lessons.direct}[kind](rng, scene, picture)

    def _place(self, rng: np.random.Generator, modality: str) -> tuple[Question, int]:
        """A place question, every cell that the pool shows as often as the others, and its picture."""
        cell = str(rng.choice(list(self.by_cell[modality])))
        picture = int(rng.choice(self.by_cell[modality][cell]))
        return lessons.place(rng, self.pool.scenes[picture], cell), picture


def completion_loss(policy: Policy, rows: Sequence[Row]) -> torch.Tensor:
    """Mean cross-entropy of the tokens to learn of all rows."""
    batch = policy.encoder.collate([ids for ids, _, _ in rows], [pixels for _, _, pixels in rows])
    hidden_TH = policy.prompt_hidden(batch)
    start_P = torch.tensor([start for _, start, _ in rows])
    learn_PL = (torch.arange(batch.ids_PL.shape[1]) >= start_P[:, None]) & batch.mask_PL.bool()
    learn_T = learn_PL[batch.mask_PL.bool()]
    logits = policy.model.lm_head(hidden_TH[:-1][learn_T[1:]])  # no prompt's first token is learnt
    return F.cross_entropy(logits, batch.ids_PL[learn_PL])


def written(encoder: Encoder, prompt: str, completion: str, cells: int) -> tuple[list[int], int]:
    """Ids of a user's turn and its completion, and where the completion begins; ``cells``: tokens of the turn's picture, 0 without one."""
    content = [{"type": "image"}] * (cells > 0) + [{"type": "text", "text": prompt}]
    text = encoder.tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
    asked, answered = (encoder.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (text, completion))
    asked = [i for token in asked for i in ([token] * cells if token == encoder.image_id else [token])]
    return asked + answered, len(asked)


def new_policy(seed: int) -> Policy:
    """The untrained model. The tokenizer is the one that ships, so that lessons may change and ids stay."""
    shipped = nano.BASE_DIR / "tokenizer.json"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(nano.BASE_DIR) if shipped.exists() else nano.build_tokenizer(lessons.corpus(seed, 400))
    encoder = Encoder(tokenizer, nano.build_image_processor(), load_image=Image.open)
    policy = Policy(nano.new_model(tokenizer, seed), encoder)
    policy.model.model.visual.set_attn_implementation(vision.NAME)
    vision.patch_embed_as_matmul(policy.model.model.visual)
    return policy


def optimizers(model: torch.nn.Module, others: Iterable[torch.nn.Parameter] = ()) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings, norms, biases and ``others``."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    inner = [p for n, p in named if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    ids = {id(p) for p in inner}
    rest = [*(p for _, p in named if id(p) not in ids), *others]
    return [
        Muon(inner, lr=1.0, weight_decay=0.02),
        torch.optim.AdamW(rest, lr=1.0, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def run(out: Path, config: NanoConfig) -> None:
    """Draw the pictures, run the stages, save the model to ``out``; the last finished stage is resumed from."""
    console = stderr()
    work = out.with_name(out.name + "-work")
    with output_errors(out):
        for folder in (work, out):  # the model's at once: its fault is not to show after an hour
            folder.mkdir(parents=True, exist_ok=True)
    pool = _cached(work / f"pool-{config.until(-1)}.npz", config, console)
    policy = new_policy(config.seed)
    with (work / "metrics.jsonl").open("a", encoding="utf-8") as log:

        def tell(row: dict[str, Any]) -> None:
            log.write(json.dumps(row) + "\n")
            log.flush()
            console.print(line(row), highlight=False)

        for number in range(len(config.stages)):
            done = work / f"stage-{number}-{config.until(number)}.safetensors"
            if done.exists():
                load_model(policy.model, done)
                continue
            train(config, number, Classroom(policy, pool), tell)
            save_model(policy.model, str(done))
    save(policy, out)


def train(config: NanoConfig, number: int, room: Classroom, log: Callable[[dict[str, Any]], None]) -> None:
    """One stage with optimisers of its own; ``log`` gets a row every 25 steps."""
    stage, model = config.stages[number], room.policy.model
    model.model.visual.requires_grad_(isinstance(stage, Sight) or stage.tower)
    if isinstance(stage, Sight):
        lectures = Lectures(room.policy, room.pool, config.seed)
        loss_of, opts = partial(lectures.loss, sight=stage), optimizers(model.model.visual, lectures.heads.parameters())
    else:
        loss_of, opts = partial(room.loss, stage=stage), optimizers(model)
    started = time.monotonic()
    for step in range(stage.steps):
        with torch.autocast(room.policy.device.type, torch.bfloat16, enabled=_multiplies_bfloat16(room.policy.device)):
            loss = loss_of(np.random.default_rng([config.seed, number, step]))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_([p for opt in opts for p in opt.param_groups[0]["params"]], 1.0)
        for opt in opts:
            opt.param_groups[0]["lr"] = stage.lr * shape(step / stage.steps)
            opt.step()
            opt.zero_grad()
        if step % 25 == 0:
            log({"stage": number, "step": step, "steps": stage.steps, "loss": loss.item(), "grad_norm": norm.item(), "seconds": time.monotonic() - started})


def _multiplies_bfloat16(device: torch.device) -> bool:
    """With AVX-512 it is 1.3 times as fast; without, emulated, six times as slow."""
    return device.type != "cpu" or bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def line(row: dict[str, Any]) -> str:
    """A row of ``train``'s log, for a person.

    >>> line({"stage": 1, "step": 25, "steps": 200, "loss": 0.81622, "grad_norm": 0.9, "seconds": 39.0})
    'stage 1 step 25 of 200 loss 0.816 · 39 s, 4 min left in this stage'
    """
    left_s = row["seconds"] / (row["step"] + 1) * (row["steps"] - row["step"] - 1)
    return (
        f"stage {row['stage']} step {row['step']} of {row['steps']} loss {row['loss']:.3f} · {row['seconds']:.0f} s, {left_s / 60:.0f} min left in this stage"
    )


def _cached(file: Path, config: NanoConfig, console: Console) -> Pool:
    if not file.exists():
        console.print(f"drawing {config.pictures} pictures")
        save_pool(make_pool(config.pictures, config.seed), file)
    return load_pool(file)


def shape(progress: float) -> float:
    """Warm up over 3 %, then fall linearly to a twentieth.

    >>> [round(shape(p), 3) for p in (0, 0.03, 0.515, 1)]
    [0.01, 1.0, 0.525, 0.05]
    """
    return max(0.01, progress / 0.03) if progress < 0.03 else 1 - 0.95 * (progress - 0.03) / 0.97


def save(policy: Policy, out: Path) -> None:
    """bf16 weights, tokenizer and processor files, in the Hugging Face layout."""
    policy.model.to(torch.bfloat16).save_pretrained(out)
    policy.encoder.tokenizer.save_pretrained(out)
    policy.encoder.image_processor.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
