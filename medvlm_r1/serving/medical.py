"""What is said of an answer beside its letter: how sure, by which measure, of which picture, and why not to believe it."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from medvlm_r1 import INTENDED_USE
from medvlm_r1.clinical.record import Confidence
from medvlm_r1.reasoning import EXTRACTION, OPEN_EXTRACTION
from medvlm_r1.rollout.told import CONTRADICTED, Told, Warned
from medvlm_r1.serving.calibrated import Calibration, reported
from medvlm_r1.serving.wire import Ask, Said
from medvlm_r1.types import LETTERS


@dataclass(frozen=True)
class Judged:
    """An answer as it may be shown. ``confidence`` is None where nothing was measured, or the answer is contradicted."""

    told: Told
    option_probs: dict[str, float]
    confidence: float | None
    calibrated_on: dict[str, Any] | None
    threshold: float | None

    @property
    def reported(self) -> Confidence | None:
        """The confidence as reports have it."""
        return reported(self.confidence, self.calibrated_on)


def judge(told: Told, said: Said, calibration: Calibration | None) -> Judged:
    """Below the calibration's threshold there is no answer; a contradicted one is given no number at all."""
    if told.status == CONTRADICTED:
        return Judged(told, {}, None, None, None)
    probs = dict(zip(LETTERS, said.probs, strict=False))
    if calibration is None or told.answer not in probs:
        return Judged(told, probs, None, None, calibration.threshold if calibration else None)
    block = calibration.block(probs[told.answer])
    share, on = (0.0, None) if block is None else (block.share, calibration.said(block))
    if share < calibration.threshold:
        measured = "No answer as unsure as this one was measured" if block is None else f"Of {block.n} answers with such a probability {share:.0%} were right"
        why = Warned("below-threshold", f"{measured}, and {calibration.threshold:.0%} is wanted.")
        told = replace(told, answer=None, answer_text="", status="abstained", warnings=(*told.warnings, why))
    return Judged(told, probs, None if block is None else share, on, calibration.threshold)


def medical(judged: Judged, said: Said, ask: Ask, audit_id: str) -> dict[str, Any]:
    """The fields of a message that OpenAI's protocol has no word for; docs/serving.md says what each means."""
    told = judged.told
    seen = said.seen if len(said.seen) == len(ask.pictures) else (None,) * len(ask.pictures)
    shrunk = [
        f"downscaled {picture.width}x{picture.height} -> {size[0]}x{size[1]}"
        for picture, size in zip(ask.pictures, seen, strict=True)
        if size and size[0] * size[1] < 0.9 * picture.width * picture.height
    ]
    ids = {"token_ids": list(said.ids)} if ask.token_ids else {}
    return {
        "answer": told.answer,
        "answer_text": told.answer_text,
        "status": told.status,
        "written": told.written,
        "option_probs": judged.option_probs,
        "confidence": judged.confidence,
        "calibrated_on": judged.calibrated_on,
        "threshold": judged.threshold,
        "warnings": [asdict(warned) for warned in told.warnings],
        "extraction": EXTRACTION if ask.options else OPEN_EXTRACTION,
        "image_sha256": [picture.sha256 for picture in ask.pictures],
        "images_seen": [list(size) if size else None for size in seen],
        "input_warnings": [note for picture in ask.pictures for note in picture.notes] + shrunk,
        "intended_use": INTENDED_USE,
        "audit_id": audit_id,
        **ids,
    }
