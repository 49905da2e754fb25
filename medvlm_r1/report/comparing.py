"""Several evaluations of the same questions, tested in pairs, on one page."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from medvlm_r1.console import notice
from medvlm_r1.data.images import load_image
from medvlm_r1.errors import ConfigError, DataError, RunError
from medvlm_r1.evaluation.measuring.measured import ModelNumbers
from medvlm_r1.evaluation.measuring.metrics import require_same
from medvlm_r1.evaluation.samples import Sample, read_samples
from medvlm_r1.files import output_errors
from medvlm_r1.report import open_answers
from medvlm_r1.report.evaluation_page import render_report
from medvlm_r1.report.story import Story


@dataclass(frozen=True)
class Evaluation:
    """What ``eval`` left in a folder: the answers of each arm, and summary.json.

    >>> Evaluation("base", {}, {"settings": {"data": "phantom:mri"}}).settings
    {'data': 'phantom:mri'}
    """

    name: str
    arms: Mapping[str, Sequence[Sample]] = field(repr=False)
    summary: Mapping[str, Any] = field(repr=False)
    open: Mapping[str, Sequence[Sample]] = field(default_factory=dict, repr=False)  # the questions without options
    folder: Path = Path()

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.summary.get("settings", {}))

    @property
    def verdict(self) -> str:
        """The first screen in a line: how good it is, and whether it looks; and one for its questions without options."""
        return "\n".join(open_answers.told(self.name, self.summary))

    @property
    def report(self) -> Path:
        """The page."""
        return self.folder / "report.html"


def compare_folders(places: Sequence[str], out: Path) -> dict[str, Any]:
    """Read evaluations (``FOLDER`` or ``NAME=FOLDER``), compare every two, write summary.json and report.html; returns the summary."""
    if out.exists() and (not out.is_dir() or any(file.name not in ("summary.json", "report.html", "export") for file in out.iterdir())):
        raise RunError(f'"{out}" is in use; choose another --out')
    evaluations = [read(*named(text)) for text in places]
    if bare := next((e.folder for e in evaluations if not {"arms", "open"} & e.summary.keys()), None):
        raise DataError(f'"{bare / "summary.json"}" is no summary of an evaluation; make one with medvlm-r1 eval … --out {bare}')
    names = [evaluation.name for evaluation in evaluations]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f'two evaluations are called "{twice}"; name one of them: NAME={twice}')
    told = story(evaluations)
    for note in told.notes:
        notice(f"warning: {note}")
    summary = compare(evaluations, told)
    with output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.html").write_text(render_report(told, load_image), encoding="utf-8")
        (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def named(text: str) -> tuple[str, Path]:
    """The folder that an argument names, and what to call it.

    >>> named("GRPO=runs/eval-3"), named("runs/base/")
    (('GRPO', PosixPath('runs/eval-3')), ('base', PosixPath('runs/base')))
    """
    name, equals, place = text.partition("=")
    name, place = (name, place) if equals and not Path(text).exists() else (Path(text).resolve().name, text)
    return name.encode("utf-8", "replace").decode(), Path(place)


def read(name: str, folder: Path) -> Evaluation:
    """Raises DataError where the folder holds no finished evaluation."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        arms, free = (_samples(folder, kind) for kind in ("samples", "open"))
    except (OSError, ValueError) as error:
        raise DataError(f'"{folder}" holds no finished evaluation ({error}); make one with medvlm-r1 eval … --out {folder}') from error
    if not isinstance(summary, dict):
        raise DataError(f'"{folder / "summary.json"}" is no summary of an evaluation; make one with medvlm-r1 eval … --out {folder}')
    if "models" in summary:
        raise DataError(f'"{folder}" is a comparison; name the evaluations that it compares: {", ".join(summary["models"])}')
    if "image" not in arms and "image" not in free:
        raise DataError(f'"{folder}" holds no samples-image.jsonl; make it with medvlm-r1 eval … --out {folder}')
    told = (summary.get("open") or {}).get("arms", {})
    return Evaluation(name, _ordered(arms, summary.get("arms", arms)), summary, _ordered(free, told), folder)


def _samples(folder: Path, kind: str) -> dict[str, list[Sample]]:
    return {file.stem.removeprefix(f"{kind}-"): read_samples(file) for file in sorted(folder.glob(f"{kind}-*.jsonl"))}


def _ordered(arms: dict[str, list[Sample]], names: Iterable[str]) -> dict[str, list[Sample]]:
    """In the order of the summary; what it does not name is of another evaluation."""
    return {name: arms[name] for name in names if name in arms}


def compare(evaluations: Sequence[Evaluation], told: Story) -> dict[str, Any]:
    """Each evaluation's own numbers, and every later one against every earlier one, p adjusted by Holm over all pairs.

    Whether a model looks is judged again, by today's rule, as on the page. Raises DataError unless all are of the same questions.
    """
    for before, after in combinations(evaluations, 2):
        require_same(after.arms.get("image", ()), before.arms.get("image", ()))
        require_same(after.open.get("image", ()), before.open.get("image", ()))
    found = {
        "models": {evaluation.name: dict(evaluation.summary) | _first_screen(told.numbers.get(evaluation.name)) for evaluation in evaluations},
        "paired": {f"{pair['after']}-{pair['before']}": pair for pair in told.comparisons},
        "baselines": evaluations[0].summary.get("baselines", {}),
        "folders": {evaluation.name: str(evaluation.folder.resolve()) for evaluation in evaluations},
    }
    return found | ({"open_paired": {f"{after}-{before}": rows for (after, before), rows in told.open_comparisons.items()}} if told.open else {})


def _first_screen(numbers: ModelNumbers | None) -> dict[str, Any]:
    if numbers is None:  # no question has options
        return {}
    return {"overall": {arm: of_arm.mean for arm, of_arm in numbers.arms.items()}, "looking": asdict(numbers.looking)}


def story(evaluations: Sequence[Evaluation]) -> Story:
    """What the page tells of them."""
    data = {str(evaluation.settings.get("data", "")) for evaluation in evaluations} - {""}
    title = f"{len(evaluations)} models on {', '.join(sorted(data)) or 'the same questions'}"
    baselines = {name: cells for name, cells in evaluations[0].summary.get("baselines", {}).items() if name == "text_prior"}
    settings = {evaluation.name: evaluation.settings for evaluation in evaluations}
    closed, free = {e.name: _lists(e.arms) for e in evaluations}, {e.name: _lists(e.open) for e in evaluations}
    by_prior = {e.name: e.summary.get("by_prior", {}) for e in evaluations}
    taught = {e.name: e.settings.get("trained_under", ()) for e in evaluations}
    free = free if any(free.values()) else {}
    return Story(title, closed, baselines=baselines, settings=settings, open=free, by_prior=by_prior, trained_under=taught, notes=_unlike(evaluations))


def _unlike(evaluations: Sequence[Evaluation]) -> list[str]:
    """A sentence where pictures differ in their pixels, by what each evaluation noted of them; one that noted nothing differs from none."""
    noted = {e.name: e.settings.get("made", {}).get("sha256", {}).get("pictures") for e in evaluations}
    known = {name: sha256 for name, sha256 in noted.items() if sha256}
    if len(set(known.values())) < 2:
        return []
    said = ", ".join(f"{name} {sha256[:12]}" for name, sha256 in known.items())
    return [f"The models did not see the same pictures (SHA-256 of their pixels: {said}); a difference may be the pictures'."]


def _lists(arms: Mapping[str, Sequence[Sample]]) -> dict[str, list[Sample]]:
    return {arm: list(samples) for arm, samples in arms.items()}
