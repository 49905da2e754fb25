"""A training run as one self-contained HTML page: what rose and what fell, step by step, and what it wrote at both ends.

Rewards are measured on training questions: the page says how training went, and how good the model is only where held-out
questions were asked meanwhile.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup

from medvlm_r1.files import output_errors, read_rows
from medvlm_r1.models.runs import TEST, best_of
from medvlm_r1.report import charts
from medvlm_r1.report.gallery import highlight
from medvlm_r1.report.pages import drawn, page
from medvlm_r1.training.grpo.meter import OTHER, OWN, Kept, Stop, forgets
from medvlm_r1.training.verdict import stale
from medvlm_r1.wording import called, duration, flat, modality_name, percent

Rows = Sequence[Mapping[str, Any]]

CURVES = {
    "reward": "Reward, total",
    "reward/format": "Reward for the format",
    "reward/accuracy": "Reward for the right letter",
    TEST: "Right on held-out questions",
    OWN: "Right with its own picture",
    OTHER: "Right with another patient's picture",
    "kl": "KL divergence from the base",
    "clip_fraction": "Share of tokens that a bound clips",
    "lag": "Age of the rollouts, steps",
    "completion_length": "Length of a completion, tokens",
    "loss": "Loss",
}
_REWARDS = {"reward": "reward", "reward/format": "format", "reward/accuracy": "right letter"}
_GROUPS = 2  # questions of a step that are shown


def learning_curves(runs: Mapping[str, Rows]) -> Markup:
    """A panel for each number that any run has; ``runs`` are rows of metrics.jsonl by name."""
    panels = []
    for key, title in titles(row for rows in runs.values() for row in rows).items():
        series = {name: [(float(row["step"]), float(row[key])) for row in rows if isinstance(row.get(key), (int, float))] for name, rows in runs.items()}
        panels.append(charts.curves(title, series))
    return Markup("").join(panels)


def titles(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Number -> what it is called, of those that have a curve; rewards of one's own behind the usual ones.

    >>> list(titles([{"step": 1, "loss": 0.5, "reward/my.py:organ": 1.0, "test/accuracy/ct": 0.5}]).items())[-2:]
    [('reward/my.py:organ', 'Reward my.py:organ'), ('test/accuracy/ct', 'Right on held-out questions, CT')]
    """
    keys = dict.fromkeys(key for row in rows for key in row if key not in CURVES)
    own = {key: f"Reward {key[7:]}" for key in keys if key.startswith("reward/")}
    return CURVES | own | {key: f"{CURVES[TEST]}, {modality_name(key[len(TEST) + 1 :])}" for key in keys if key.startswith(f"{TEST}/")}


def skipped_steps(rows: Rows) -> int:
    """How many steps of a run moved nothing."""
    return max((row.get("skipped_steps") or 0 for row in rows), default=0)


