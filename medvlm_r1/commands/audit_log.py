"""``medvlm-r1 audit-log``: is the account of what was answered whole, and what did readers do?"""

from argparse import Namespace
from pathlib import Path

from medvlm_r1.commands.options import Commands, add
from medvlm_r1.errors import ConfigError
from medvlm_r1.files import output_errors, require_other

EXAMPLES = """
  medvlm-r1 audit-log verify runs/audit.jsonl                      names the first bad line; prints the hash to keep elsewhere
  medvlm-r1 audit-log verify runs/audit.jsonl --anchor 5f0c…       and says whether lines are missing since that hash was kept
  medvlm-r1 audit-log reads runs/audit.jsonl reads.csv             one row a read: own answer, the model's, the final one, seconds
"""


def register(commands: Commands) -> None:
    """Two things to do."""
    sub = add(commands, "audit-log", "check the account that serve keeps, and make a table of its reads", EXAMPLES, run)
    sub.add_argument("action", choices=("verify", "reads"))
    sub.add_argument("file", type=Path)
    sub.add_argument("out", type=Path, nargs="?", help="reads: the CSV file to write")
    sub.add_argument("--anchor", default="", metavar="HASH", help="the hash that an earlier check printed")


def run(arguments: Namespace) -> int:
    """How many lines hold, and the last one's hash; the reads as a table, from a log that is whole."""
    from medvlm_r1.reading import study
    from medvlm_r1.serving.audit_log import verify

    if (arguments.out is None) == (arguments.action == "reads"):
        raise ConfigError("audit-log reads wants the log and the CSV file to write, audit-log verify the log alone")
    if arguments.out:
        require_other(arguments.out, "the table", arguments.file)
    found = verify(arguments.file, arguments.anchor)
    print(f"{found.n} lines, each follows the one before")
    print(f"head {found.head}")
    if arguments.out:
        rows = study.reads(study.read_log(arguments.file))
        with output_errors(arguments.out):
            arguments.out.write_text(study.table(rows), encoding="utf-8")
        print(f"{arguments.out}: {study.summary(rows)}")
    return 0
