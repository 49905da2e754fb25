"""The page's tables as texts, for whatever writes tables: the same numbers, rounded the same way."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from medvlm_r1.evaluation.measuring.free_text import KINDS
from medvlm_r1.evaluation.samples import STATUSES
from medvlm_r1.report import method
from medvlm_r1.report.story import Story, table_rows
from medvlm_r1.wording import interval, modality_name, p_value, percent, points

Row = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """One table; ``name`` is that of its file and its label.

    >>> Table("flow", "Flow of the questions.", ("Arm", "Asked"), [("image", "300")]).rows
    [('image', '300')]
    """

    name: str
    caption: str
    columns: Row
    rows: list[Row]


def tables(story: Story) -> list[Table]:
    """All that have a row, in the page's order."""
    closed = [_accuracy(story), _differences(story), _arms(story), _subgroups(story), flow(story)] if story.has_closed else []
    return [table for table in [*closed, _open(story)] if table.rows]


def methods(story: Story) -> Table:
    """How it was done, item by item."""
    return Table("methods", "How it was done.", ("Item", "Text"), list(method.items(story)))


def flow(story: Story) -> Table:
    """What became of the questions with options."""
    columns = ("Model, arm", "Eligible", "Not asked", "Asked", *STATUSES, "Compared")
    rows = [
        (f"{f.model}, {f.arm}", *(str(n) for n in (f.eligible, f.not_asked, f.asked, *(f.statuses.get(s, 0) for s in STATUSES))), _or_dash(f.compared))
        for f in method.flows(story)
    ]
    return Table("flow", "Flow of the questions: eligible, asked, what was read, and compared with the own pictures.", columns, rows)


def _accuracy(story: Story) -> Table:
    names = [modality_name(m) for m in story.modalities]
    rows = [(row["label"], *map(_cell, row["cells"])) for row in table_rows(story, story.numbers)]
    n = len({s.id for s in story.asked})
    caption = f"Accuracy in per cent on {n} questions, greedy answers, with 95 % intervals. The mean weighs the modalities equally."
    return Table("accuracy", caption, ("", *names, "Mean"), rows)


def _differences(story: Story) -> Table:
    rows = [
        (f"{story.label(c['after'])} − {story.label(c['before'])}, {kind}", *_by_modality(story, pair), _difference(pair), p_value(pair["p_holm"]))
        for c in story.comparisons
        for kind, pair in (("greedy", c["greedy"]), ("sampled", c))
        if kind == "greedy" or c["measure"] == "sampled"
    ]
    names = [modality_name(m) for m in story.modalities]
    caption = "One model minus another in percentage points on the same questions, with 95 % intervals; p by sign flips of whole groups, adjusted by Holm for the comparisons."
    return Table("differences", caption, ("Compared", *names, "Mean", "p"), rows)


def _arms(story: Story) -> Table:
    rows = [
        (f"{story.label(name)}, {arm}", *(_cell(of.table.get(m, {})) for m in story.modalities), _cell(of.mean), *_lost(of.against, of.p_holm))
        for name, model in story.numbers.items()
        for arm, of in model.arms.items()
        if len(model.arms) > 1
    ]
    names = [modality_name(m) for m in story.modalities]
    caption = "Accuracy in per cent under each arm, and what is lost against the own pictures, in points; p adjusted for a model's arms (Holm)."
    return Table("arms", caption, ("Model, arm", *names, "Mean", "Lost", "p"), rows)


def _subgroups(story: Story) -> Table:
    rows: list[Row] = [
        (story.label(name), modality_name(modality), kind or "not stated", str(cell["n"]), _cell(cell))
        for name, model in story.numbers.items()
        for modality, kinds in model.by_type.items()
        for kind, cell in kinds.items()
    ]
    caption = "Accuracy in per cent by modality and question type, greedy answers, with 95 % intervals that are not adjusted for their number."
    return Table("subgroups", caption, ("Model", "Modality", "Question type", "n", "Accuracy"), rows)


def _open(story: Story) -> Table:
    rows: list[Row] = [
        (f"{story.label(name)}, {arm}", KINDS[kind].name, str(cells["mean"]["n"]), _cell({"accuracy": cells["mean"]["value"], "ci95": cells["mean"]["ci95"]}))
        for name, found in story.open_numbers.items()
        for arm, kinds in found["arms"].items()
        for kind, cells in kinds.items()
    ]
    caption = "Questions without options, by words alone, in per cent, mean over modalities, with 95 % intervals."
    return Table("open", caption, ("Model, arm", "Measure", "n", "Value"), rows)


def _cell(cell: Mapping[str, Any]) -> str:
    """
    >>> _cell({"accuracy": 0.703, "ci95": [0.653, 0.75]}), _cell({"accuracy": 0.33}), _cell({})
    ('70.3 (65.3–75.0)', '33.0', '–')
    """
    if not cell:
        return "–"
    return percent(cell["accuracy"]) + (f" ({interval(cell['ci95'])})" if cell.get("ci95") else "")


def _difference(pair: Mapping[str, Any]) -> str:
    return f"{points(pair['mean_difference'])}" + (f" ({interval(pair['ci95'], signed=True)})" if pair.get("ci95") else "")


def _by_modality(story: Story, pair: Mapping[str, Any]) -> Iterator[str]:
    return (_difference(pair["by_modality"][m]) if m in pair["by_modality"] else "–" for m in story.modalities)


def _lost(against: Mapping[str, Any] | None, p: float | None) -> Row:
    return (_difference(against["greedy"]), "–" if p is None else p_value(p)) if against else ("–", "–")


def _or_dash(n: int | None) -> str:
    return "–" if n is None else str(n)
