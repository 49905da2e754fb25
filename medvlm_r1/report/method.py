"""What a paper reports beside the results: the flow of the questions, and how it was done, item by item (docs/reporting.md).

Everything is read from samples and settings; what an older evaluation did not record is said to be unknown.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medvlm_r1 import INTENDED_USE, __version__
from medvlm_r1.evaluation.asking.meanings import MEANINGS
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.files import digest
from medvlm_r1.reasoning import EXTRACTION, OPEN_EXTRACTION, TEMPLATES
from medvlm_r1.report.pages import drawn
from medvlm_r1.report.story import Story
from medvlm_r1.wording import NO_INTERVAL, modality_name, percent

UNKNOWN = "not recorded"
NAMES = {
    "medvlm-r1": "medvlm-r1", "python": "Python", "torch": "PyTorch", "transformers": "transformers", "tokenizers": "tokenizers", "numpy": "NumPy",
    "pillow": "Pillow",
}  # fmt: skip
CITE = (
    f"MedVLM-R1 maintainers. MedVLM-R1: reinforcement learning for medical vision-language models, and its honest evaluation. Version {__version__} "
    "(CITATION.cff). The method: Pan J, Liu C, Wu J, et al. MedVLM-R1: Incentivizing Medical Reasoning Capability of Vision-Language Models (VLMs) via "
    "Reinforcement Learning. arXiv:2502.19634, 2025. And the question set and the model, as their owners ask."
)
REFERENCE = "The answer that the question set gives; nobody read the pictures again, and how the set came to it is its owner's to say."
OF_PHANTOMS = "Known by construction: each picture is drawn from the facts that its question asks for."
MISSING = (
    "An answer that could not be had (a broken picture, a failed call) counts as wrong in accuracies and is left out of comparisons, on both sides. One that "
    "is cut off, holds no answer or abstains is an answer, and wrong. Nothing is imputed."
)
STATISTICS = (
    "Accuracy is the share of questions whose greedy answer is right; the mean weighs modalities equally. 95 % intervals move whole groups (patients) where "
    "they are named: of an accuracy Wilson's for as many items as have the groups' variance, of a difference Student's; with fewer than three groups there is "
    "none. p by sign flips of whole groups, adjusted by Holm; exact McNemar beside it, which takes questions as independent."
)
SUBGROUPS = "Modality and question type, as the question set names them; their intervals are not adjusted for their number."


@dataclass(frozen=True)
class Flow:
    """What became of the questions with options under one arm; ``compared``: in the paired difference to the own pictures.

    >>> Flow("nano", "blank", 300, 298, 1, {"answered": 290, "truncated": 7, "failed": 1}, 297).not_asked
    2
    """

    model: str
    arm: str
    eligible: int
    asked: int
    failed: int
    statuses: Mapping[str, int]
    compared: int | None = None

    @property
    def not_asked(self) -> int:
        """Eligible questions that the arm cannot ask: no other patient, no thought to swap."""
        return self.eligible - self.asked


def data_sha256(rows: Iterable[tuple[str, str, Sequence[str], str]]) -> str:
    """64 hex digits over ids, questions, options and right answers, in any order; pictures are not in it."""
    return digest("\n".join(sorted({json.dumps(row, ensure_ascii=False) for row in rows})))


def flows(story: Story) -> list[Flow]:
    """Every model under every arm, questions with options."""
    return [_flow(story, name, arm, samples) for name, arms in story.models.items() for arm, samples in arms.items()]


def _flow(story: Story, name: str, arm: str, samples: Sequence[Sample]) -> Flow:
    ids = {s.id for s in samples}
    against = story.numbers[name].arms[arm].against
    statuses: dict[str, int] = {}
    for sample in samples:
        statuses[sample.status] = statuses.get(sample.status, 0) + 1
    eligible = len({s.id for s in story.models[name]["image"]} | ids)
    failed = len({s.id for s in samples if s.status == "failed"})
    return Flow(story.label(name), arm, eligible, len(ids), failed, statuses, against["n"] if against else None)


def settings_of(story: Story, name: str) -> Mapping[str, Any]:
    """One model's own: under its name where the page is of several."""
    own = story.settings.get(name)
    return own if isinstance(own, Mapping) else story.settings


def items(story: Story) -> list[tuple[str, str]]:
    """(what, text), in the order of a paper's methods; what differs between models has a row for each."""
    shared: list[tuple[str, str]] = [
        ("Use", f"{INTENDED_USE} A program asked a model and read its answers; no person read a picture and nobody was treated."),
        ("Questions", _questions(story)),
        ("Eligible", _eligible(story)),
        ("Reference standard", OF_PHANTOMS if drawn(r for s in story.asked for r in s.images) == "Drawn phantoms, no patients." else REFERENCE),
    ]
    return [
        *shared,
        *_of_models(story),
        ("Reading of answers", f"By rule {EXTRACTION}" + (f", without options {OPEN_EXTRACTION}" if story.open else "") + "; no letter is guessed."),
        ("Missing data", MISSING),
        ("Statistics", STATISTICS),
        ("Sample size", _sample_size(story)),
        ("Subgroups", SUBGROUPS),
        ("How to cite", CITE),
    ]


