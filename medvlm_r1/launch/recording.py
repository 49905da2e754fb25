"""From what ``ask`` was told and answered to the record that reports are made of, and to the files that hold them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from medvlm_r1 import __version__
from medvlm_r1.clinical.bundle import bundle
from medvlm_r1.clinical.record import Confidence, ModelIdentity, Record, Shown, asked_by
from medvlm_r1.data.images import PLACED, content_hash, kind_of, load_image, place
from medvlm_r1.data.study import Instance, Patient, images_in, instance, patient
from medvlm_r1.errors import ConfigError, DataError, ImageError, install
from medvlm_r1.files import output_errors, require_other
from medvlm_r1.launch.answering import model_sha256
from medvlm_r1.launch.asking import Model
from medvlm_r1.models.families import locate
from medvlm_r1.rollout.answer import Answer
from medvlm_r1.types import Example
from medvlm_r1.wording import called, decimal

MANY = 16  # images of a folder; more are asked about by mistake


@dataclass(frozen=True)
class Images:
    """The images of a question, as references and, where a report is to name them, by their UIDs. ``patient``: whose they are, if that is to stand in it.

    >>> Images(("scan.png",)).instances
    ()
    """

    references: tuple[str, ...]
    instances: tuple[Instance, ...] = ()
    patient: Patient = Patient()


def images(named: Sequence[str], window: Sequence[float] | None = None, at_most: int | None = None) -> tuple[str, ...]:
    """The references of files and of a study's folders, each through ``window`` (center, width) if there is one.

    Raises DataError or ImageError for a folder of nothing or of too much, and for a window on what has none.

    >>> images(["ct.dcm#frame=3", "head.nii.gz"], (40, 400))
    ('ct.dcm#frame=3&center=40&width=400', 'head.nii.gz#center=40&width=400')
    """
    found: list[str] = []
    for name in named:
        found += _of_folder(Path(name), at_most) if Path(name).is_dir() else [name]
    return tuple(_windowed(reference, *window) if window else reference for reference in found)


def named(references: tuple[str, ...], with_patient: bool) -> Images:
    """The same, to be named in a report. Raises ImageError for a picture without UIDs, DataError for those of two patients."""
    found = tuple(instance(reference) for reference in references)
    known = patient(references)  # two patients are refused, whoever they are
    return Images(references, found, known if with_patient else Patient())


def record(model: Model, shown: Images, example: Example, answer: Answer, template: str, confidence: Confidence | None = None) -> Record:
    """All that a report is made of; asked now. ``confidence``: what calibration makes of the answer's probability, if anything."""
    size = (f"max_pixels={model.max_pixels}",) if model.max_pixels else ()
    keys = [place(reference)[1] for reference in shown.references]
    windows = {f"window={found['center']},{found['width']}": None for found in keys if "center" in found}
    frames = [int(found.get("frame", 0)) if known.number_of_frames > 1 else None for found, known in zip(keys, shown.instances, strict=True)]
    return Record(
        question=example.question,
        options=example.options,
        images=tuple(Shown(*row) for row in zip(shown.instances, frames, hashes(shown.references), strict=True)),
        status=answer.status,
        answer=answer.answer or "",
        answer_text=answer.answer_text,
        model=ModelIdentity(called(model.name), __version__, model_sha256(locate(model.name)), (*asked_by(template, model.dtype), *size, *windows)),
        asked_at=datetime.now(UTC).replace(microsecond=0),
        confidence=confidence,
        warnings=tuple(warned.text for warned in answer.warnings),
        reasoning=answer.reasoning,
        patient=shown.patient,
    )


def hashes(references: Sequence[str]) -> list[str]:
    """SHA-256 of each decoded picture: what the model was given, whatever file it came from."""
    return [content_hash(load_image(reference)) for reference in references]


def require_writable(path: Path, option: str, *given: str | Path | None) -> None:
    """Raises ConfigError before anything is asked, where the report could not be written, or would replace what is ``given``."""
    require_other(path, option, *given)
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f'{option} "{path}" {"is a folder; name a file in it" if path.is_dir() else "lies in no folder that is there; make it first"}')
    if option == "--sr":
        _report()


def write_sr(found: Record, path: Path) -> None:
    """DICOM SR."""
    _write(_report()(found), path, "--sr")


def write_fhir(found: Record, path: Path) -> None:
    """A FHIR R4 bundle as JSON."""
    _write(json.dumps(bundle(found), indent=2, ensure_ascii=False).encode(), path, "--fhir")


def _report() -> Callable[[Record], bytes]:
    try:
        from medvlm_r1.clinical.report import structured_report
    except ModuleNotFoundError as error:
        raise ConfigError(f"--sr needs {error.name}; {install('highdicom')}") from error
    return structured_report


def _write(content: bytes, path: Path, option: str) -> None:
    """The whole of it or nothing: a file that is there already stays until then."""
    half = path.with_name(f".{path.name}.half")
    with output_errors(path, option):
        half.write_bytes(content)
        half.replace(path)


def _of_folder(folder: Path, at_most: int | None) -> list[str]:
    found = images_in(folder, at_most)
    if at_most is None and len(found) > MANY:
        raise DataError(f'folder "{folder}" holds {len(found)} images; --at-most 8 asks about 8 of them, spread evenly, or name those that matter')
    return found


def _windowed(reference: str, center: float, width: float) -> str:
    name, keys = place(reference)
    if kind_of(Path(name)) not in PLACED:
        raise ImageError(f'image "{reference}" has no window to set (it is no DICOM or NIfTI file); leave out --window')
    if "center" in keys or "width" in keys:
        raise ImageError(f'image "{reference}" has a window of its own; leave that or --window out')
    return f"{reference}{'&' if keys else '#'}center={decimal(center).removesuffix('.0')}&width={decimal(width).removesuffix('.0')}"
