"""How sure is sure? A model is asked held-out questions, and its probabilities become shares of right answers."""

from pathlib import Path

from medvlm_r1.data.dataset import load_dataset, parsed
from medvlm_r1.errors import ConfigError, DataError
from medvlm_r1.evaluation.asking.run import EvalConfig, answers
from medvlm_r1.evaluation.measuring.calibration import confidence_of, threshold_for
from medvlm_r1.evaluation.measuring.clusters import design_effect
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.files import output_errors
from medvlm_r1.launch.answering import answerer
from medvlm_r1.launch.loading import memory_errors
from medvlm_r1.launch.request import Request
from medvlm_r1.reasoning import parse
from medvlm_r1.rewards.naming import contradicted
from medvlm_r1.serving.calibrated import LEAST_OF_A_BLOCK, Block, Calibration, blocks, read, write


def calibrate(request: Request, wanted_error: float | None, record: Path) -> Calibration:
    """Ask, measure and write ``request.out``. ``wanted_error``: answer only where no more than this share is shown to be wrong; None answers all.

    Contradicted answers are never shown, and so not counted. Raises ConfigError for questions to train on, DataError for too
    few, or where no threshold keeps the error that low.
    """
    _, filters = parsed(request.data)
    if "train" in str(filters.get("split", "")):
        raise ConfigError(f'"{request.data}" is what a model is trained on, and of those it is surer than it may be; name held-out questions')
    if request.out.is_file():
        read(request.out)  # another file is not written over
    examples = [example for example in load_dataset(request.data) if example.options]
    with memory_errors():
        asked = answerer(request, examples, record)
        try:
            samples = answers(asked.engine, examples, EvalConfig(asked.template, 0, request.max_tokens), lambda done: None, {}, asked.probe)
        finally:
            asked.engine.close()
    shown = [(sample, by) for sample in samples if not _is_contradicted(sample) and (by := confidence_of(sample, "option_probs")) is not None]
    if len(shown) < LEAST_OF_A_BLOCK:
        raise DataError(f'"{request.data}" gives {len(shown)} answers to calibrate by, and {LEAST_OF_A_BLOCK} is the least; name more questions')
    correct, confidences = [sample.correct for sample, _ in shown], [confidence for _, confidence in shown]
    design = design_effect(correct, [sample.cluster for sample, _ in shown])
    found, threshold = _told(confidences, correct, design, wanted_error)
    calibration = Calibration(asked.identity, request.data, asked.template, len(shown), found, threshold)
    with output_errors(request.out):
        write(request.out, calibration)
    return calibration


def _told(sure: list[float], correct: list[bool], design: float, wanted_error: float | None) -> tuple[tuple[Block, ...], float]:
    """The blocks, and the share of right answers from which on one is given: of the block that begins at the probability's own threshold.

    >>> found, threshold = _told([0.3] * 40 + [0.6] * 30 + [0.9] * 80, [True, False] * 20 + [True] * 20 + [False] * 10 + [True] * 80, 1.0, 0.1)
    >>> [(block.low, round(block.share, 2)) for block in found], threshold
    ([(0.3, 0.5), (0.6, 0.67), (0.9, 1.0)], 1.0)
    """
    if wanted_error is None:
        return blocks(sure, correct, design), 0.0
    step = threshold_for(sure, correct, wanted_error, design)
    if step is None:
        raise DataError(f"no confidence keeps the error at {wanted_error:g} or below on these questions; ask for a larger --error, or name more questions")
    found = blocks(sure, correct, design, step.threshold)
    return found, max(block.share for block in found if block.low <= step.threshold)


def _is_contradicted(sample: Sample) -> bool:
    return bool(contradicted(parse(sample.text, len(sample.options)).think, sample.answer, sample.options))
