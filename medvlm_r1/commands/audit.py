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
    from medvlm_r1.audit.checks import AuditConfig, summary
    from medvlm_r1.launch.auditing import audit

    page: Path | None = arguments.html
    report = audit(arguments.data, arguments.train, AuditConfig(arguments.train_size, arguments.draws, arguments.images), page)
    print(json.dumps(report, indent=2) if arguments.json else summary(report))
    if page and not arguments.json:
        print(f"\nreport: {page}")
    return 0
