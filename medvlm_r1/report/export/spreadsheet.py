"""An evaluation for a spreadsheet: every sample as a row, and the table of results.

A cell of text that a spreadsheet would take for a formula gets an apostrophe in front,
which spreadsheets read as "this is text": a model's answer, or a question set from
elsewhere, must not run on a reader's machine.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from medvlm_r1.evaluation.measuring.metrics import Arms
from medvlm_r1.evaluation.samples import Sample

SAMPLE_COLUMNS = (
    "id", "modality", "question_type", "group", "arm", "gold", "answer", "status", "correct", "n_tokens", "sampled_accuracy", "text",
)  # fmt: skip
TABLE_COLUMNS = ("row", "measure", "modality", "n", "value", "ci95_low", "ci95_high", "p", "sampled")
_FORMULA = tuple("=+-@＝＋－＠")


def write(arms: Arms, summary: Mapping[str, Any], out: Path) -> list[Path]:
    """``samples.csv`` and ``table.csv`` in ``out``."""
    _save(out / "samples.csv", SAMPLE_COLUMNS, (sample_row(sample) for samples in arms.values() for sample in samples))
    _save(out / "table.csv", TABLE_COLUMNS, table_rows(summary))
    return [out / "samples.csv", out / "table.csv"]


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


def table_rows(summary: Mapping[str, Any]) -> Iterator[list[Any]]:
    """In the order of TABLE_COLUMNS: arms, baselines, differences, each by modality and as the mean over modalities."""
    for arm, cells in summary["arms"].items():
        for modality, cell in _cells(cells):
            yield [arm, "accuracy", modality, cell["n"], cell["accuracy"], *cell["ci95"], None, cell.get("sampled")]
        whole = summary["overall"][arm]
        yield [arm, "accuracy", "mean", whole["n"], whole["accuracy"], *whole["ci95"], None, whole["sampled"]]
    for name, cells in summary.get("baselines", {}).items():
        for modality, cell in _cells(cells):
            yield [name, "accuracy", modality, cell.get("n"), cell["accuracy"], *cell.get("ci95", (None, None)), None, None]
    for pair, found in summary.get("paired", {}).items():
        measures = {"greedy": found["greedy"]} | ({"sampled": found} if found["measure"] == "sampled" else {})
        for measure, numbers in measures.items():
            for modality, cell in [*numbers["by_modality"].items(), ("mean", numbers)]:
                yield [pair, f"difference, {measure}", modality, cell.get("n"), cell["mean_difference"], *cell["ci95"], cell["p"], None]


def _cells(cells: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((modality, cell) for modality, cell in cells.items() if isinstance(cell, Mapping))


def _save(path: Path, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """UTF-8 with a mark in front, without which Excel takes it for something else."""
    with path.open("w", encoding="utf-8-sig", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([defused(value) for value in row] for row in rows)