def ends(rows: Rows) -> dict[str, tuple[float, float]]:
    """Number -> its mean over the first tenth of the steps (one at least) and over the last; those that a run lacks are left out.

    Steps without a finite loss do not count.

    >>> ends([{"step": n, "loss": 3.0 - n} for n in (1, 2, 3)])
    {'loss': (2.0, 0.0)}
    """
    rows = [row for row in rows if row.get("loss", 0.0) is not None]
    few = max(1, len(rows) // 10)
    found = {}
    for key in titles(rows):
        values = [float(row[key]) for row in rows if isinstance(row.get(key), (int, float))]
        if len(values) == len(rows) and rows:
            found[key] = sum(values[:few]) / few, sum(values[-few:]) / few
    return found


def phases(rows: Rows) -> dict[str, float]:
    """Phase -> its seconds in all steps.

    >>> phases([{"step": 1, "seconds/update": 2.0}, {"step": 2, "seconds/update": 1.5}])
    {'update': 3.5}
    """
    found: dict[str, float] = {}
    for row in rows:
        for key, value in row.items():
            if key.startswith("seconds/"):
                found[key[8:]] = found.get(key[8:], 0.0) + value
    return found


def sentence(found: Mapping[str, tuple[float, float]], steps: int, skipped: int = 0, of: int = 0) -> str:
    """What changed; ``of``: how many steps the run was to have, where it ended early.

    >>> sentence({"reward": (1.25, 1.64), "reward/accuracy": (0.45, 0.61), "loss": (0.0, 0.1)}, 100)
    '100 steps: reward 1.25 → 1.64, right letter 0.45 → 0.61, on training questions.'
    >>> sentence({"loss": (0.2, 0.1)}, 75, skipped=2)
    '75 steps: loss 0.20 → 0.10, on training questions. 2 of them were skipped, since loss or gradient was not finite.'
    >>> sentence({"reward": (1.25, 1.64), OWN: (0.7, 0.9), OTHER: (0.5, 0.65)}, 40, of=100)
    "40 of 100 steps: reward 1.25 → 1.64, right 70 → 90 % with the own picture, 50 → 65 % with another patient's, on training questions."
    """
    keys = [key for key in found if key == "reward" or key.startswith("reward/")] or [key for key in found if key == "loss"]  # a policy's loss says nothing
    told = ", ".join(f"{_REWARDS.get(key, key.removeprefix('reward/'))} {found[key][0]:.2f} → {found[key][1]:.2f}" for key in keys)
    if OWN in found and OTHER in found:
        own, other = (" → ".join(f"{100 * end:.0f}" for end in found[key]) for key in (OWN, OTHER))
        told += f", right {own} % with the own picture, {other} % with another patient's"
    left_out = f" {skipped} of them {'was' if skipped == 1 else 'were'} skipped, since loss or gradient was not finite." * bool(skipped)
    return f"{steps} {f'of {of} ' * bool(of)}steps" + (f": {told}, on training questions." if told else ".") + left_out


def ended_early(kept: Kept, stop: Stop) -> str:
    """Why a run did not go on.

    >>> print(ended_early(Kept(0.76, 0.71), Stop(kept=0.5)).partition(",")[0])
    It ended early: over 20 steps it kept 76 % of its lead over chance with another patient's picture
    """
    share, least, allowed = (f"{100 * value:.0f} %" for value in (kept.share, kept.least, stop.kept or 0.0))
    return (
        f"It ended early: over {stop.window} steps it kept {share} of its lead over chance with another patient's picture, at least {least}, "
        f"more than stop.kept allows ({allowed})."
    )


def ended_stale(stop: Stop) -> str:
    """Why a run did not go on that got no better.

    >>> ended_stale(Stop(patience=4))
    'It ended early: 4 tests in a row were no better than the best before (stop.patience).'
    """
    return f"It ended early: {stop.patience} test{'s in a row were' if stop.patience != 1 else ' was'} no better than the best before (stop.patience)."


def tested(rows: Rows) -> str:
    """What the held-out questions said; "" where none were asked.

    >>> tested([{"step": 25, TEST: 0.52, "test/questions": 300}, {"step": 26}, {"step": 50, TEST: 0.61}, {"step": 75, TEST: 0.6}])
    'Of 300 held-out questions 52.0 % were right after step 25, 60.0 % after step 75, most after step 50: 61.0 %, which flatters as the best of 3 tests does.'
    >>> tested([{"step": 25, TEST: 0.52, "test/questions": 1}]), tested([{"step": 1}])
    ('Of 1 held-out question 52.0 % were right after step 25.', '')
    """
    asked = [row for row in rows if row.get(TEST) is not None]
    if not asked:
        return ""
    first, last, best = asked[0], asked[-1], best_of(asked) or asked[-1]
    said = (
        f"Of {first['test/questions']} held-out question{'s' * (first['test/questions'] != 1)} {percent(first[TEST])} % were right after step {first['step']}"
    )
    said += f", {percent(last[TEST])} % after step {last['step']}" * (len(asked) > 1)
    more = f", most after step {best['step']}: {percent(best[TEST])} %, which flatters as the best of {len(asked)} tests does" * (best not in (first, last))
    return f"{said}{more}."


def story(config: Mapping[str, Any], rows: Rows) -> str:
    """What changed, and why it ended where it did."""
    stop = Stop(**config.get("stop") or {})
    why = ended_early(found, stop) if (found := forgets(rows, stop)) else ended_stale(stop) if stale(rows, stop.patience) else ""
    of = config.get("steps", 0) if why and len(rows) < config.get("steps", 0) else 0
    return " ".join(filter(None, (sentence(ends(rows), len(rows), skipped_steps(rows), of), tested(rows), why)))


def render_learning(config: Mapping[str, Any], rows: Rows, rollouts: Rows) -> str:
    """The page as one string of HTML that loads nothing from anywhere. ``rollouts`` are rows of rollouts.jsonl, of any few steps."""
    context = {
        "title": f"{called(config['model'])} learns from {config['data']}",
        "drawn": drawn([config["data"]]),
        "sentence": story(config, rows),
        "curves": learning_curves({"run": rows}),
        "seconds": phases(rows),
        "steps": [(step, _groups(list(few))) for step, few in groupby(rollouts, lambda row: row["step"])],
        "settings": list(flat(config)),
        "highlight": highlight,
    }
    return page("learning.html.j2", {"duration": duration}, context)


def _groups(rows: Rows) -> list[tuple[str, Rows]]:
    """The first questions of a step, each with its completions, best first."""
    groups: list[tuple[str, Rows]] = [(name, sorted(few, key=lambda row: -row["reward"])) for name, few in groupby(rows, lambda row: row["id"])]
    return groups[:_GROUPS]


def tell(run_dir: Path) -> str:
    """Write summary.json and report.html of a finished run into its folder; returns the page's first sentence."""
    config = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))["config"]
    rows = read_rows(run_dir / "metrics.jsonl")
    found = ends(rows)
    changes = {key: {"first": before, "last": after} for key, (before, after) in found.items()}
    skipped = skipped_steps(rows)
    summary = {"steps": len(rows), "skipped_steps": skipped, "changes": changes, "seconds": phases(rows), "settings": config}
    page = render_learning(config, rows, _first_and_last(run_dir / "rollouts.jsonl"))
    with output_errors(run_dir):
        (run_dir / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        (run_dir / "report.html").write_text(page, encoding="utf-8")
    return story(config, rows)


def _first_and_last(path: Path) -> list[dict[str, Any]]:
    """The rows of the first and of the last step; the file may be larger than the memory."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="\n") as file:
        return first_and_last(map(json.loads, file))


def first_and_last(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the first and of the last step.

    >>> [row["step"] for row in first_and_last({"step": step} for step in (1, 1, 2, 2, 3, 3))]
    [1, 1, 3, 3]
    >>> [row["step"] for row in first_and_last({"step": step} for step in (1, 1))]
    [1, 1]
    """
    first: list[dict[str, Any]] = []
    last: list[dict[str, Any]] = []
    for row in rows:
        if not first or row["step"] == first[0]["step"]:
            first.append(row)
            continue
        if last and row["step"] != last[0]["step"]:
            last = []
        last.append(row)
    return first + last
