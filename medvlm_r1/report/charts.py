"""Inline SVG charts. Colours and fonts come from the page's style sheet, by class name.

Strips (intervals, before → after) use percent coordinates, so that they fill
any width while text keeps its size; curves use a view box.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

ROW_PX = 26
AXIS_PX = 20
DASHES = ("", "6 3", "2 3", "8 3 2 3")
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Mark:
    """One row of an interval chart, in fractions of 1.

    ``role`` is "baseline", "model" or "trained"; ``sampled`` stands as a diamond beside the dot.

    >>> Mark("GRPO", 0.78, (0.75, 0.81), "trained").sampled is None
    True
    """

    label: str
    value: float
    ci95: tuple[float, float] | None = None
    role: str = "model"
    sampled: float | None = None


@dataclass(frozen=True)
class Change:
    """One row of a before → after chart, in fractions of 1; n questions."""

    label: str
    before: float
    after: float
    n: int


def forest(title: str, marks: Sequence[Mark], chance: float | None) -> Markup:
    """A dot and its 95 % interval per row, with a dashed line at chance."""
    height = ROW_PX * len(marks)
    parts = [_grid(height)]
    if chance is not None:
        parts.append(line("chance", chance, chance, 0, height))
    for row, mark in enumerate(marks):
        y = ROW_PX * (row + 0.5)
        if mark.ci95:
            parts.append(line(f"whisker {mark.role}", *mark.ci95, y, y))
        if mark.sampled is not None:
            parts.append(_diamond(f"sampled {mark.role}", mark.sampled, y))
        parts.append(dot(f"dot {mark.role}", mark.value, y))
    spoken = "; ".join(f"{mark.label} {_percent(mark.value)}" for mark in marks)
    return _strip(title, [mark.label for mark in marks], parts, f"{title}, accuracy: {spoken}")


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart, in fractions of 1; ``role`` is "baseline" or "prior".

    >>> Bar("Text prior", 0.992, (0.98, 1.0)).role
    'prior'
    """

    label: str
    value: float
    ci95: tuple[float, float] | None = None
    role: str = "prior"


def bars(title: str, rows: Sequence[Bar], chance: float) -> Markup:
    """A bar and its 95 % interval per row, its value behind it, and a dashed line at chance."""
    height = ROW_PX * len(rows)
    parts = [_grid(height)]
    for row, bar in enumerate(rows):
        top = ROW_PX * row + 4
        box = '<rect class="level {}" x="0" y="{}" width="{}" height="{}"/>'
        parts.append(Markup(box).format(bar.role, top, _x(bar.value), ROW_PX - 8))
        if bar.ci95:
            parts.append(line("whisker", *bar.ci95, top + ROW_PX / 2 - 4, top + ROW_PX / 2 - 4))
        parts.append(Markup('<text class="value" x="100%" dx="10" y="{}">{}</text>').format(top + 14, f"{100 * bar.value:.1f}"))
    parts.append(line("chance", chance, chance, 0, height))
    spoken = "; ".join(f"{bar.label} {_percent(bar.value)}" for bar in rows)
    return _strip(title, [bar.label for bar in rows], parts, f"{title}, accuracy: {spoken}")


def dumbbells(title: str, rows: Sequence[Change], chance: float | None = None) -> Markup:
    """Hollow dot before, filled dot after, one row per question type."""
    height = ROW_PX * len(rows)
    parts = [_grid(height)]
    if chance is not None:
        parts.append(line("chance", chance, chance, 0, height))
    for row, change in enumerate(rows):
        y = ROW_PX * (row + 0.5)
        kind = "gain" if change.after >= change.before else "loss"
        parts.append(line(f"change {kind}", change.before, change.after, y, y))
        parts.append(dot("dot before", change.before, y))
        parts.append(dot(f"dot after {kind}", change.after, y))
    spoken = "; ".join(f"{c.label} from {_percent(c.before)} to {_percent(c.after)}" for c in rows)
    return _strip(title, [f"{c.label} ({c.n})" for c in rows], parts, f"{title}: {spoken}")


