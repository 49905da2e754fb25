"""``medvlm-r1 data``: convert a corpus, look into a question set, split it, make it harder, find where its texts mislead. Each command returns the text to print."""

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvlm_r1.commands.options import Commands, add, whole
from medvlm_r1.errors import ConfigError, MedVLMError, RunError

if TYPE_CHECKING:
    from medvlm_r1.data.dataset import Dataset

CORPORA = ("omnimedvqa", "huatuo-eval", "vqa-rad", "slake", "path-vqa", "pmc-vqa", "image-folder", "table")  # readers.CORPORA, without its imports
CHECKS = ("quick", "full", "none")

EXAMPLES = {
    "data": """
  medvlm-r1 data convert slake ./Slake1.0 data/slake
  medvlm-r1 data inspect data/slake
  medvlm-r1 data split data/slake data/slake-split --test 0.2""",
    "convert": """
  medvlm-r1 data convert omnimedvqa ./OmniMedVQA data/omnimedvqa
  medvlm-r1 data convert pmc-vqa ./PMC-VQA/test_2.csv data/pmc --check full
  medvlm-r1 data convert image-folder ./my-scans data/mine --copy      sub-folders named by label, or labels.csv
  medvlm-r1 data convert image-folder ./export data/mine --layout split/modality/label/patient
  medvlm-r1 data convert vqa-rad hub:flaviagiammarino/vqa-rad data/rad""",
    "inspect": """
  medvlm-r1 data inspect data/omnimedvqa
  medvlm-r1 data inspect "data/omnimedvqa?modality=mri" --json""",
    "split": """
  medvlm-r1 data split data/mine data/mine-split --test 0.2 --seed 1
  medvlm-r1 data split data/omnimedvqa data/paper --paper              600 MRI to train, the paper's 900 to test
  medvlm-r1 data split data/omnimedvqa data/paper --paper --test-set authors_900.json""",
    "harden": """
  medvlm-r1 data harden data/omnimedvqa data/omnimedvqa-hard
  medvlm-r1 data harden "data/mine?split=test" data/mine-hard --seed 1""",
    "prior-wrong": """
  medvlm-r1 data prior-wrong "data/mine?split=test" data/mine-misled --train "data/mine?split=train"
  medvlm-r1 data prior-wrong phantom:mri?split=test misled --train phantom:text-shortcut?split=train""",
}


