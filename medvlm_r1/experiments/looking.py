"""The study of looking: does training with another patient's picture make a model look, and does it cost anything?

Every arm learns from ``phantom:text-shortcut``, whose texts give the answers away, or from ``phantom:mri``, where they do not, and
is asked the honest questions, those among them where the shortcut misleads, the reversed ones, and the shortcut's own with its own and
with another patient's picture. Early-stopped controls stand beside the contrast: they forget less, too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from medvlm_r1.audit.prior import TEXTS_LEARNT, TextPrior
from medvlm_r1.console import stderr
from medvlm_r1.data.phantom import sets
from medvlm_r1.data.views import arm_of
from medvlm_r1.evaluation.asking.run import EvalConfig
from medvlm_r1.evaluation.measuring.agreement import agreement
from medvlm_r1.evaluation.measuring.looking import look
from medvlm_r1.evaluation.measuring.seeds import by_seed
from medvlm_r1.evaluation.samples import Sample, read_samples, write_samples
from medvlm_r1.experiments import looking_picture
from medvlm_r1.experiments.shortcut import HONEST, SHORTCUT, facts
from medvlm_r1.experiments.study import MODALITIES, estimate, every_seed, points, test_questions, write
from medvlm_r1.launch import training
from medvlm_r1.launch.evaluating import evaluate_policy
from medvlm_r1.launch.loading import load_model
from medvlm_r1.reasoning import parse
from medvlm_r1.recipes import nano
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.types import Example

STEPS, REPORTS, FEW = 60, 0.5, 40
Values = Callable[[dict[str, list[Sample]]], list[float]]


@dataclass(frozen=True)
class Arm:
    """What is trained, and how long.

    >>> ARMS["contrast"].views["mismatch"]
    {'format': 1.0, 'accuracy': -1.0}
    """

    label: str
    data: str = SHORTCUT
    views: Mapping[str, dict[str, float]] = field(default_factory=lambda: nano.grpo().views)
    steps: int = STEPS
    rollouts: int = 8


CONTRAST, HALF, ANYONE = nano.contrast("mismatch"), nano.contrast("mismatch", weight=0.5), nano.contrast("anyone")
STRANGER, STRANGER_HALF = nano.contrast(), nano.contrast(weight=0.5)
CONSISTENT = {"image": nano.grpo().rewards | {"consistent": 1.0}}
ARMS = {
    "base": Arm("base", "", steps=0),
    "plain": Arm("plain"),
    "early": Arm("plain, half the steps", steps=STEPS // 2),
    "few": Arm("plain, G = 4", rollouts=4),
    "contrast": Arm("contrast, λ = 1", views=CONTRAST),
    "contrast-half": Arm("contrast, λ = 0.5", views=HALF),
    "anyone": Arm("control: contrast with any other patient", views=ANYONE),
    "consistent": Arm("plain, consistency rewarded", views=CONSISTENT),
    "plain-100": Arm("plain, 100 steps", steps=100),
    "contrast-100": Arm("contrast, λ = 1, 100 steps", views=CONTRAST, steps=100),
    "contrast-half-100": Arm("contrast, λ = 0.5, 100 steps", views=HALF, steps=100),
    "honest-plain": Arm("on honest questions: plain", HONEST),
    "honest-contrast": Arm("on honest questions: contrast, λ = 1", HONEST, CONTRAST),
    "honest-anyone": Arm("on honest questions: control, any other patient", HONEST, ANYONE),
    "stranger": Arm("contrast with strangers, λ = 1", views=STRANGER),
    "stranger-half": Arm("contrast with strangers, λ = 0.5", views=STRANGER_HALF),
    "honest-stranger": Arm("on honest questions: contrast with strangers, λ = 1", HONEST, STRANGER),
    "stranger-100": Arm("contrast with strangers, λ = 1, 100 steps", views=STRANGER, steps=100),
    "stranger-half-100": Arm("contrast with strangers, λ = 0.5, 100 steps", views=STRANGER_HALF, steps=100),
}
PAIRS = (
    ("contrast", "plain"), ("contrast", "early"), ("contrast", "few"), ("contrast-half", "plain"), ("anyone", "plain"), ("consistent", "plain"),
    ("contrast-100", "plain-100"), ("contrast-half-100", "plain-100"), ("honest-contrast", "honest-plain"), ("honest-anyone", "honest-plain"),
    ("stranger", "plain"), ("stranger", "early"), ("stranger", "few"), ("stranger-half", "plain"), ("stranger-half", "early"), ("stranger-half", "few"),
    ("stranger-100", "plain-100"), ("stranger-half-100", "plain-100"), ("stranger", "anyone"), ("honest-stranger", "honest-plain"),
)  # fmt: skip


class Questions(NamedTuple):
    """Questions, the arm that they are asked under, and how many answers to each are drawn beside the greedy one."""

    shown: str
    examples: list[Example]
    drawn: int = 0


@cache
def asked(is_trial: bool = False) -> dict[str, Questions]:
    """What every arm is asked; of each set the first few in a trial."""
    most = FEW if is_trial else None
    shortcut = sets.load("text-shortcut", "test")[:most]
    return {
        "honest": Questions("image", [e for modality in MODALITIES for e in sets.load(modality, "test")[:most]], drawn=1),
        "reversed": Questions("image", sets.load("text-reversed", "test")[:most]),
        "shortcut": Questions("image", shortcut),
        "other": Questions("mismatch", shortcut),
        "grey": Questions("blank", shortcut),
        "noise": Questions("noise", shortcut),
        "moved": Questions("counterfactual", shortcut),
    }


@cache
def misleading() -> frozenset[str]:
    """The honest questions in which a prior learnt from the shortcut points to a wrong option."""
    points = TextPrior(test_questions(), sets.load("text-shortcut", "train")).points(TEXTS_LEARNT)
    return frozenset(id for id, side in points.items() if side == "wrong")


def run(out: Path, seeds: int, jobs: int = 2, steps: int | None = None) -> str:
    """Train and ask what is missing; writes study.json, study.md and a picture, returns the table. ``steps``: a trial, so many in every run and few questions."""
    per_seed = every_seed(partial(under_seed, out, steps), {name: name for name in ARMS}, seeds, jobs)
    result = facts(seeds, "--looking") | results({name: list(found) for name, found in per_seed.items()})
    text = write(out, result, table(result))
    (out / "study.html").write_text(looking_picture.page(result), encoding="utf-8")
    return text


def under_seed(out: Path, steps: int | None, seed: int, name: str) -> dict[str, list[Sample]]:
    """Test -> what an arm answers, trained with this seed."""
    arm = shortened(ARMS[name], steps)
    return answers(out / f"seed-{seed}" / name, arm, seed, "nano", f"{arm.data}?split=train", asked(steps is not None))


def shortened(arm: Arm, steps: int | None) -> Arm:
    """The arm in a trial of so many steps."""
    return replace(arm, steps=min(arm.steps, steps or arm.steps))


def answers(folder: Path, arm: Arm, seed: int, base: str, data: str, tests: Mapping[str, Questions]) -> dict[str, list[Sample]]:
    """What an arm answers to each test: from its files, or by training and asking."""
    stderr().print(f"study: seed {seed}, {arm.label}")
    files = {name: folder / f"{name}.jsonl" for name in tests}
    if not all(file.exists() for file in files.values()):
        policy = load_model(_trained(folder / "run", arm, seed, base, data))
        for name, test in tests.items():
            config = EvalConfig("think", test.drawn, nano.MAX_TOKENS, seed, test.shown)
            write_samples(files[name], evaluate_policy(policy, test.examples, config, lambda done: None))
    return {name: read_samples(file) for name, file in files.items()}


def _trained(run_dir: Path, arm: Arm, seed: int, base: str, data: str) -> str:
    """Where the model is that an arm makes of ``base`` with these questions."""
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    if not arm.data:
        return base
    sampling = Sampling(n=arm.rollouts, max_tokens=nano.MAX_TOKENS)
    config = replace(nano.grpo(), model=base, data=data, views=dict(arm.views), steps=arm.steps, save_every=arm.steps, sampling=sampling, seed=seed)
    if not training.run(config, run_dir, resume=True):
        raise KeyboardInterrupt
    return str(training.trained_model(run_dir))


def _right(samples: Sequence[Sample]) -> list[float]:
    return [float(sample.correct) for sample in samples]


def _worth(found: dict[str, list[Sample]]) -> list[float]:
    """Own picture minus another patient's, by question."""
    other = {sample.id: sample.correct for sample in found["other"]}
    return [float(sample.correct) - other[sample.id] for sample in found["shortcut"] if sample.id in other]


