"""``medvlm-r1 audit-log``: is the account of what was answered whole?"""

from argparse import Namespace
from pathlib import Path

from medvlm_r1.commands.options import Commands, add

EXAMPLES = """
  medvlm-r1 audit-log verify runs/audit.jsonl                      names the first bad line; prints the hash to keep elsewhere
  medvlm-r1 audit-log verify runs/audit.jsonl --anchor 5f0c…       and says whether lines are missing since that hash was kept
"""


def register(commands: Commands) -> None:
    """One thing to do."""
    sub = add(commands, "audit-log", "check the account that serve keeps", EXAMPLES, run)
    sub.add_argument("action", choices=("verify",))
    sub.add_argument("file", type=Path)
    sub.add_argument("--anchor", default="", metavar="HASH", help="the hash that an earlier check printed")


def run(arguments: Namespace) -> int:
    """How many lines hold, and the last one's hash."""
    from medvlm_r1.serving.audit_log import verify

    found = verify(arguments.file, arguments.anchor)
    print(f"{found.n} lines, each follows the one before")
    print(f"head {found.head}")
    return 0
