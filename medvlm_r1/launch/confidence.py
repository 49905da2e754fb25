"""How sure ``ask`` may say that a model is: by what ``medvlm-r1 calibrate`` measured of this very model, or not at all."""

from dataclasses import fields, replace
from pathlib import Path

from medvlm_r1.launch.answering import model_sha256
from medvlm_r1.launch.asking import Model
from medvlm_r1.models.families import locate
from medvlm_r1.rollout.answer import Answer
from medvlm_r1.rollout.told import Told
from medvlm_r1.serving.calibrated import Calibration, read, require
from medvlm_r1.serving.medical import Judged, judge
from medvlm_r1.serving.wire import Said


def of(path: Path, model: Model, template: str) -> Calibration:
    """The calibration in a file. Raises DataError where it is none, ConfigError where it is another model's."""
    found, dtype = read(path), str(model.policy.model.dtype).removeprefix("torch.")
    require(found, {"identity": f"{model_sha256(locate(model.name))} {dtype}", "template": template}, path)
    return found


def judged(answer: Answer, calibration: Calibration | None) -> tuple[Answer, Judged]:
    """The answer as it may be shown, by the server's rule: none below the calibration's threshold, no number for a contradicted one."""
    told = Told(**{one.name: getattr(answer, one.name) for one in fields(Told)})
    found = judge(told, Said(0, answer.text, probs=tuple(answer.option_probs.values())), calibration)
    return replace(answer, **{one.name: getattr(found.told, one.name) for one in fields(Told)}, option_probs=found.option_probs), found
