"""Ctrl-C (or a cluster's SIGTERM) ends a run between two steps, never inside one."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class Stop:
    """Becomes true once the run was asked to stop; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.asked = False

    def __bool__(self) -> bool:
        return self.asked

    def handle(self, number: int, frame: object) -> None:
        """The signal handler."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        sys.stderr.write("\nstopping after this step; Ctrl-C again stops at once and loses what is not saved\n")


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Catch SIGINT and SIGTERM for the time of a training loop."""
    stop = Stop()
    before = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