def _strip(title: str, labels: Iterable[str], parts: list[Markup], spoken: str) -> Markup:
    items = [Markup('<li title="{0}">{0}</li>').format(label) for label in labels]
    return Markup(
        '<div class="panel"><h3>{}</h3><div class="strip"><ul class="names" aria-hidden="true">{}</ul>'
        '<svg role="img" aria-label="{}" width="100%" height="{}">{}</svg></div></div>'
    ).format(title, Markup("").join(items), spoken, ROW_PX * len(items) + AXIS_PX, Markup("").join(parts))


def _grid(height: int) -> Markup:
    lines = [line("grid", x, x, 0, height) for x in (0, 0.25, 0.5, 0.75, 1)]
    for x, anchor in ((0, "start"), (0.5, "middle"), (1, "end")):
        label = '<text x="{}" y="{}" text-anchor="{}" class="tick">{}</text>'
        lines.append(Markup(label).format(_x(x), height + 15, anchor, f"{100 * x:g}"))
    return Markup("").join(lines)


def line(name: str, x1: float, x2: float, y1: float, y2: float) -> Markup:
    """From x1 to x2 in fractions of the width, y in pixels."""
    return Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(name, _x(x1), _x(x2), y1, y2)


def dot(name: str, x: float, y: float) -> Markup:
    """A filled circle; the class gives its colour."""
    return Markup('<circle class="{}" cx="{}" cy="{}" r="4.5"/>').format(name, _x(x), y)


def _diamond(name: str, x: float, y: float) -> Markup:
    """A nested picture carries the percent; inside it the path is in pixels."""
    path = '<svg x="{}" y="{}" overflow="visible"><path class="{}" d="M0-5 5 0 0 5-5 0z"/></svg>'
    return Markup(path).format(_x(x), y, name)


def _x(fraction: float) -> str:
    return f"{100 * min(1.0, max(0.0, fraction)):.2f}%"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"


def curves(title: str, series: dict[str, Points]) -> Markup:
    """One line per run over the training steps; the thin line is what was measured, the bold one its running mean."""
    finite = {name: [p for p in points if math.isfinite(p[1])] for name, points in series.items()}
    finite = {name: points for name, points in finite.items() if points}
    if not finite:
        return Markup("")
    xs = [x for points in finite.values() for x, _ in points]
    ys = [y for points in finite.values() for _, y in points]
    y_ticks, x_ticks = ticks(min(0.0, *ys), max(ys)), ticks(min(xs), max(xs))
    frame = Frame(min(xs), max(xs), y_ticks[0], max(y_ticks[-1], max(ys)))
    parts = [frame.axes([x for x in x_ticks if min(xs) <= x <= max(xs)], y_ticks)]
    for name, points in finite.items():
        index = list(series).index(name)
        parts.append(frame.path(f"raw run{index}", points, ""))
        parts.append(frame.path(f"run run{index}", smooth(points), DASHES[index % len(DASHES)]))
        parts.append(frame.end(f"run{index}", smooth(points)[-1]))
    spoken = "; ".join(f"{name} from {smooth(p)[0][1]:.3g} to {smooth(p)[-1][1]:.3g}" for name, p in finite.items())
    return Markup('<div class="panel"><h3>{}</h3><svg role="img" aria-label="{}" viewBox="0 0 {} {}">{}</svg></div>').format(
        title, f"{title} over training steps: {spoken}", Frame.WIDTH, Frame.HEIGHT, Markup("").join(parts)
    )


def growth(title: str, series: dict[str, Points], chances: dict[str, float], x_name: str) -> Markup:
    """One line per name over doubling sizes, its chance dotted beside it; y from 0 to 100 %."""
    sizes = sorted({x for points in series.values() for x, _ in points})
    if not sizes:
        return Markup("")
    frame = Frame(math.log2(sizes[0]), math.log2(sizes[-1]), 0, 100)
    shown = [size for i, size in enumerate(sizes) if i in (0, len(sizes) - 1) or size * 1.4 < sizes[-1]]
    parts = [frame.grid([0, 25, 50, 75, 100]), *(text(frame.x(math.log2(size)), frame.BOTTOM + 16, "middle", f"{size:g}") for size in shown)]
    parts.append(text(frame.RIGHT, frame.HEIGHT - 1, "end", x_name))
    for index, (name, points) in enumerate(series.items()):
        level = [(math.log2(x), 100 * chances[name]) for x in (sizes[0], sizes[-1])]
        drawn = [(math.log2(x), 100 * y) for x, y in points]
        parts.append(frame.path(f"guess run{index}", level, "1 3"))
        parts.append(frame.path(f"run run{index}", drawn, DASHES[index % len(DASHES)]))
        parts += [frame.end(f"run{index}", point) for point in drawn]
    spoken = "; ".join(f"{name} from {_percent(p[0][1])} to {_percent(p[-1][1])}" for name, p in series.items())
    return Markup('<div class="panel"><h3>{}</h3><svg role="img" aria-label="{}" viewBox="0 0 {} {}">{}</svg></div>').format(
        title, f"{title}: {spoken}", frame.WIDTH, frame.HEIGHT, Markup("").join(parts)
    )


