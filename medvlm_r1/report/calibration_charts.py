"""Two pictures of what a model's confidence is worth, drawn from what ``calibration`` measures."""

from typing import Any

from markupsafe import Markup

from medvlm_r1.report.charts import Frame, text

_PANEL = '<div class="panel"><h3>{}</h3><svg role="img" aria-label="{}" viewBox="0 0 {} {}">{}</svg></div>'
_TICKS = [0, 25, 50, 75, 100]


def reliability_diagram(title: str, found: dict[str, Any]) -> Markup:
    """A dot per bin of confidence, its area by the number of questions, its whisker the 95 % interval; dashed: confidence kept."""
    frame, rows = Frame(0, 100, 0, 100), found["bins"]
    parts = [_axes(frame, "confidence, %"), frame.path("chance", [(0, 0), (100, 100)], "4 3")]
    most = max((row["n"] for row in rows), default=1)
    for row in rows:
        x = 100 * row["confidence"]
        parts += [frame.path("whisker trained", [(x, 100 * end) for end in row["ci95"]], "none")] if row["ci95"] else []
        circle = '<circle class="dot trained" cx="{}" cy="{}" r="{}"/>'
        parts.append(Markup(circle).format(frame.x(x), frame.y(100 * row["accuracy"]), round(2 + 5 * (row["n"] / most) ** 0.5, 1)))
    spoken = "; ".join(f"confidence {100 * row['confidence']:.0f} %, right {100 * row['accuracy']:.0f} % of {row['n']}" for row in rows)
    return _panel(title, f"{title}, reliability: {spoken}", parts)


def risk_coverage_curve(title: str, found: dict[str, Any]) -> Markup:
    """Errors among those answered, when only the most confident share is answered."""
    points = [(100 * step["coverage"], 100 * step["error"]) for step in found["risk_coverage"]]
    if not points:
        return Markup("")
    frame = Frame(0, 100, 0, 100)
    parts = [_axes(frame, "answered, %"), frame.path("run run0", points, "none"), frame.end("run0", points[-1])]
    spoken = "; ".join(f"{x:.0f} % answered, {y:.0f} % of them wrong" for x, y in points[:: max(1, len(points) // 5)])
    return _panel(title, f"{title}, risk and coverage: {spoken}", parts)


def _axes(frame: Frame, x_name: str) -> Markup:
    ticks = [text(frame.x(x), frame.BOTTOM + 16, "middle", f"{x:g}") for x in _TICKS]
    return Markup("").join([frame.grid(_TICKS), *ticks, text(frame.RIGHT, frame.HEIGHT + 8, "end", x_name)])


def _panel(title: str, spoken: str, parts: list[Markup]) -> Markup:
    return Markup(_PANEL).format(title, spoken, Frame.WIDTH, Frame.HEIGHT + 12, Markup("").join(parts))
