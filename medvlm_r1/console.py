"""What a person who waits reads, on stderr: results alone go to stdout."""

import os
from collections.abc import Callable

from rich.console import Console
from rich.progress import Progress, TaskID

_hushed = False


class _Stderr(Console):
    """Work goes on when nobody reads any more what is said of it."""

    def on_broken_pipe(self) -> None:
        """As `tee` that was stopped leaves it."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def hush() -> None:
    """Say nothing more: of many processes that do the same, one speaks."""
    global _hushed
    _hushed = True


def stderr() -> Console:
    """Where it is written. A notebook gets plain lines: it calls itself a terminal and is none, and rich's own display wants one more package."""
    console = _Stderr(stderr=True, quiet=_hushed)
    return _Stderr(stderr=True, force_jupyter=False, force_terminal=False) if console.is_jupyter else console


def notice(text: str, console: Console | None = None) -> None:
    """One plain line."""
    (console or stderr()).print(text, markup=False, highlight=False, soft_wrap=True)


def follow(progress: Progress, bar: TaskID, before: int = 0) -> Callable[[int], None]:
    """What moves a bar to how many are done, ``before`` and since."""
    return lambda done: progress.update(bar, completed=before + done)
