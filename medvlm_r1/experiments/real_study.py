"""The study on the base that speaks English: what do letters alone teach it, about pictures of patients that nothing has asked it about?

Each arm learns from 600 MRI questions that the base has not seen; all are asked of fresh MRI, CT and X-ray, with their own picture,
a grey one and another patient's, and made to answer after half of their thought and after another's. ``docs/study.md`` has the plan.
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from medvlm_r1.config import changed, to_dict
from medvlm_r1.console import notice, stderr
from medvlm_r1.data.dataset import load_dataset
from medvlm_r1.data.leak import require_apart
from medvlm_r1.data.manifest import write_manifest
from medvlm_r1.errors import ConfigError, DataError, RunError
from medvlm_r1.evaluation.asking.arms import ARMS as SHOWN
from medvlm_r1.evaluation.asking.arms import FORCED, Asked
from medvlm_r1.evaluation.asking.run import EvalConfig
from medvlm_r1.evaluation.samples import Sample, read_samples, write_samples
from medvlm_r1.experiments import openrad, real_picture, real_told
from medvlm_r1.experiments.real_told import TESTS
from medvlm_r1.experiments.real_verdict import perplexity
from medvlm_r1.experiments.shortcut import facts
from medvlm_r1.experiments.study import MODALITIES, every_seed, write
from medvlm_r1.launch import training
from medvlm_r1.launch.evaluating import evaluate_policy
from medvlm_r1.launch.loading import load_model
from medvlm_r1.models.policy import Policy
from medvlm_r1.recipes.named import find
from medvlm_r1.training.grpo.trainer import GRPOConfig
from medvlm_r1.training.identity import of_model
from medvlm_r1.types import Example

PARTS = ("model/model.safetensors", "questions/all/manifest.jsonl", "questions/reserve.jsonl", "samples-image.jsonl", "settings.json", "verdict.json")


@dataclass(frozen=True)
class Sizes:
    """How much of everything; ``steps`` of GRPO, the early-stopped arm has half of them.

    >>> Sizes(steps=25).half, Sizes(steps=1).half
    (12, 1)
    """

    steps: int = 100
    sft_steps: int = 75
    train: int = 600  # questions that a seed trains on
    asked: int = 100  # of each modality, at most
    samples: int = 2  # drawn answers to each question; the base, which is asked once and not with every seed, gives twice as many
    max_tokens: int = 96
    grpo: dict[str, Any] = field(default_factory=dict)  # changes to its recipe, such as {"update.loss.kl_beta": 0}
    without: tuple[str, ...] = ()  # arms left out

    @property
    def half(self) -> int:
        """Steps of the early-stopped arm."""
        return max(1, self.steps // 2)


@dataclass(frozen=True)
class Arm:
    """What is trained, by which recipe, how it is asked, and whether it is the checkpoint half way.

    >>> ARMS["early"].recipe == ARMS["grpo"].recipe, ARMS["early"].is_half
    (True, True)
    """

    label: str
    kind: str = ""  # "grpo" | "sft" | "" for the base
    recipe: str = "real"
    template: str = "think"
    is_half: bool = False


ARMS = {
    "base": Arm("base, asked to think"),
    "base-direct": Arm("base, asked for the letter", template="direct"),
    "sft": Arm("SFT on letters", "sft", template="direct"),
    "grpo": Arm("GRPO (format + accuracy)", "grpo"),
    "early": Arm("GRPO, half the steps", "grpo", is_half=True),
    "contrast": Arm("GRPO with the contrast, λ = 1", "grpo", "real-looking"),
}


@dataclass(frozen=True)
class Material:
    """The base, what all arms are asked, what each seed trains on, and how much of it.

    >>> Material("runs/real/model", [], (), Sizes()).sizes.train
    600
    """

    base: str
    test: list[Example]
    train: tuple[str, ...]
    sizes: Sizes


Answers = dict[str, list[Sample]]  # test -> samples
Found = tuple[Answers, float]  # and the perplexity of held English


def chosen(without: Sequence[str]) -> dict[str, Arm]:
    """The arms, without these. Raises ConfigError for one that is unknown, and for the two that the study is about.

    >>> list(chosen(["contrast", "early"]))
    ['base', 'base-direct', 'sft', 'grpo']
    """
    if wrong := [name for name in without if name not in ARMS or name in ("base", "grpo")]:
        raise ConfigError(f'"without" names {wrong[0]}; arms that can be left out are {", ".join(name for name in ARMS if name not in ("base", "grpo"))}')
    return {name: arm for name, arm in ARMS.items() if name not in without}


def run(base: Path, out: Path, seeds: int, jobs: int = 2, sizes: Sizes = Sizes()) -> str:
    """Do what is missing of the study on the base that ``real-base`` left in ``base``; returns the tables as Markdown, also kept in ``out``."""
    verdict, arms = _verdict(base), chosen(sizes.without)
    made = of_model(base / "model")["model.safetensors"]
    openrad.require_same(out, {"base": made, "sizes": to_dict(replace(sizes, without=()))})  # what was left out can follow
    test, told = fresh(base, out, sizes.asked)
    reserve = load_dataset(str(base / "questions" / "reserve.jsonl"))
    train = tuple(openrad.drawn(out, reserve, seed, sizes.train) for seed in range(seeds))
    material = Material(str(base / "model"), test, train, sizes)
    found = {name: [_of_arm(out / "base", name, material, 0)] for name, arm in arms.items() if not arm.kind}
    found |= every_seed(partial(_under_seed, out, material), {name: (arm.kind, arm.recipe) for name, arm in arms.items() if arm.kind}, seeds, jobs)
    given = {"base": {"digest": made, "go": verdict["go"], "english": verdict["english"]}, "sizes": to_dict(sizes), "data": told}
    result = (
        facts(seeds, f"--real RUN{_sets(sizes)}") | given | real_told.results({name: (arm.label, arm.template == "think") for name, arm in arms.items()}, found)
    )
    text = write(out, result, real_told.table(result))
    (out / "study.html").write_text(real_picture.page(result), encoding="utf-8")
    return text


def _sets(sizes: Sizes) -> str:
    """What the command says of sizes that are not the default.

    >>> print(_sets(Sizes(steps=50, without=("contrast",))).strip())
    --set steps=50 --set 'without=["contrast"]'
    """
    usual = to_dict(Sizes())
    return "".join(f" --set {shlex.quote(f'{key}={json.dumps(value)}')}" for key, value in to_dict(sizes).items() if value != usual[key])


def _verdict(base: Path) -> dict[str, Any]:
    """Of a finished run. Raises RunError for anything else."""
    if missing := next((part for part in PARTS if not (base / part).exists()), None):
        raise RunError(f'"{base}" holds no finished base ("{missing}" is missing); build one with medvlm-r1 real-base "{base}" --pictures DIR')
    verdict = dict(json.loads((base / "verdict.json").read_text(encoding="utf-8")))
    if not verdict["go"]:
        notice(f"warning: the verdict on {base} is no go (verdict.json); whatever this study finds rests on a base that was found wanting")
    return verdict


def fresh(base: Path, out: Path, most: int) -> tuple[list[Example], dict[str, Any]]:
    """What all arms are asked, of ``unseen`` as ``level`` cuts it; and how many there are, and fell. Kept in ``out``/questions."""
    file, said = out / "questions" / "fresh.jsonl", out / "questions" / "facts.json"
    if not said.exists():
        side_px = json.loads((base / "settings.json").read_text(encoding="utf-8"))["side"]
        examples, dropped = unseen(base)
        kept = [openrad.squeezed(e, out / "questions" / "pictures", side_px) for e in level(examples, most)]
        write_manifest(file, kept)
        said.write_text(json.dumps({"asked": openrad.labels(kept), "dropped": dropped}, indent=2) + "\n", encoding="utf-8")
    return list(load_dataset(str(file))), json.loads(said.read_text(encoding="utf-8"))


def unseen(base: Path) -> tuple[list[Example], dict[str, Any]]:
    """The questions of the test part about pictures that neither training nor the verdict has seen, and how many fell.

    A picture is out that has a twin, or whose group has another, among either.
    """
    train, test = openrad.sides(load_dataset(str(base / "questions" / "all")))
    judged = {sample.id for sample in read_samples(base / "samples-image.jsonl")}
    clean, by_training = openrad.without_trained(train, test)
    seen, rest = ([e for e in clean if (e.id in judged) is side] for side in (True, False))
    found, by_verdict = openrad.without_trained(seen, rest)
    require_apart([*train, *seen], found)
    return found, {"asked_by_the_verdict": len(seen), "like_training": by_training, "like_the_verdict": by_verdict}


def level(examples: list[Example], most: int) -> list[Example]:
    """At most so many questions of each modality, each label as often as the rarest: who prefers one gains nothing by it. Raises DataError where a modality has none.

    >>> rows = [Example(f"{m}{n}", (), "Which?", ("a", "b"), "aab"[n % 3], m) for m in ("mri", "ct", "xray") for n in range(9)]
    >>> [sorted(e.answer for e in level(rows, most) if e.modality == "ct") for most in (99, 3)]
    [['a', 'a', 'a', 'b', 'b', 'b'], ['a', 'b']]
    """
    there = openrad.labels(examples)
    if missing := next((modality for modality in MODALITIES if modality not in there), None):
        raise DataError(f"nothing fresh is left to ask about {missing}: all pictures of the test part, or ones like them, were seen; add some to the folder")
    return [e for m, of in there.items() for e in openrad.even([e for e in examples if e.modality == m], min(most, len(of) * min(of.values())))]


def _under_seed(out: Path, material: Material, seed: int, name: str) -> Found:
    return _of_arm(out / f"seed-{seed}", name, material, seed)


def _of_arm(folder: Path, name: str, material: Material, seed: int) -> Found:
    """From its files, or by training and asking."""
    arm, english = ARMS[name], folder / name / "english.json"
    if not english.exists():
        stderr().print(f"study: {folder.name}, {arm.label}", highlight=False)
        policy = load_model(_trained(folder, arm, material, seed))
        ask(policy, arm, material, seed, english.parent)
        english.write_text(json.dumps(perplexity(policy)) + "\n", encoding="utf-8")
    there = {shown: english.parent / f"{shown}.jsonl" for shown in TESTS}
    return {shown: read_samples(file) for shown, file in there.items() if file.exists()}, json.loads(english.read_text(encoding="utf-8"))


def _trained(folder: Path, arm: Arm, material: Material, seed: int) -> str:
    """Where the arm's model is. The rate does not fall, so that half way is where a run of half the steps would have ended."""
    if not arm.kind:
        return material.base
    sizes, run_dir = material.sizes, folder / f"{arm.kind}-{arm.recipe}"
    config = replace(find(arm.recipe, arm.kind), model=material.base, data=material.train[seed], seed=seed)
    if isinstance(config, GRPOConfig):
        config = replace(config, steps=sizes.steps, save_every=sizes.half, sampling=replace(config.sampling, max_tokens=sizes.max_tokens))
        config = changed(config, sizes.grpo)
    else:
        config = replace(config, steps=sizes.sft_steps, save_every=sizes.sft_steps)
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    if not training.run(config, run_dir, resume=True):
        raise KeyboardInterrupt
    return str(run_dir / "checkpoints" / f"step-{steps_behind(arm, sizes)}")


