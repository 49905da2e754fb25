"""``medvlm-r1 audit``: what a question set gives away without its pictures, and what its pictures repeat."""

import json
from argparse import Namespace
from pathlib import Path

from medvlm_r1.commands.options import Commands, add, whole

EXAMPLES = """
  medvlm-r1 audit --data questions.jsonl --html runs/audit.html                  every check, learnt from its own questions
  medvlm-r1 audit --data "q.jsonl?split=test" --train "q.jsonl?split=train" --html runs/audit.html
  medvlm-r1 audit --data q.jsonl --images none --json                            the texts alone, for a script
"""


def register(commands: Commands) -> None:
    """Which questions, held against which, and how deep."""
    sub = add(commands, "audit", "what a question set gives away without its pictures, and what its pictures repeat", EXAMPLES, run)
    sub.add_argument("--data", required=True, help="the questions to audit: a manifest, a folder with one, or phantom:mri")
    trained_on = "what a model is trained on; if left out, the split=train part of --data, else its other questions"
    sub.add_argument("--train", metavar="DATA", help=trained_on)
    sub.add_argument("--train-size", type=whole(1), default=600, metavar="N", help="questions the text prior learns from (default: %(default)s)")
    sub.add_argument("--draws", type=whole(1), default=20, metavar="K", help="how often they are drawn anew (default: %(default)s)")
    sub.add_argument("--images", choices=("files", "all", "none"), default="files", help="pictures to compare; all: phantoms too (default: %(default)s)")
    sub.add_argument("--html", type=Path, metavar="FILE", help="write the audit as a page")
    sub.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: Namespace) -> int:
    """The verdict, or everything as JSON; the page in --html."""
    from rich.console import Console
    from rich.progress import Progress

    from medvlm_r1.audit import checks
    from medvlm_r1.audit.duplicates import n_pictures
    from medvlm_r1.data.images import load_image
    from medvlm_r1.files import writing
    from medvlm_r1.report.audit_page import render_audit

    examples, train, names = checks.sides(arguments.data, arguments.train)
    config = checks.AuditConfig(arguments.train_size, arguments.draws, arguments.images)
    page: Path | None = arguments.html
    if page:
        with writing(page.parent, "--html"):
            page.parent.mkdir(parents=True, exist_ok=True)
    with Progress(console=Console(stderr=True)) as progress:
        total = n_pictures(examples, train, config.images)
        bar = progress.add_task("pictures", total=total, visible=total > 0)
        report = names | checks.audit(examples, train, config, lambda n: progress.advance(bar, n))
    if page:
        with writing(page, "--html"):
            page.write_text(render_audit(report, load_image), encoding="utf-8")
    print(json.dumps(report, indent=2) if arguments.json else checks.summary(report))
    if page and not arguments.json:
        print(f"\nreport: {page}")
    return 0
