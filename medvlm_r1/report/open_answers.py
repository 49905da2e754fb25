"""Questions without options, as the page and the terminal tell of them: apart from those with options, in tables of their own."""

from collections.abc import Mapping
from typing import Any

from medvlm_r1.evaluation.asking.judge import JUDGING, PROMPT
from medvlm_r1.evaluation.measuring.free_text import KINDS
from medvlm_r1.report import glance
from medvlm_r1.report.story import Story
from medvlm_r1.wording import coefficient, interval, percent


def context(story: Story) -> dict[str, Any]:
    """What the template shows of them; ``open`` is None where there are none."""
    numbers = story.open_numbers
    if not numbers:
        return {"open": None}
    asked = [name for name in KINDS if any(name in found["arms"]["image"] for found in numbers.values())]
    cells = [cell for found in numbers.values() for kind in found["arms"]["image"].values() for cell in kind.values()]
    found = {
        "numbers": numbers,
        "kinds": {name: KINDS[name].name for name in asked},
        "modalities": story.open_modalities,
        "n": {kind: max(found["n"][kind] for found in numbers.values()) for kind in ("free_text", "yes_no")},
        "has_sampled": any(cell["sampled"] is not None for cell in cells),
        "comparisons": story.open_comparisons,
        "judge": {"prompt": PROMPT, "version": JUDGING} if any(found["judge"] for found in numbers.values()) else None,
    }
    return {"open": found}


def told(name: str, summary: Mapping[str, Any]) -> list[str]:
    """One model's lines of the terminal, from its ``summary.json``: questions with options, and those without."""
    lines = [glance.spoken(name, summary)] if summary["overall"] else []
    return lines + ([spoken(name, summary["open"])] if summary.get("open") else [])


def spoken(name: str, found: Mapping[str, Any]) -> str:
    """The line of the terminal, from ``open`` in ``summary.json``.

    >>> cell = {"mean": {"value": 0.4, "ci95": [0.25, 0.56], "n": 30}}
    >>> spoken("Base", {"n": {"free_text": 30, "yes_no": 0}, "arms": {"image": {"exact": cell, "f1": cell}}, "judge": {}})
    'Base, 30 questions without options: exact match 40.0 % (25.0–56.0), F1 40.0 % (25.0–56.0).'
    """
    kinds = found["arms"]["image"]
    parts = [_part(kind, cells["mean"]) for kind, cells in kinds.items()]
    judged = found["judge"].get("image")
    kappa = f", kappa {coefficient(judged['kappa'])}" if judged and judged["kappa"] is not None else ""
    said = f" A judge calls {percent(judged['right'])} % right, and agrees with the rule in {percent(judged['agrees'])} %{kappa}." if judged else ""
    return f"{name}, {sum(found['n'].values()):,} questions without options: {', '.join(parts)}.{said}"


def verdict(story: Story) -> str:
    """The page's first sentence where no question has options."""
    found = story.open_numbers[story.trained]
    said = ", ".join(f"{_named(kind)} {percent(cells['mean']['value'])} %" for kind, cells in found["arms"]["image"].items() if kind != "recall")
    asked = f"{story.label(story.trained)}, asked {sum(found['n'].values()):,} questions without options: {said}."
    return f"{asked} Whether it looks at the image was not tested: that verdict is one of questions with options."


def _part(kind: str, mean: Mapping[str, Any]) -> str:
    return f"{_named(kind)} {percent(mean['value'])} % ({interval(mean['ci95'])})"


def _named(kind: str) -> str:
    name = KINDS[kind].name
    return name if name.isupper() else name.lower()