class Frame:
    """From data to view-box coordinates."""

    WIDTH, HEIGHT = 320, 190
    LEFT, RIGHT, TOP, BOTTOM = 38, 306, 10, 162

    def __init__(self, x_low: float, x_high: float, y_low: float, y_high: float) -> None:
        self.x_low, self.x_span = x_low, (x_high - x_low) or 1.0
        self.y_low, self.y_span = y_low, (y_high - y_low) or 1.0

    def x(self, value: float) -> float:
        return round(self.LEFT + (self.RIGHT - self.LEFT) * (value - self.x_low) / self.x_span, 1)

    def y(self, value: float) -> float:
        return round(self.BOTTOM - (self.BOTTOM - self.TOP) * (value - self.y_low) / self.y_span, 1)

    def axes(self, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> Markup:
        parts = [self.grid(y_ticks), *(text(self.x(x), self.BOTTOM + 16, "middle", f"{x:g}") for x in x_ticks)]
        parts.append(text(self.RIGHT, self.HEIGHT - 1, "end", "step"))
        return Markup("").join(parts)

    def grid(self, y_ticks: Sequence[float]) -> Markup:
        lines = [_line_px("grid", self.LEFT, self.RIGHT, self.y(y)) for y in y_ticks]
        return Markup("").join([*lines, *(text(self.LEFT - 6, self.y(y) + 4, "end", f"{y:g}") for y in y_ticks)])

    def path(self, name: str, points: Points, dash: str) -> Markup:
        d = "M" + " ".join(f"{self.x(x)},{self.y(y)}" for x, y in points)
        return Markup('<path class="{}" d="{}" stroke-dasharray="{}"/>').format(name, d, dash or "none")

    def end(self, name: str, point: tuple[float, float]) -> Markup:
        circle = '<circle class="end {}" cx="{}" cy="{}" r="3"/>'
        return Markup(circle).format(name, self.x(point[0]), self.y(point[1]))


def _line_px(name: str, x1: float, x2: float, y: float) -> Markup:
    return Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(name, x1, x2, y, y)


def text(x: float, y: float, anchor: str, words: str) -> Markup:
    """Words beside an axis of a view box."""
    return Markup('<text class="tick" x="{}" y="{}" text-anchor="{}">{}</text>').format(x, y, anchor, words)


def legend(names: Sequence[str]) -> Markup:
    """The runs of ``curves`` by colour and dash; empty for a single run."""
    item = '<li><svg width="28" height="10" aria-hidden="true"><path class="run run{0}" d="M0,5H28" stroke-dasharray="{1}"/></svg>{2}</li>'
    items = [Markup(item).format(i, DASHES[i % len(DASHES)] or "none", escape(name)) for i, name in enumerate(names)]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(items)) if len(items) > 1 else Markup("")


def smooth(points: Points, share: float = 0.1) -> Points:
    """Centred running mean over about ``share`` of the points, one-sided at both ends.

    >>> smooth([(1, 0.0), (2, 3.0), (3, 0.0)], share=1.0)
    [(1, 1.5), (2, 1.0), (3, 1.5)]
    """
    half = round(share * len(points)) // 2
    windows = [points[max(0, i - half) : i + half + 1] for i in range(len(points))]
    return [(x, sum(y for _, y in window) / len(window)) for (x, _), window in zip(points, windows, strict=True)]


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers that cover low … high.

    >>> ticks(0, 1.83)
    [0.0, 0.5, 1.0, 1.5, 2.0]
    >>> ticks(3, 3)
    [3.0, 3.5, 4.0]
    """
    span = (high - low) or 1.0
    rough = span / wanted
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(m * scale for m in (1, 2, 5, 10) if m * scale >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 2) + 1)]
