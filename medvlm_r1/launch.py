"""From a configuration to a finished run: the only place that chooses concrete classes."""

from collections.abc import Callable, Sequence
from pathlib import Path

from medvlm_r1.config import fingerprint
from medvlm_r1.data.dataset import Dataset, check_images, load_dataset
from medvlm_r1.data.images import load_image
from medvlm_r1.data.views import VIEWS
from medvlm_r1.errors import ConfigError, nearest
from medvlm_r1.evaluation.run import EvalConfig, evaluate
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.grpo import trainer as grpo
from medvlm_r1.models.families import load_policy
from medvlm_r1.models.policy import Policy
from medvlm_r1.rewards.rubric import Rubric
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.sft import trainer as sft
from medvlm_r1.training import checkpoint
from medvlm_r1.types import Example

Config = grpo.GRPOConfig | sft.SFTConfig


def run(config: Config, run_dir: Path, resume: bool = False) -> bool:
    """Train; True when all steps are done, False when stopped before (resume to go on)."""
    examples = questions(config.data)
    view = view_of(config.view)
    rubric = Rubric(config.rewards) if isinstance(config, grpo.GRPOConfig) else None
    policy = load_model(config.model, config.dtype, config.max_pixels).viewing(view)
    policy.template = config.template
    checkpoint.open_run(run_dir, config, resume)
    if rubric is not None:
        return grpo.train(config, policy, LocalEngine(policy), examples, rubric, run_dir)
    return sft.train(config, policy, examples, run_dir)


def load_model(name: str, dtype: str = "float32", max_pixels: int | None = None) -> Policy:
    """A policy from a directory, a hub id or ``nano``, with every kind of image we can open."""
    return load_policy(name, load_image, dtype, max_pixels)


def questions(spec: str) -> Dataset:
    """The data set behind ``spec``, every image opened once before anything is trained."""
    if not spec:
        raise ConfigError("no data: give --data with a manifest (see docs/data.md) or phantom:mri")
    examples = load_dataset(spec)
    check_images(examples)
    return examples


def view_of(name: str) -> Callable | None:
    """The view of a name; raises ConfigError with the nearest one."""
    if name not in VIEWS:
        raise ConfigError(f'unknown view "{name}"{nearest(name, VIEWS)}')
    return VIEWS[name]


def default_run_dir(name: str, config: Config) -> Path:
    """A place of its own for every configuration: the same command finds its run again."""
    return Path("runs") / f"{name}-{fingerprint(config)}"


def trained_model(run_dir: Path) -> Path:
    """The newest model of a run."""
    steps = sorted((run_dir / "checkpoints").glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
    return steps[-1]


def evaluate_policy(policy: Policy, examples: Sequence[Example], config: EvalConfig, progress: Callable[[int], None]) -> list[Sample]:
    """Evaluate on this machine, under one arm."""
    return evaluate(LocalEngine(policy.viewing(view_of(config.arm))), examples, config, progress)
