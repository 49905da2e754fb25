"""What a question set gives away, as numbers and as a page."""

from pathlib import Path

from rich.progress import Progress

from medvlm_r1.audit import checks
from medvlm_r1.audit.duplicates import n_pictures
from medvlm_r1.console import stderr
from medvlm_r1.data.images import load_image
from medvlm_r1.files import output_errors, require_other
from medvlm_r1.report.audit_page import render_audit


def audit(data: str, train: str | None, config: checks.AuditConfig, html: Path | None = None) -> checks.Report:
    """Every check of ``data``, held against ``train``; the page goes to ``html``."""
    examples, learnt, names = checks.sides(data, train)
    if html:
        require_other(html, "--html", data, train)
        with output_errors(html.parent, "--html"):
            html.parent.mkdir(parents=True, exist_ok=True)
    with Progress(console=stderr()) as progress:
        total = n_pictures(examples, learnt, config.images)
        bar = progress.add_task("pictures", total=total, visible=total > 0)
        report = names | checks.audit(examples, learnt, config, lambda n: progress.advance(bar, n))
    if html:
        with output_errors(html, "--html"):
            html.write_text(render_audit(report, load_image), encoding="utf-8")
    return report
