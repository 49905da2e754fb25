"""``medvlm-r1 ask``: one question about one picture or a study, with reasoning; the answer as text, JSON, DICOM SR or FHIR."""

import argparse
import json
import math
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medvlm_r1 import INTENDED_USE, __version__
from medvlm_r1.clinical import said
from medvlm_r1.clinical.record import plain
from medvlm_r1.commands.options import Commands, add, add_asking, whole
from medvlm_r1.console import notice
from medvlm_r1.errors import ConfigError
from medvlm_r1.reasoning import EXTRACTION
from medvlm_r1.recipes import presets
from medvlm_r1.wording import called

if TYPE_CHECKING:
    from medvlm_r1.rollout.answer import Answer

EXAMPLES = """
  medvlm-r1 ask --model nano scan.png "Which side is the lesion on?" --options left right both
  medvlm-r1 ask --model runs/mine/checkpoints/step-300 scan.png "What is abnormal?" --json
  medvlm-r1 ask --model nano before.dcm after.dcm "Which of the two is later?" --options first second
  medvlm-r1 ask --model nano study/ "Is there an effusion?" --options yes no --at-most 4 --window 40 400
  medvlm-r1 ask --model nano ct.dcm "Which side is the lesion on?" --options left right --sr answer.dcm --fhir answer.json
"""


def register(commands: Commands) -> None:
    """Pictures, a question, what may be answered, and where the answer goes."""
    sub = add(commands, "ask", "one question about one picture or several, with reasoning", EXAMPLES, run)
    add_asking(sub)
    sub.add_argument(
        "image", nargs="+", help="a PNG, JPEG, TIFF, BMP or DICOM file, a slice such as head.nii.gz#axis=2&slice=17, or a study's folder; one or several"
    )
    sub.add_argument("question")
    sub.add_argument("--options", nargs="+", default=[], metavar="TEXT", help="the possible answers, in order of their letters; free text if left out")
    sub.add_argument("--window", nargs=2, type=finite, metavar=("CENTER", "WIDTH"), help="how DICOM and NIfTI are windowed; the file's own if left out")
    sub.add_argument("--at-most", type=whole(1), metavar="N", help="of a folder's images so many, spread evenly; all, up to 16, if left out")
    sub.add_argument("--calibration", type=Path, metavar="FILE", help="what medvlm-r1 calibrate wrote; without it no confidence is told")
    sub.add_argument("--sr", type=Path, metavar="FILE", help="write the answer as a DICOM structured report, too (docs/clinical.md)")
    sub.add_argument("--fhir", type=Path, metavar="FILE", help="write it as a FHIR R4 bundle, too")
    sub.add_argument("--with-patient", action="store_true", help="file --sr and --fhir under the patient whom the images' header names; left empty without it")


def run(arguments: Namespace) -> int:
    """Reasoning, answer and option probabilities."""
    from medvlm_r1.launch import confidence, recording
    from medvlm_r1.launch.asking import load
    from medvlm_r1.rollout.told import question

    presets.apply(arguments)
    options, reports = tuple(arguments.options), {"--sr": arguments.sr, "--fhir": arguments.fhir}
    wanted = {option: path for option, path in reports.items() if path}
    if arguments.with_patient and not wanted:
        raise ConfigError("--with-patient is for --sr and --fhir; name one of them, or leave it out")
    # What cannot be asked, named or written need not wait for the model.
    example = question(arguments.image[0], arguments.question, options)
    shown = recording.Images(recording.images(arguments.image, arguments.window, arguments.at_most))
    for option, path in wanted.items():
        others = (other for name, other in wanted.items() if name != option)
        recording.require_writable(path, option, *shown.references, arguments.calibration, *others)
    if wanted:
        shown = recording.named(shown.references, arguments.with_patient)
    model = load(arguments.model, dtype=arguments.dtype, max_pixels=arguments.max_pixels)
    template = arguments.template or model.template(options)
    live = Live() if sys.stdout.isatty() and not arguments.json else None
    calibration = confidence.of(arguments.calibration, model, template) if arguments.calibration else None
    answer = model.ask(shown.references, arguments.question, options, template=template, max_tokens=arguments.max_tokens, seen=live)
    answer, judged = confidence.judged(answer, calibration)
    if arguments.json:
        known = {"image_sha256": recording.hashes(shown.references), "model": called(arguments.model), "version": __version__, "template": template}
        known |= {"confidence": judged.confidence, "calibrated_on": judged.calibrated_on, "threshold": judged.threshold}
        print(json.dumps(answer.to_dict() | known | {"extraction": EXTRACTION, "intended_use": INTENDED_USE}, indent=2))
    else:
        _tell(answer, arguments.options, live)
        if (sure := judged.reported) and sure.calibration and answer.answer:
            print(f"Confidence {sure.value:.1%}: {said.calibrated(sure.calibration)}")
        print(INTENDED_USE)
    if wanted:
        record = recording.record(model, shown, replace(example, images=shown.references), answer, template, judged.reported)
        for option, path in wanted.items():
            (recording.write_sr if option == "--sr" else recording.write_fhir)(record, path)
            notice(f"wrote {path}")
    return 0


def finite(text: str) -> float:
    """A number of a window.

    >>> finite("-600")
    -600.0
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"wants two numbers, such as 40 400, got {text}")
    return value


class Live:
    """Shows a thought in the terminal while it is written."""

    def __init__(self) -> None:
        self.shown = ""

    def __call__(self, text: str) -> None:
        """``text``: all that is written so far."""
        self.go_on(thought(text))

    def go_on(self, words: str) -> None:
        """Print what of these words is new; all of them where they are not those that stand there."""
        if not words:
            return
        if not self.shown:
            print("Reasoning  ", end="")
        elif not words.startswith(self.shown):
            print("\n           ", end="")
            self.shown = ""
        print(words[len(self.shown) :], end="", flush=True)
        self.shown = words


def thought(text: str) -> str:
    """As much of a thought as stands for sure: no half of a tag, and no half of a character.

    >>> [thought(text) for text in ("<thi", "<think>A nodule", "<think>A nodule.</th", "<think>A nodule.</think><answer>B", "<answer>B</answer>")]
    ['', 'A nodule', 'A nodule.', 'A nodule.', '']
    """
    return plain(text.partition("<think>")[2].partition("</think>")[0].partition("<")[0].rstrip("\ufffd"))


def _tell(answer: "Answer", options: list[str], live: Live | None) -> None:
    reasoning = plain(answer.reasoning)
    if live and live.shown:
        live.go_on(reasoning)
        print()
    else:
        print(f"Reasoning  {reasoning or '(none)'}")
    print(f"Answer     {f'{answer.answer}) ' if answer.answer else ''}{plain(answer.answer_text) or '(none)'}  [{answer.status}]")
    for warned in answer.warnings:
        print(f"Warning    {plain(warned.text)}")
    if not answer.answer_text:
        print(f"Wrote      {plain(answer.text)}")
    for (letter, p), option in zip(answer.option_probs.items(), options, strict=False):
        print(f"  {letter}) {option:<24} {p:6.1%}  {'█' * round(30 * p)}")