def _made(story: Story, name: str) -> Mapping[str, Any]:
    found = settings_of(story, name).get("made")
    return found if isinstance(found, Mapping) else {}


def _questions(story: Story) -> str:
    asked = story.answers[story.trained]["image"]
    counts: dict[str, int] = {}
    for s in {s.id: s for s in asked}.values():
        counts[s.modality] = counts.get(s.modality, 0) + 1
    groups = {s.group for s in asked if s.group}
    source = settings_of(story, story.trained).get("data")
    hashes = _made(story, story.trained).get("sha256", {})
    said = ", ".join(f"{modality_name(m)} {n:,}" for m, n in counts.items())
    known = f"of {len(groups):,} groups (patients)" if groups else "without named groups (patients), so each counts as independent"
    texts = data_sha256((s.id, s.question, s.options, s.gold) for s in asked)
    return (
        f"{sum(counts.values()):,} ({said}) {known}" + (f", from {source}" if source else "") + ". "
        f"SHA-256 of ids, texts, options and answers: {texts}; of the pictures' pixels (of drawn ones, their names): {hashes.get('pictures', UNKNOWN)}."
    )


def _eligible(story: Story) -> str:
    read = _made(story, story.trained).get("read")
    if read is None:
        return f"All questions that the data names; what was left out when it was read: {UNKNOWN}."
    notes = "; ".join(read["notes"]) or "nothing was changed or left out"
    return f"All {read['questions']:,} questions that the data and its filter name. When it was read: {notes}."


def _of_models(story: Story) -> list[tuple[str, str]]:
    """One row where all models agree, else one for each."""
    texts: dict[str, dict[str, str]] = {}
    for name in story.models:
        for what, text in _of_model(story, name):
            texts.setdefault(what, {})[story.label(name)] = text
    rows = []
    for what, found in texts.items():
        agree = len(found) == len(story.models) and len(set(found.values())) == 1
        rows += [(what, next(iter(found.values())))] if agree else [(f"{what}, {label}", text) for label, text in found.items()]
    return rows


def _of_model(story: Story, name: str) -> list[tuple[str, str]]:
    settings, made = settings_of(story, name), _made(story, name)
    model, by = settings.get("model", story.label(name)), settings.get("answered_by")
    sha256 = made.get("sha256", {}).get("model", UNKNOWN)
    template = settings.get("template", UNKNOWN)
    sent = made.get("prompts") or ({"with options": TEMPLATES[template]} if template in TEMPLATES else {})
    limit = f"at most {settings['max_tokens']} tokens" if "max_tokens" in settings else f"most tokens: {UNKNOWN}"
    draws = max((len(s.sampled_answers) for s in story.answers[name]["image"]), default=0)
    inference = f"One greedy answer to a question{f', {draws} more at temperature 1 (seed 0)' if draws else ''}, {limit}"
    hardware, versions = made.get("hardware"), made.get("versions")
    return [
        (
            "Model",
            f"{model}{f' (answered by {by})' if by and by != model else ''}; numbers: {settings.get('dtype', UNKNOWN)}; SHA-256 of its files, 16 digits: {sha256}.",
        ),
        ("Inference", f"{inference}; arms: {', '.join(f'{arm} ({MEANINGS.get(arm, arm)})' for arm in story.answers[name])}."),
        *(
            (f"Prompt {kind}", f"Template {template}, as sent{'' if made.get('prompts') else ', but for the chat template'}:\n{text}")
            for kind, text in sent.items()
        ),
        *([] if sent else [("Prompt", UNKNOWN)]),
        ("Software", ", ".join(f"{NAMES.get(key, key)} {value}" for key, value in versions.items()) if versions else UNKNOWN),
        ("Hardware", _hardware(hardware) if hardware else UNKNOWN),
    ]


def _hardware(found: Mapping[str, Any]) -> str:
    """
    >>> _hardware({"processor": "Xeon", "cores": 2, "memory_gib": 15.6})
    'Xeon, 2 cores, 15.6 GiB of memory'
    """
    return (f"{found['gpu']}, " if found.get("gpu") else "") + f"{found['processor']}, {found['cores']} cores, {found['memory_gib']} GiB of memory"


def _sample_size(story: Story) -> str:
    """What the questions could have shown; whether that is enough, the authors say."""
    if not story.has_closed:
        return "As many questions as the set has; none was set beforehand."
    mean = story.numbers[story.trained].arms["image"].mean
    known = f"The accuracy is known to {percent((mean['ci95'][1] - mean['ci95'][0]) / 2)} points" if mean["ci95"] else f"The accuracy has {NO_INTERVAL}"
    said = [f"As many questions as the set has; none was set beforehand. {known}"]
    pairs = [(f"{story.label(c['after'])} − {story.label(c['before'])}", c["greedy"]) for c in story.comparisons]
    pairs += [(f"image − {arm}", of.against["greedy"]) for arm, of in story.numbers[story.trained].arms.items() if of.against]
    found = [f"{name} {percent(pair['minimum_detectable'])}" for name, pair in pairs if pair.get("minimum_detectable") is not None]
    if found:
        said.append(f"a true difference would have been found 4 times of 5 (α 0.05, Connor 1987, design effect in) from so many points on: {'; '.join(found)}")
    return "; ".join(said) + "."