# Column -> the questions that it is about, and the value of each: paired by question between arms, averaged over modalities.
MEASURES: dict[str, tuple[str, Values]] = {
    "honest": ("honest", lambda found: _right(found["honest"])),
    "honest, sampled": ("honest", lambda found: [sample.sampled_accuracy or 0.0 for sample in found["honest"]]),
    "prior-wrong": ("misled", lambda found: _right(_of("misled", found))),
    "reversed": ("reversed", lambda found: _right(found["reversed"])),
    "picture's worth": ("both", _worth),
}


def _of(questions: str, found: dict[str, list[Sample]]) -> list[Sample]:
    """The samples of the questions that a measure is about."""
    if questions == "misled":
        return [sample for sample in found["honest"] if sample.id in misleading()]
    if questions == "both":
        there = {sample.id for sample in found["other"]}
        return [sample for sample in found["shortcut"] if sample.id in there]
    return found[questions]


def results(arms: Mapping[str, Sequence[dict[str, list[Sample]]]]) -> dict[str, Any]:
    """Of every arm the means over seeds and what each seed did; of every pair the differences, with intervals of seeds and patients together."""
    paired = {f"{a} - {b}": {name: _difference(arms[a], arms[b], name) for name in MEASURES} for a, b in PAIRS}
    return {"arms": {name: _numbers(name, per_seed) for name, per_seed in arms.items()}, "paired": paired}


