"""An evaluation for a spreadsheet: every sample as a row, and the table of results.

A cell of text that a spreadsheet would take for a formula gets an apostrophe in front,
which spreadsheets read as "this is text": a model's answer, or a question set from
elsewhere, must not run on a reader's machine.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medvlm_r1.evaluation.measuring.measured import ModelNumbers
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.report.comparing import Evaluation
from medvlm_r1.report.story import Story, baselines
from medvlm_r1.report.tables import methods, tables
from medvlm_r1.rewards.text import Overlap, is_yes_no

SAMPLE_COLUMNS = (
    "id", "modality", "question_type", "group", "arm", "gold", "answer", "status", "correct", "n_tokens", "sampled_accuracy", "text",
)  # fmt: skip
OPEN_COLUMNS = (
    "id", "modality", "question_type", "group", "arm", "question", "gold", "answer", "status", "correct", "f1", "recall", "judged", "n_tokens",
    "sampled_accuracy", "text",
)  # fmt: skip
_NO_CI = (None, None)  # too few patients
TABLE_COLUMNS = ("row", "measure", "modality", "n", "value", "ci95_low", "ci95_high", "p", "p_holm", "sampled")
Columns = tuple[Iterable[str], Iterable[Iterable[Any]]]
_FORMULA = tuple("=+-@＝＋－＠")


def write(found: Sequence[Evaluation], told: Story, out: Path) -> list[Path]:
    """``samples.csv``, ``table.csv`` and, as the page has them, ``flow.csv``, ``subgroups.csv`` and ``methods.csv`` in ``out``.

    Questions without options stand apart, in ``open-samples.csv`` and ``open-table.csv``. Of several models the rows begin with the model.
    """
    files = _of_one(found[0]) if len(found) == 1 else _of_several(found, told)
    shown = {table.name: (table.columns, table.rows) for table in (*tables(told), methods(told)) if table.name in ("flow", "subgroups", "methods")}
    for name, (columns, rows) in (files | shown).items():
        _save(out / f"{name}.csv", columns, rows)
    return [out / f"{name}.csv" for name in files | shown]


def _of_one(found: Evaluation) -> dict[str, Columns]:
    files: dict[str, Columns] = {}
    if found.arms:
        files |= {"samples": (SAMPLE_COLUMNS, map(sample_row, _all(found.arms))), "table": (TABLE_COLUMNS, table_rows(found.summary))}
    if found.open:
        files |= {"open-samples": (OPEN_COLUMNS, map(open_row, _all(found.open))), "open-table": (TABLE_COLUMNS, open_rows(found.summary["open"]))}
    return files


def _of_several(found: Sequence[Evaluation], told: Story) -> dict[str, Columns]:
    """The table's last rows, without a model, are baselines and differences between models."""
    files: dict[str, Columns] = {}
    if told.has_closed:
        samples = ([e.name, *sample_row(sample)] for e in found for sample in _all(e.arms))
        between = {f"{pair['after']}-{pair['before']}": pair for pair in told.comparisons}
        rows = [[name, *row] for name, numbers in told.numbers.items() for row in table_rows(_summary(numbers))]
        rows += [["", *row] for row in table_rows({"arms": {}, "paired": between, "baselines": baselines(told)})]
        files |= {"samples": (("model", *SAMPLE_COLUMNS), samples), "table": (("model", *TABLE_COLUMNS), rows)}
    if told.open:
        free = ([e.name, *open_row(sample)] for e in found for sample in _all(e.open))
        open_table = ([name, *row] for name, numbers in told.open_numbers.items() for row in open_rows(numbers))
        files |= {"open-samples": (("model", *OPEN_COLUMNS), free), "open-table": (("model", *TABLE_COLUMNS), open_table)}
    return files


def _summary(numbers: ModelNumbers) -> dict[str, Any]:
    """One model's numbers in the form of summary.json."""
    arms = numbers.arms
    paired = {f"image-{name}": of.against | {"greedy": of.against["greedy"] | {"p_holm": of.p_holm}} for name, of in arms.items() if of.against}
    return {"arms": {name: of.table for name, of in arms.items()}, "overall": {name: of.mean for name, of in arms.items()}, "paired": paired}


def _all(arms: Mapping[str, Iterable[Sample]]) -> Iterator[Sample]:
    return (sample for samples in arms.values() for sample in samples)


