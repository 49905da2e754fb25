"""What ``import medvlm_r1`` offers a notebook: each function is a command's body under the command's own names.

An option ``--max-tokens`` of a command is the argument ``max_tokens`` here, and says the same. Errors are those of
``medvlm_r1.errors``. Progress and warnings go to stderr.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

from medvlm_r1.audit.checks import AuditConfig, Report
from medvlm_r1.config import changed
from medvlm_r1.data.dataset import Dataset, load_dataset
from medvlm_r1.data.manifest import write_manifest
from medvlm_r1.errors import DataError
from medvlm_r1.evaluation.asking.meanings import DEFAULT_ARMS
from medvlm_r1.files import digest, output_errors, read_rows
from medvlm_r1.launch import auditing, evaluating, training
from medvlm_r1.launch.asking import Model, Place
from medvlm_r1.launch.request import Request, Settings
from medvlm_r1.models import runs
from medvlm_r1.preflight.values import Config, check
from medvlm_r1.recipes.named import find
from medvlm_r1.report import comparing
from medvlm_r1.report.comparing import Evaluation
from medvlm_r1.report.learning import tell
from medvlm_r1.rewards.rubric import Reward, register
from medvlm_r1.types import Example
from medvlm_r1.wording import called

Questions = Place | Sequence[Example]  # what load_dataset reads, or questions in memory


@dataclass(frozen=True)
class Run:
    """A finished training run; ``outcome`` says in a sentence what changed.

    >>> Run(Path("runs/mine"), "3 steps: reward 1.25 → 1.64, on training questions.").report
    PosixPath('runs/mine/report.html')
    """

    folder: Path
    outcome: str

    @property
    def model(self) -> Path:
        """The trained model: ``load`` and ``evaluate`` take it, transformers and vLLM too."""
        return training.trained_model(self.folder)

    @property
    def best(self) -> Path | None:
        """The checkpoint that answered most held-out questions right (``held_out.data``); None where none were asked."""
        return runs.best(self.folder)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One row a step, as in metrics.jsonl."""
        return read_rows(self.folder / "metrics.jsonl")

    @property
    def report(self) -> Path:
        """The page."""
        return self.folder / "report.html"


def dataset(data: Place) -> Dataset:
    """The questions of a manifest, a folder with one, or ``phantom:mri``, each with an optional filter. Raises DataError.

    >>> dataset("phantom:mri?split=test&question_type=plane").head(20)
    Dataset(20 examples)
    """
    return load_dataset(str(data))


def recipe(name: str, kind: str = "") -> Config:
    """The configuration of a recipe; ``kind`` is "grpo", "sft" or whichever there is. Raises ConfigError with the nearest name.

    >>> recipe("nano").sampling.n, recipe("nano", "sft").target
    (8, 'letter')
    """
    return find(name, kind)


def reward(function: Reward) -> Reward:
    """Make a function of (completion, prompt) a reward under its own name, for ``rewards`` of ``train`` in this process; a decorator.

    See docs/rewards.md. Raises ConfigError where one of ours has that name.

    >>> @reward
    ... def brief(completion, prompt):
    ...     return len(completion.text) < 200
    >>> from medvlm_r1.rewards.rubric import REWARDS
    >>> REWARDS.pop("brief") is brief
    True
    """
    register(function.__name__, function)
    return function


def train(recipe: str | Config, data: Questions | None = None, *, model: Place | None = None, run_dir: Place | None = None, **changes: Any) -> Run:
    """Train by a recipe or a configuration with these ``changes``; keys with dots go in a dictionary, ``**{"optim.lr": 1e-4}``.

    The same call again goes on where it was stopped, or finds its finished run. ``run_dir``: runs/NAME-FINGERPRINT if None.
    Raises ConfigError, DataError and RunError before step 1; KeyboardInterrupt where it was stopped.

    >>> from contextlib import chdir
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder, chdir(folder):
    ...     run = train("nano", dataset("phantom:mri?split=train").head(4), steps=2, prompts_per_step=1, **{"sampling.n": 2})
    ...     [row["step"] for row in run.metrics], run.model.name, run.outcome[:7]
    ([1, 2], 'step-2', '2 steps')
    """
    given = {"data": None if data is None else _named(data), "model": None if model is None else str(model)}
    config = changed(find(recipe) if isinstance(recipe, str) else recipe, {key: value for key, value in given.items() if value is not None} | changes)
    check(config)
    folder = Path(run_dir) if run_dir else training.default_run_dir(recipe if isinstance(recipe, str) else "run", config)
    if not training.run(config, folder, resume=True):
        raise KeyboardInterrupt(f"stopped; the same call goes on with {folder}")
    return Run(folder, tell(folder))


