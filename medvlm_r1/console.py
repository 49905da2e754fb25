"""What a person who waits reads, on stderr: results alone go to stdout."""

from rich.console import Console


def notice(text: str, console: Console | None = None) -> None:
    """One plain line."""
    (console or Console(stderr=True)).print(text, markup=False, highlight=False, soft_wrap=True)