def _numbers(name: str, per_seed: Sequence[dict[str, list[Sample]]]) -> dict[str, Any]:
    told = [_told(name, found) for found in per_seed]
    estimates = {}
    for measure, (questions, value) in MEASURES.items():
        first = _of(questions, per_seed[0])
        found = estimate([value(one) for one in per_seed], [s.cluster for s in first], [s.modality for s in first])
        estimates[measure] = {"value": found.value, "ci95": found.ci95}
    return {"label": ARMS[name].label, "measures": estimates, "seeds": told}


def _told(name: str, found: dict[str, list[Sample]]) -> dict[str, Any]:
    """What is a ratio, or a share of something else than right answers, of one seed."""
    arms = {"image": found["shortcut"], "mismatch": found["other"], "blank": found["grey"], "noise": found["noise"]}
    judged = look(arms, [arm_of(view) for view in list(ARMS[name].views)[1:]])
    reports = {m: _mean([_reports(s) for s in found["honest"] if s.modality == m]) for m in MODALITIES}
    agrees = agreement(found["honest"])["agrees"]
    return {
        "own": _mean(_right(found["shortcut"])), "other": _mean(_right(found["other"])), "grey": _mean(_right(found["grey"])),
        "noise": _mean(_right(found["noise"])), "moved": _mean(_right(found["moved"])), "kept": _kept(found),
        "looking": judged.level, "reports": reports, "hardly_reports": min(reports.values()) < REPORTS, "contradicted": None if agrees is None else 1 - agrees,
    }  # fmt: skip


def _kept(found: dict[str, list[Sample]]) -> float:
    """The share of the lead over chance that is left with another patient's picture."""
    own, left = (sum(float(s.correct) - 1 / len(s.options) for s in samples) for samples in (_of("both", found), found["other"]))
    return left / own


def _reports(sample: Sample) -> float:
    return float("Finding:" in parse(sample.text, len(sample.options)).think)


def _difference(after: Sequence[dict[str, list[Sample]]], before: Sequence[dict[str, list[Sample]]], measure: str) -> dict[str, Any]:
    questions, value = MEASURES[measure]
    first = _of(questions, after[0])
    values_SN = [[x - y for x, y in zip(value(a), value(b), strict=True)] for a, b in zip(after, before, strict=True)]
    found = estimate(values_SN, [s.cluster for s in first], [s.modality for s in first])
    return {"mean_difference": found.value, "ci95": found.ci95, "p": found.p, "seeds": by_seed(values_SN, [s.modality for s in first])}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def table(result: dict[str, Any]) -> str:
    """Markdown: every arm by every measure, what it keeps and whether it still reports; then the differences."""
    head = [*MEASURES, "own → other", "kept %", "moved", "contradicted %", "seeds that hardly report"]
    lines = [f"| | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for arm in result["arms"].values():
        seeds = arm["seeds"]
        own, other, moved, keeps = (100 * _mean([seed[key] for seed in seeds]) for key in ("own", "other", "moved", "kept"))
        contradicted = [seed["contradicted"] for seed in seeds if seed["contradicted"] is not None]
        cells = [f"{100 * found['value']:.1f}" for found in arm["measures"].values()]
        cells += [f"{own:.0f} → {other:.0f}", f"{keeps:.0f}", f"{moved:.0f}", f"{100 * _mean(contradicted):.1f}" if contradicted else "–"]
        lines.append(f"| {arm['label']} | {' | '.join(cells)} | {sum(seed['hardly_reports'] for seed in seeds)} of {len(seeds)} |")
    lines += ["", f"| | {' | '.join(MEASURES)} |", "|---" * (len(MEASURES) + 1) + "|"]
    for name, found in result["paired"].items():
        a, b = (ARMS[side].label for side in name.split(" - "))
        lines.append(f"| {a}, minus {b} | {' | '.join(points(cell['mean_difference'], cell['ci95']) for cell in found.values())} |")
    return "\n".join(lines)