def defused(value: Any) -> Any:
    """Text that cannot be taken for a formula; anything else as it is.

    >>> defused("=1+1"), defused(" @SUM(A1)"), defused("B"), defused(-0.5), defused(None)
    ("'=1+1", "' @SUM(A1)", 'B', -0.5, None)
    """
    is_formula = isinstance(value, str) and (value[:1] in ("\t", "\r", "\n") or value.lstrip().startswith(_FORMULA))
    return f"'{value}" if is_formula else value


def sample_row(sample: Sample) -> list[Any]:
    """In the order of SAMPLE_COLUMNS; right is 1 and wrong is 0, so that their mean is the accuracy."""
    return [int(value) if isinstance(value := getattr(sample, name), bool) else value for name in SAMPLE_COLUMNS]


def open_row(sample: Sample) -> list[Any]:
    """In the order of OPEN_COLUMNS; ``correct`` is the rule's verdict, ``f1`` and ``recall`` of yes/no questions are left out."""
    words = {} if is_yes_no(sample.gold) else vars(Overlap.of(sample.answer or "", sample.gold))
    values = (words.get(name) if name in ("f1", "recall") else getattr(sample, name) for name in OPEN_COLUMNS)
    return [int(value) if isinstance(value, bool) else value for value in values]


def table_rows(summary: Mapping[str, Any]) -> Iterator[list[Any]]:
    """In the order of TABLE_COLUMNS: arms, baselines, differences, each by modality and as the mean over modalities."""
    for arm, cells in summary["arms"].items():
        for modality, cell in _cells(cells):
            yield [arm, "accuracy", modality, cell["n"], cell["accuracy"], *(cell["ci95"] or _NO_CI), None, None, cell.get("sampled")]
        whole = summary["overall"][arm]
        yield [arm, "accuracy", "mean", whole["n"], whole["accuracy"], *(whole["ci95"] or _NO_CI), None, None, whole["sampled"]]
    for name, cells in summary.get("baselines", {}).items():
        for modality, cell in _cells(cells):
            yield [name, "accuracy", modality, cell.get("n"), cell["accuracy"], *(cell.get("ci95") or _NO_CI), None, None, None]
    for pair, found in summary.get("paired", {}).items():
        measures = {"greedy": found["greedy"]} | ({"sampled": found} if found["measure"] == "sampled" else {})
        for measure, numbers in measures.items():
            for modality, cell in [*numbers["by_modality"].items(), ("mean", numbers)]:
                yield [pair, f"difference, {measure}", modality, *_difference(cell)]


def open_rows(found: Mapping[str, Any]) -> Iterator[list[Any]]:
    """In the order of TABLE_COLUMNS, from ``open`` of the summary: arms, differences, and how far a judge agrees."""
    for arm, kinds in found["arms"].items():
        for kind, cells in kinds.items():
            for modality, cell in cells.items():
                yield [arm, kind, modality, cell["n"], cell["value"], *(cell["ci95"] or _NO_CI), None, None, cell["sampled"]]
    for pair, kinds in found["paired"].items():
        for kind, numbers in kinds.items():
            for modality, cell in [*numbers["greedy"]["by_modality"].items(), ("mean", numbers["greedy"])]:
                yield [pair, f"difference, greedy, {kind}", modality, *_difference(cell)]
    for arm, judge in found["judge"].items():
        yield [arm, "right by the judge", "mean", judge["n"], judge["right"], *(judge["right_ci95"] or _NO_CI), None, None, None]
        yield [arm, "judge agrees with rule", "all", judge["judged"], judge["agrees"], *(judge["agrees_ci95"] or _NO_CI), None, None, None]
        yield [arm, "kappa of judge and rule", "all", judge["judged"], judge["kappa"], *(judge["kappa_ci95"] or _NO_CI), None, None, None]


def _difference(cell: Mapping[str, Any]) -> list[Any]:
    return [cell.get("n"), cell["mean_difference"], *(cell["ci95"] or _NO_CI), cell["p"], cell.get("p_holm"), None]


def _cells(cells: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((modality, cell) for modality, cell in cells.items() if isinstance(cell, Mapping))


def _save(path: Path, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """UTF-8 with a mark in front, without which Excel takes it for something else."""
    with path.open("w", encoding="utf-8-sig", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([defused(value) for value in row] for row in rows)
