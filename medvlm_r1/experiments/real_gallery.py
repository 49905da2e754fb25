"""Ten answers of the real base beside the embedded model's, picked by hash and not by beauty, as a page of text: pictures of patients stay where they are."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medvlm_r1.data.dataset import load_dataset
from medvlm_r1.data.modality import DISPLAY
from medvlm_r1.evaluation.asking.run import EvalConfig
from medvlm_r1.evaluation.samples import Sample, read_samples
from medvlm_r1.experiments.real_verdict import TEMPLATE
from medvlm_r1.files import digest
from medvlm_r1.launch.evaluating import evaluate_policy
from medvlm_r1.launch.loading import load_model
from medvlm_r1.models import nano
from medvlm_r1.reasoning import parse
from medvlm_r1.recipes.nano import MAX_TOKENS
from medvlm_r1.training.identity import of_model
from medvlm_r1.types import LETTERS

SHOWN, MODALITIES = 10, ("mri", "ct", "xray")


def write(run: Path, file: Path) -> None:
    """The page about the answers in ``run``/samples-image.jsonl, the picture shown; the embedded model is asked the ten questions now."""
    chosen = picked(read_samples(run / "samples-image.jsonl"))
    questions = {example.id: example for example in load_dataset(str(run / "questions" / "test.jsonl"))}
    asked = [questions[sample.id] for sample in chosen]
    theirs = evaluate_policy(load_model("nano"), asked, EvalConfig(TEMPLATE, 0, MAX_TOKENS), lambda done: None)
    prints = [of_model(place)["model.safetensors"] for place in (run / "model", nano.BASE_DIR)]
    file.write_text(page(chosen, theirs, *prints), encoding="utf-8")


def picked(samples: Sequence[Sample], most: int = SHOWN) -> list[Sample]:
    """Those whose ids have the least hashes, whatever was answered, by modality."""
    chosen = sorted(samples, key=lambda sample: digest(sample.id))[:most]
    return sorted(chosen, key=lambda sample: MODALITIES.index(sample.modality))


def page(ours: Sequence[Sample], theirs: Sequence[Sample], our_print: str, their_print: str) -> str:
    """Markdown of the same questions answered by both, with no name of a file, a patient or a question."""
    right = [sum(sample.correct for sample in side) for side in (ours, theirs)]
    lines = [
        "# Ten answers", "",
        "Greedy answers of the base that speaks English ([real.md](real.md)) and of the embedded model ([nano.md](nano.md)), which has never seen a patient's picture or these",
        f"words, to the same questions of the go or no-go. Picked by the hash of the question's name, not by what was answered: of {len(ours)} the one has {right[0]} right, the other {right[1]}.",
        "The pictures are of patients and not ours to show. A thought is a template learnt from labels, no finding. Research use only, not for diagnosis.", "",
        f"Made by `medvlm-r1 real-base … --gallery FILE` of the weights `{our_print}` (real) and `{their_print}` (embedded; both as `training/identity.py` names them). It is not",
        "made anew when these change.",
    ]  # fmt: skip
    seen: Counter[str] = Counter()
    for one, other in zip(ours, theirs, strict=True):
        seen[one.modality] += 1
        options = " · ".join(f"{letter}) {option}" for letter, option in zip(LETTERS, one.options, strict=False))
        lines += ["", f"## {DISPLAY[one.modality]} {seen[one.modality]}", "", f"{one.question} {options}. Right: {one.gold}) {one.gold_text}", ""]
        lines += ["| | thought | answer | |", "|---|---|---|---|", _row("real", one), _row("embedded", other)]
    return "\n".join(lines) + "\n"


def _row(name: str, sample: Sample) -> str:
    thought = " ".join(parse(sample.text, len(sample.options)).think.split())
    said = f"{sample.answer}) {sample.options[LETTERS.index(sample.answer)]}" if sample.answer else f"none ({sample.status})"
    return f"| {name} | {_escaped(thought)} | {_escaped(said)} | {'right' if sample.correct else 'wrong'} |"


def _escaped(text: str) -> str:
    """
    >>> _escaped("a | b <unk>")
    'a \\\\| b &lt;unk>'
    """
    return text.replace("|", "\\|").replace("<", "&lt;")