def steps_behind(arm: Arm, sizes: Sizes) -> int:
    """Of which checkpoint an arm's model is.

    >>> [steps_behind(ARMS[name], Sizes()) for name in ("sft", "grpo", "early")]
    [75, 100, 50]
    """
    return sizes.sft_steps if arm.kind == "sft" else sizes.half if arm.is_half else sizes.steps


def ask(policy: Policy, arm: Arm, material: Material, seed: int, out: Path) -> None:
    """Write what it answers to each test that is not there yet; without those that can ask nothing, as where there is no thought to change."""
    out.mkdir(parents=True, exist_ok=True)
    sizes, answered = material.sizes, dict[str, Sample]()
    for shown in TESTS:
        file = out / f"{shown}.jsonl"
        if not file.exists() and (shown not in FORCED or SHOWN[shown](Asked(material.test, arm.template, answered))):
            drawn = 0 if shown != "image" else sizes.samples if arm.kind else 2 * sizes.samples
            config = EvalConfig(arm.template, drawn, sizes.max_tokens, seed, shown)
            write_samples(unfinished := file.with_suffix(".partial"), evaluate_policy(policy, material.test, config, lambda done: None, answered))
            unfinished.rename(file)
        if shown == "image":
            answered = {sample.id: sample for sample in read_samples(file)}


def trial(sizes: Sizes, steps: int) -> Sizes:
    """The same with so many steps in every run and few questions, to see whether all works.

    >>> trial(Sizes(), 1).asked
    6
    """
    return replace(sizes, steps=steps, sft_steps=steps, asked=min(sizes.asked, 6), max_tokens=min(sizes.max_tokens, 24))