def register(commands: Commands) -> None:
    """``data`` and its five commands."""
    top = add(commands, "data", "convert, inspect, split and harden question sets, find where their texts mislead", EXAMPLES["data"])
    actions = top.add_subparsers(dest="action", required=True, metavar="ACTION")
    sub = add(actions, "convert", "a corpus in its own layout becomes a manifest; wrong rows are rejected by id", EXAMPLES["convert"], run)
    sub.set_defaults(report=convert)
    sub.add_argument("corpus", metavar="CORPUS", choices=CORPORA, help=", ".join(CORPORA))
    sub.add_argument("src", metavar="SRC", type=Path, help="the corpus's folder, one of its tables, or hub:OWNER/NAME")
    sub.add_argument("out", metavar="OUT", type=Path, help="a new folder for manifest.jsonl, rejected.jsonl and report.json")
    sub.add_argument(
        "--check", choices=CHECKS, default="quick", help="how deep pictures are looked into: header and end, every pixel, not at all (default: %(default)s)"
    )
    sub.add_argument("--copy", action="store_true", help="copy the pictures to OUT/images; they are named where they lie if left out")
    sub.add_argument("--layout", default="", help="what each folder above a picture names, for image-folder: label/patient, modality/label, …")
    sub = add(actions, "inspect", "counts by modality, split, question type and options, and image sizes", EXAMPLES["inspect"], run)
    sub.set_defaults(report=inspect)
    sub.add_argument("data", metavar="D", help="a manifest, a folder with one, hub:OWNER/NAME, or phantom:mri")
    sub = add(actions, "split", "train and test parts that cut no group and no picture, with checksums", EXAMPLES["split"], run)
    sub.set_defaults(report=split)
    sub.add_argument("data", metavar="D", help="a manifest, or a folder with one")
    sub.add_argument("out", metavar="OUT", type=Path, help="a new folder for manifest.jsonl and split.json; use it as OUT?split=train")
    sub.add_argument("--test", type=float, default=0.2, metavar="SHARE", help="share of each modality for the test part (default: %(default)s)")
    sub.add_argument("--seed", type=whole(0), default=0, help="(default: %(default)s)")
    sub.add_argument("--paper", action="store_true", help="MedVLM-R1's own parts, out of a converted OmniMedVQA")
    sub.add_argument("--test-set", metavar="T", help="with --paper: take the 900 from this manifest, or from the authors' JSON file")
    sub = add(actions, "harden", "distractors drawn anew from answers to questions of the same modality and type", EXAMPLES["harden"], run)
    sub.set_defaults(report=harden)
    sub.add_argument("data", metavar="D", help="a manifest, a folder with one, hub:OWNER/NAME, or phantom:mri")
    sub.add_argument("out", metavar="OUT", type=Path, help="a new folder for manifest.jsonl")
    sub.add_argument("--seed", type=whole(0), default=0, help="(default: %(default)s)")
    sub = add(actions, "prior-wrong", "the questions whose option texts point to a wrong option", EXAMPLES["prior-wrong"], run)
    sub.set_defaults(report=prior_wrong)
    sub.add_argument("data", metavar="D", help="a manifest, a folder with one, hub:OWNER/NAME, or phantom:mri")
    sub.add_argument("out", metavar="OUT", type=Path, help="a new folder for manifest.jsonl")
    sub.add_argument("--train", metavar="D", help="what the text prior learns from, best what the model is trained on; the other questions if left out")
    for sub in actions.choices.values():
        sub.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print what the action says."""
    print(arguments.report(arguments))
    return 0


def convert(arguments: argparse.Namespace) -> str:
    """``data convert``: what came in, what stayed out and why, what is now there."""
    from medvlm_r1.data.convert import convert as converted

    with _writing(arguments.out):
        report = converted(arguments.corpus, arguments.src, arguments.out, arguments.check, arguments.copy, arguments.layout)
    if arguments.json:
        return json.dumps(report, indent=2)
    n_out = sum(report["rejected"].values())
    head = f"{report['questions']:,} questions from {report['rows']:,} rows, {n_out:,} rejected: {arguments.out / 'manifest.jsonl'}"
    where = [f"each by id in {arguments.out / 'rejected.jsonl'}"] if n_out else []
    return "\n".join([head, *table(report, ("rejected", "repaired", "modality", "split", "question_type", "options")), *where])


def inspect(arguments: argparse.Namespace) -> str:
    """``data inspect``: counts and image sizes."""
    from medvlm_r1.data.probe import size_of
    from medvlm_r1.data.summary import ids_sha256, image_sizes, summary

    examples = _load(arguments.data)
    found = summary(examples) | {"image_sizes": image_sizes(examples, size_of), "ids_sha256": ids_sha256(examples)}
    if arguments.json:
        return json.dumps(found, indent=2)
    head = f"{found['questions']:,} questions, {found['images']:,} pictures, {found['groups']:,} groups; ids {found['ids_sha256'][:16]}"
    sizes = found["image_sizes"]
    lines = [f"pictures                    {sizes['read']:,} read, {sizes['failed']:,} missing or broken"]
    if sizes["read"]:
        spans = (f"{name} {low} to {high} px, median {middle}" for name in ("width", "height") for low, middle, high in [sizes[name]])
        lines.append(f"sizes                       {', '.join(spans)}")
    return "\n".join([head, *table(found, ("modality", "split", "question_type", "options", "images_per_question", "source")), *lines])


def split(arguments: argparse.Namespace) -> str:
    """``data split``: each part with its checksum."""
    from medvlm_r1.data.split import paper_split, save
    from medvlm_r1.data.split import split as cut

    if arguments.test_set and not arguments.paper:
        raise ConfigError(f'--test-set "{arguments.test_set}" is for the paper\'s parts; add --paper, or drop it')
    examples = _load(arguments.data)
    if arguments.paper:
        parts = paper_split(examples, arguments.seed, _questions(arguments.test_set))
    else:
        parts = cut(examples, arguments.test, arguments.seed)
    with _writing(arguments.out):
        report = save(parts, arguments.out)
    if arguments.json:
        return json.dumps(report, indent=2)
    lines = [
        f"{name:<6} {part['questions']:>7,} questions, {part['groups']:,} groups ({', '.join(f'{n:,} {key}' for key, n in part['modality'].items())}); "
        f"content {part['content_sha256'][:16]}"
        for name, part in report.items()
    ]
    return "\n".join([*lines, f'use them as "{arguments.out}?split=train" and "{arguments.out}?split=test"'])


def harden(arguments: argparse.Namespace) -> str:
    """``data harden``: how many questions have new distractors, and how many could have none."""
    from medvlm_r1.audit import harden as hard

    made = hard.harden(_load(arguments.data), arguments.seed)
    with _writing(arguments.out):
        hard.save(made, arguments.out)
    path = arguments.out / "manifest.jsonl"
    if arguments.json:
        return json.dumps({"manifest": str(path), "questions": len(made.examples), "left_out": [e.id for e in made.left_out]}, indent=2)
    lines = [f"{len(made.examples):,} questions: {path}"]
    if made.left_out:
        lines.append(f"{len(made.left_out):,} left out, since their modality and type have no second answer, such as {made.left_out[0].id}")
    return "\n".join([*lines, f"see what is left to read off the texts: medvlm-r1 audit --data {arguments.out}"])


def prior_wrong(arguments: argparse.Namespace) -> str:
    """``data prior-wrong``: how many questions the option texts mislead in."""
    from medvlm_r1.audit.prior import misled
    from medvlm_r1.data.manifest import save_manifest

    examples = _load(arguments.data)
    found = misled(examples, _load(arguments.train) if arguments.train else None)
    with _writing(arguments.out):
        save_manifest(arguments.out, found)
    path = arguments.out / "manifest.jsonl"
    if arguments.json:
        return json.dumps({"manifest": str(path), "questions": len(found), "of": len(examples)}, indent=2)
    return f"{len(found):,} of {len(examples):,} questions: {path}\nwho answers these better than chance does not answer by the texts"


def table(counts: dict[str, Any], names: Sequence[str]) -> list[str]:
    """The named counts, one value a line, those that are empty left out.

    >>> table({"modality": {"ct": 2, "mri": 1200}, "rejected": {}, "split": {"": 1202}}, ("rejected", "modality", "split"))
    ['modality               1,200  mri', '                           2  ct', 'split                  1,202  (none)']
    """
    lines = []
    for name in names:
        ranked = sorted(counts[name].items(), key=lambda item: (-item[1], item[0]))
        labels = [name.replace("_", " ")] + [""] * len(ranked)
        lines += [f"{label:<20}{n:>8,}  {value or '(none)'}" for label, (value, n) in zip(labels, ranked, strict=False)]
    return lines


def _load(spec: str) -> "Dataset":
    """The question set, and word of what was cleaned in it."""
    from medvlm_r1.console import notice
    from medvlm_r1.data.dataset import load_dataset

    examples = load_dataset(spec)
    for note in examples.notes:
        notice(note)
    return examples


def _questions(spec: str | None) -> list[Any]:
    from medvlm_r1.data.convert import sift
    from medvlm_r1.data.readers import CORPORA as READERS

    if not spec:
        return []
    return sift(READERS["huatuo-eval"](Path(spec))).examples if spec.endswith(".json") else list(_load(spec))


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Turns the disk's errors into a RunError that names the file."""
    try:
        yield
    except MedVLMError:
        raise
    except OSError as error:
        raise RunError(f'"{error.filename or out}" cannot be used ({error.strerror or error}); choose another OUT, or free some space there') from error