def evaluate(
    model: Model | Place, data: Questions, out: Place, *, arms: str | Sequence[str] = DEFAULT_ARMS, samples: int = 0, **settings: Unpack[Settings]
) -> Evaluation:
    """Ask every question under every arm; samples, summary.json and report.html go to ``out``.

    ``model``: one in memory, or what ``load`` takes, or the address of an OpenAI-compatible endpoint. ``arms``: names,
    or "all". ``settings`` are fields of ``launch.request.Request``. The same call again asks nothing twice.

    >>> from contextlib import chdir
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder, chdir(folder):
    ...     found = evaluate("nano", dataset("phantom:mri?split=test").head(3), "runs/eval", arms=["image"], max_tokens=48)
    >>> found, found.summary["overall"]["image"]["n"], [sample.gold_text for sample in found.arms["image"]]
    (Evaluation(name='nano', folder=PosixPath('runs/eval')), 3, ['sagittal', 'tumour', 'medium'])
    """
    loaded = model if isinstance(model, Model) else None
    name = loaded.name if loaded else str(model)
    request = Request(name, _named(data), Path(out), arms if isinstance(arms, str) else ",".join(arms), samples=samples, **settings)
    if loaded:
        request = replace(request, dtype=loaded.dtype, max_pixels=loaded.max_pixels)
    evaluating.evaluate(request, loaded.policy if loaded else None)
    return comparing.read(called(name), request.out)


def compare(evaluations: Mapping[str, Evaluation | Place], out: Place) -> dict[str, Any]:
    """Evaluations of the same questions by name, base first, tested in pairs: what goes to summary.json in ``out``, beside the page.

    >>> from contextlib import chdir
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder, chdir(folder):
    ...     few = dataset("phantom:mri?split=test").head(3)
    ...     found = [evaluate("nano", few, f"runs/{name}", arms="image", template=name, max_tokens=48) for name in ("direct", "think")]
    ...     both = compare({"letter alone": found[0], "with a thought": found[1]}, "runs/both")
    >>> list(both["paired"])
    ['with a thought-letter alone']
    """
    places = {name: found.folder if isinstance(found, Evaluation) else found for name, found in evaluations.items()}
    return comparing.compare_folders([f"{name}={place}" for name, place in places.items()], Path(out))


def audit_data(
    data: Questions, train: Questions | None = None, *, train_size: int = 600, draws: int = 20, images: str = "files", html: Place | None = None
) -> Report:
    """What a question set gives away without its pictures, and what its pictures repeat; the page goes to ``html``.

    ``train``: what a model is trained on; without it, the part split=train of ``data``, else its other questions.
    It is not called ``audit``, which is the package where the checks are.

    >>> audit_data("phantom:mri?split=test", draws=2)["findings"][0][:45]
    'The option texts alone do not tell the answer'
    """
    config = AuditConfig(train_size, draws, images)
    return auditing.audit(_named(data), None if train is None else _named(train), config, Path(html) if html else None)


def _named(data: Questions) -> str:
    """What these questions are called. Those in memory become a manifest: whatever is made of them can be made again."""
    if isinstance(data, (str, PathLike)):
        return str(data)
    for example in data:
        if not isinstance(example, Example):
            raise DataError(f"questions in memory are a list of medvlm_r1.Example, this holds {example!r:.60}; or write a manifest and give its name")
    path = Path("runs") / f"questions-{digest(repr(list(data)))[:12]}.jsonl"
    with output_errors(path, "folder to work in"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_manifest(path, data)
    return str(path)
