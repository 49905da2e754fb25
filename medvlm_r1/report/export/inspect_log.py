"""An evaluation as logs of Inspect AI (inspect.aisi.org.uk), one for each arm, which its viewer and its tools read.

The format is their EvalLog, version 2, as JSON. A question that an arm asks several
times is one sample in several epochs, and counts by its mean, as it does there.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from medvlm_r1 import __version__
from medvlm_r1.evaluation.measuring.metrics import accuracy, split_by
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.files import digest
from medvlm_r1.reasoning import EXTRACTION, OPEN_EXTRACTION, WITHOUT_THOUGHT, render
from medvlm_r1.report.comparing import Evaluation
from medvlm_r1.types import Example

_STOPS = {"truncated": "max_tokens", "failed": "unknown"}


def write(found: Evaluation, out: Path, made: datetime) -> list[Path]:
    """A log for each arm; their names begin with the time, or Inspect would not list them. ``made``: when the evaluation was.

    Questions without options have logs of their own, "open-image" and so on.
    """
    paths = []
    for arm, samples in [*found.arms.items(), *((f"open-{arm}", samples) for arm, samples in found.open.items())]:
        log = log_of(arm, samples, found.settings, made)
        path = out / f"{made.astimezone(UTC):%Y-%m-%dT%H-%M-%S}+00-00_{arm}_{log['eval']['task_id']}.json"
        path.write_text(json.dumps(log, ensure_ascii=False, indent=1) + "\n", "utf-8", "backslashreplace")
        paths.append(path)
    return paths


def log_of(arm: str, samples: Sequence[Sample], settings: Mapping[str, Any], made: datetime) -> dict[str, Any]:
    """The log as plain values."""
    scorer = _scorer(samples[0])
    created, n = made.astimezone(UTC).isoformat(timespec="seconds"), len(samples)
    shares = [accuracy(asked) for asked in split_by(samples, lambda s: s.id).values()]
    config = {"temperature": 0.0, "max_tokens": settings["max_tokens"]}
    run = digest(json.dumps([arm, created, dict(settings)], default=str))[:22]
    epochs: Counter[str] = Counter()
    rows = []
    for sample in samples:
        epochs[sample.id] += 1
        rows.append(_sample(sample, epochs[sample.id], settings))
    spread = stdev(shares) / math.sqrt(len(shares)) if len(shares) > 1 else 0.0
    metrics = {"accuracy": {"name": "accuracy", "value": fmean(shares)}, "stderr": {"name": "stderr", "value": spread}}
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": run, "run_id": run, "task_id": run, "created": created, "task": f"medvlm-r1/{arm}", "task_version": 0,
            "model": _model(settings), "model_generate_config": config,
            "dataset": {"name": settings["data"], "samples": len(epochs), "sample_ids": list(epochs), "shuffled": False},
            "config": {"epochs": max(epochs.values()), "epochs_reducer": ["mean"]}, "packages": {"medvlm-r1": __version__},
            "metadata": {"arm": arm, **settings},
        },
        "plan": {"name": "plan", "steps": [{"solver": "generate", "params": {}}], "config": config},
        "results": {
            "total_samples": n, "completed_samples": sum(s.status != "failed" for s in samples),
            "scores": [{"name": scorer, "scorer": scorer, "reducer": "mean", "params": {}, "metrics": metrics}],
        },
        "stats": {"started_at": created, "completed_at": created, "model_usage": {}},
        "samples": rows,
    }  # fmt: skip


def _scorer(sample: Sample) -> str:
    return f"medvlm_r1/{OPEN_EXTRACTION if sample.is_open else EXTRACTION}"


def _model(settings: Mapping[str, Any]) -> str:
    return f"medvlm-r1/{settings['model']}"


def _sample(sample: Sample, epoch: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    said = {"role": "assistant", "content": sample.text if sample.status != "failed" else "", "source": "generate"}
    asked = {"role": "user", "content": _prompt(sample, settings["template"]), "source": "input"}
    row = {
        "id": sample.id,
        "epoch": epoch,
        "input": [asked],
        "choices": list(sample.options) or None,
        "target": sample.gold,
        "messages": [asked, said],
        "output": {"model": _model(settings), "choices": [{"message": said, "stop_reason": _STOPS.get(sample.status, "stop")}]},
        "scores": {_scorer(sample): {"value": _value(sample), "answer": sample.answer or "", "explanation": sample.status}},
        "metadata": {
            "modality": sample.modality, "question_type": sample.question_type, "group": sample.group, "images": list(sample.images),
            "status": sample.status, "n_tokens": sample.n_tokens, "sampled_answers": list(sample.sampled_answers),
        },
    }  # fmt: skip
    failure = {"message": sample.text, "traceback": "", "traceback_ansi": ""}
    return row | ({"error": failure} if sample.status == "failed" else {})


def _value(sample: Sample) -> str:
    """Inspect's letters: correct, no answer, incorrect; the latter two count 0."""
    return "C" if sample.correct else "I" if sample.answer else "N"


def _prompt(sample: Sample, template: str) -> str:
    """The text of the user's turn; the pictures, named in the metadata, went before it."""
    asked = WITHOUT_THOUGHT.get(template, template) if sample.arm == "no-think" else template
    example = Example(sample.id, sample.images, sample.question, sample.options, sample.gold_text, sample.modality)
    return render(example, asked).text
