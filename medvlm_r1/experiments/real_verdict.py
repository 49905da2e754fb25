"""Is the real base good enough to be trained further, and has it kept its English? The project's own evaluation, four conditions, one table."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from medvlm_r1.evaluation.asking.run import EvalConfig
from medvlm_r1.evaluation.measuring import metrics
from medvlm_r1.evaluation.samples import Sample, write_samples
from medvlm_r1.experiments.openrad import TRAINED_ON, of_each
from medvlm_r1.launch.evaluating import evaluate_policy
from medvlm_r1.models.policy import Policy
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.engines import local
from medvlm_r1.types import Example

ARMS = ("image", "blank", "mismatch")
TEMPLATE = "think"
HELD = (  # our own words, in no lesson
    "The kitchen was cold in the morning, so she lit the stove before she woke the children. Outside, snow had covered the path to the gate, and the postman "
    "had left the letters in the box by the road. One of them was from her brother, who wrote that he would come home in spring.",
    "A bridge carries its own weight and the weight of whatever crosses it. Engineers therefore ask two questions: how strong is each part, and what happens if "
    "one of them fails? A good design has more than one path for the load, so that a single broken beam does not bring down the whole.",
    "Blood leaves the right side of the heart, takes up oxygen in the lungs and returns to the left side, which pumps it through the body. When the left side "
    "grows weak, fluid can collect in the lungs, and the patient is short of breath, above all when lying flat.",
)  # fmt: skip


@dataclass(frozen=True)
class Bar:
    """What is asked of the modality that is trained on: greedy accuracy, how far sampled answers are below it, and how many questions decide.

    >>> Bar().greedy
    0.7
    """

    greedy: float = 0.70
    below: float = 0.10
    asked: int = 60  # of each modality, each label as often as any other
    samples: int = 4
    max_tokens: int = 96


def ask(policy: Policy, test: Sequence[Example], bar: Bar, seed: int, out: Path) -> dict[str, Any]:
    """Ask under each arm, keep the samples, and judge."""
    asked = of_each(test, bar.asked)
    arms: dict[str, list[Sample]] = {}
    for arm in ARMS:
        config = EvalConfig(TEMPLATE, bar.samples if arm == "image" else 0, bar.max_tokens, seed, arm)
        arms[arm] = evaluate_policy(policy, asked, config, lambda done: None)
        write_samples(out / f"samples-{arm}.jsonl", arms[arm])
    return judged({arm: metrics.arm_table(samples) for arm, samples in arms.items()}, metrics.chance(arms["image"]), bar)


def judged(arms: dict[str, Any], chance: dict[str, Any], bar: Bar) -> dict[str, Any]:
    """The numbers, each condition with whether it holds, and "go" where all do.

    An arm is at chance where the interval of its accuracy does not lie above it.

    >>> arm = lambda accuracy, low, **more: {"mri": {"accuracy": accuracy, "ci95": [low, 1.0], **more}}
    >>> found = judged({"image": arm(0.8, 0.7, sampled=0.65), "blank": arm(0.3, 0.2), "mismatch": arm(0.4, 0.3)}, {"mri": {"accuracy": 0.25}}, Bar())
    >>> found["conditions"], found["go"]
    ({'greedy': True, 'sampled': True, 'blank': True, 'mismatch': False}, False)
    """
    of, by_luck = {arm: table[TRAINED_ON] for arm, table in arms.items()}, chance[TRAINED_ON]["accuracy"]
    conditions = {
        "greedy": of["image"]["accuracy"] >= bar.greedy,
        "sampled": of["image"]["accuracy"] - of["image"]["sampled"] >= bar.below,
        **{arm: of[arm]["ci95"][0] <= by_luck for arm in ("blank", "mismatch")},
    }
    return {"go": all(conditions.values()), "conditions": conditions, "arms": arms, "chance": chance}


def table(found: dict[str, Any]) -> str:
    """For a person: greedy / sampled with its interval by arm and modality, the conditions, the English."""
    modalities = [name for name in found["arms"]["image"] if name != "mean"]
    lines = ["| | " + " | ".join(modalities) + " |", "|---" * (len(modalities) + 1) + "|"]
    lines.append("| chance | " + " | ".join(f"{100 * found['chance'][m]['accuracy']:.1f}" for m in modalities) + " |")
    for arm, cells in found["arms"].items():
        lines.append(f"| {arm} | " + " | ".join(_cell(cells[m]) for m in modalities) + " |")
    said = ", ".join(f"{name} {'holds' if holds else 'does not hold'}" for name, holds in found["conditions"].items())
    english = found["english"]
    lines += ["", f"{'GO' if found['go'] else 'NO GO'} on {TRAINED_ON}: {said}"]
    return "\n".join([*lines, f"perplexity of held English: {english['before']:.1f} before, {english['after']:.1f} after"])


def _cell(cell: dict[str, Any]) -> str:
    low, high = (100 * bound for bound in cell["ci95"])
    sampled = f", sampled {100 * cell['sampled']:.1f}" if cell.get("sampled") is not None else ""
    return f"{100 * cell['accuracy']:.1f} ({low:.0f}–{high:.0f}){sampled}"


@torch.no_grad()
def perplexity(policy: Policy, texts: Sequence[str] = HELD) -> float:
    """Of texts, by token; each token's but the first."""
    ids = [policy.encoder.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    losses = []
    for row in ids:
        hidden_TH = policy.prompt_hidden(policy.encoder.collate([row], [[]]))
        losses.append(F.cross_entropy(policy.model.lm_head(hidden_TH[:-1]).float(), torch.tensor(row[1:]), reduction="sum").item())
    return math.exp(sum(losses) / sum(len(row) - 1 for row in ids))


def own_answers(policy: Policy, questions: Sequence[str], file: Path, max_tokens: int = 48) -> list[tuple[str, str, bool]]:
    """(question, the model's own greedy answer, whether it ended); kept in ``file``, so that they stay those of the untrained model."""
    if not file.exists():
        prompts = [render(Example(f"own-{n}", (), question, (), "", ""), "plain") for n, question in enumerate(questions)]
        answers = [group[0] for group in local(policy).generate(prompts, Sampling(1, 0.0, max_tokens))]
        rows = [[question, answer.text, answer.finished] for question, answer in zip(questions, answers, strict=True)]
        file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return [(question, answer, ended) for question, answer, ended in json.loads(file.read_text(encoding="utf-8"))]
