"""All checks of a question set together: what it measures, before any model is asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from medvlm_r1.audit.bias import balance, cues, never_gold, positions
from medvlm_r1.audit.duplicates import duplicates
from medvlm_r1.audit.giveaways import giveaways, groups_cut
from medvlm_r1.audit.prior import TextPrior, chance, separate
from medvlm_r1.audit.verdict import verdict
from medvlm_r1.console import notice
from medvlm_r1.data.dataset import load_dataset
from medvlm_r1.data.images import load_image
from medvlm_r1.data.parts import part_of
from medvlm_r1.errors import DataError
from medvlm_r1.types import Example
from medvlm_r1.wording import modality_name as name

Report = dict[str, Any]


@dataclass(frozen=True)
class AuditConfig:
    """How much text the prior learns from, how often, and which pictures are opened ("files", "all" or "none").

    >>> AuditConfig(draws=5)
    AuditConfig(train_size=600, draws=5, images='files')
    """

    train_size: int = 600
    draws: int = 20
    images: str = "files"


def sides(data: str, train: str | None) -> tuple[Sequence[Example], Sequence[Example] | None, dict[str, str | None]]:
    """The questions to audit, those trained on, and what to call them.

    Where no training set is named and ``data`` holds a part "train" among
    others, that part is what the others are held against.
    """
    examples = load_dataset(data)
    for note in examples.notes:
        notice(note)
    if train:
        learnt = load_dataset(train)
        if not separate(learnt, examples):
            raise DataError("no training question with options shows other pictures than those audited; name another --train, or leave it out")
        return examples, learnt, {"data": data, "train": train}
    parts = {is_train: [e for e in examples if (part_of(e.split) == "train") == is_train] for is_train in (False, True)}
    if not (parts[False] and parts[True]):
        return examples, None, {"data": data, "train": None}
    return parts[False], parts[True], {"data": f"{data}, all but split=train", "train": f"{data}, split=train"}


def audit(examples: Sequence[Example], train: Sequence[Example] | None, config: AuditConfig, done: Callable[[int], None] = lambda n: None) -> Report:
    """Every check, as plain numbers for JSON, and the verdict on them.

    Without ``train`` the text prior learns from other questions of the same
    modality, and nothing is said about a split; it does where all of ``train`` is about the audited pictures, too. ``done`` hears of every picture.
    """
    size, prior = config.train_size, TextPrior(examples, train if train and separate(train, examples) else None, config.draws)
    report: Report = {
        "questions": len(examples),
        "chance": chance(examples),
        "text_prior": prior.measure(size),
        "within": prior.own(size),
        "learning_curve": prior.curve(size),
        "transfer": prior.transfer(size),
        "positions": positions(examples),
        "cues": cues(examples),
        "never_gold": never_gold(examples),
        "balance": balance(examples),
        "leaks": giveaways(examples),
        "groups_cut": groups_cut(train or (), examples),
        "duplicates": duplicates(examples, train, load_image, config.images, done),
    }
    findings = verdict(report)
    return report | {"findings": findings, "verdict": " ".join(findings)}


def summary(report: Report) -> str:
    """The report for a terminal: the verdict, then chance and text prior by modality."""
    lines = [f"- {sentence}" for sentence in report["findings"]] + [""]
    lines.append(f"{'':<14}{'chance':>8}{'text prior':>12}   95 % interval")
    for modality, cell in report["text_prior"].items():
        low, high = (f"{100 * x:.1f}" for x in cell["ci95"])
        lines.append(f"{name(modality):<14}{100 * report['chance'][modality]:>8.1f}{100 * cell['accuracy']:>12.1f}   {low}–{high}")
    return "\n".join(lines)
