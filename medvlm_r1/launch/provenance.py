"""What a paper has to say of an evaluation beside its numbers: where and with what it ran, on which data, and what the model was sent.

It stands under "made" in the settings. No date: the same evaluation leaves the same summary.
"""

import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from medvlm_r1 import __version__
from medvlm_r1.data.images import content_hash, load_image, scheme_of
from medvlm_r1.errors import ImageError
from medvlm_r1.files import digest
from medvlm_r1.preflight.machine import hardware
from medvlm_r1.reasoning import render
from medvlm_r1.report.method import data_sha256
from medvlm_r1.types import Example, Prompt

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "pillow")
SHOWN = Example("", ("picture",), "{question}", ("{first option}", "{second option}"), "{first option}", "")
SHOWN_OPEN = Example("", ("picture",), "{question}", (), "{answer}", "")


@dataclass(frozen=True)
class Made:
    """What is known when all questions were asked.

    ``as_sent`` adds what the chat template puts around a prompt, None where a server does that; ``notes`` say what was
    cleaned or left out when the question set was read.

    >>> Made((), "think", None).model_sha256
    ''
    """

    examples: Sequence[Example]
    template: str
    as_sent: Callable[[Prompt], str] | None
    model_sha256: str = ""
    notes: Sequence[str] = ()


def made(known: Made) -> dict[str, Any]:
    """The record: machine, versions, hashes, prompts with placeholders in place of question and options, and what the reading left out."""
    hashes = {"model": known.model_sha256, "data": data_sha256((e.id, e.question, e.options, e.letter or e.answer) for e in known.examples)}
    pictures = images_sha256(reference for example in known.examples for reference in example.images)
    return {
        "hardware": hardware(),
        "versions": {"medvlm-r1": __version__, "python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
        "sha256": {name: value for name, value in (hashes | {"pictures": pictures}).items() if value},
        "prompts": prompts(known),
        "read": {"questions": len(known.examples), "notes": list(known.notes)},
    }


def prompts(known: Made) -> dict[str, str]:
    """What the model is sent, for each kind of question that there is.

    >>> prompts(Made([SHOWN], "direct", None))
    {'with options': '{question}\\nA) {first option}\\nB) {second option}\\nAnswer only.'}
    """
    kinds = {"with options": (SHOWN, any(e.options for e in known.examples)), "without options": (SHOWN_OPEN, any(not e.options for e in known.examples))}
    rendered = {kind: render(example, known.template) for kind, (example, is_there) in kinds.items() if is_there}
    return {kind: known.as_sent(prompt) if known.as_sent else prompt.text for kind, prompt in rendered.items()}


def images_sha256(references: Iterable[str]) -> str:
    """64 hex digits over the decoded pixels of all pictures, in any order, each once; those that cannot be opened are left out, "" without any.

    A drawn picture counts by its name, since name and version of this package decide every pixel.

    >>> images_sha256(["phantom:mri/test/0", "phantom:mri/test/0"]) == images_sha256(["phantom:mri/test/0", "no such.png"]) != ""
    True
    """
    hashes = {found for reference in dict.fromkeys(references) if (found := digest(reference) if scheme_of(reference) == "phantom" else _pixels(reference))}
    return digest("\n".join(sorted(hashes))) if hashes else ""


def _pixels(reference: str) -> str:
    try:
        return content_hash(load_image(reference))
    except ImageError:  # its question has failed, with this reason in its sample
        return ""
