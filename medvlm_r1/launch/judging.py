"""Who judges free answers: any OpenAI-compatible endpoint, behind the evaluation's own record, so that nothing is judged twice."""

from contextlib import closing
from pathlib import Path
from typing import Any

from rich.progress import Progress

from medvlm_r1.config import secret
from medvlm_r1.console import follow, notice, stderr
from medvlm_r1.errors import ConfigError
from medvlm_r1.evaluation.asking.judge import JUDGING, PROMPT, judge
from medvlm_r1.evaluation.measuring.metrics import Arms
from medvlm_r1.launch.answering import identity, reached, recorded
from medvlm_r1.rollout.calling import Endpoint

KEY = "MEDVLM_JUDGE_KEY"  # not the model's: a key goes to the host that it is for


def judge_at(address: str, timeout_s: float) -> Endpoint:
    """The endpoint behind ``--judge``. Raises ConfigError for what is no address, EngineError where nobody answers."""
    if "://" not in address:
        raise ConfigError(f'--judge "{address}" is no address; write http://HOST:PORT/v1#MODEL')
    url, _, name = address.partition("#")
    return reached(Endpoint(url, name, secret(KEY), timeout_s, key_name=KEY))


def judge_all(endpoint: Endpoint, arms: Arms, record: Path) -> tuple[Arms, dict[str, Any]]:
    """The samples with the judge's verdicts, and who judged, by which words, and how many verdicts could not be had."""
    found: Arms = {}
    missing: list[str] = []
    with closing(recorded(endpoint, record)) as engine, Progress(console=stderr()) as progress:
        for name, samples in arms.items():
            bar = progress.add_task(f"judge, {name}", total=len(samples))
            found[name], errors = judge(engine, samples, follow(progress, bar))
            progress.update(bar, completed=len(samples))
            missing += errors
    if missing:
        notice(f"no verdict on {len(missing)} answers, whose rule stands; the first: {missing[0]}")
    untaken = {"not_taken": sorted(engine.without)} if engine.without else {}
    return found, {"model": identity(endpoint), "version": JUDGING, "prompt": PROMPT, "failed": len(missing)} | untaken
