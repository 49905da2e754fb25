"""Ctrl-C (or a cluster's SIGTERM) ends a run between two steps, never inside one."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from medvlm_r1.training.distributed import current


class Stop:
    """Becomes true once the run was asked to stop; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.asked = False

    def __bool__(self) -> bool:
        return self.asked

    def agreed(self) -> bool:
        """Was any rank asked? All of them must ask, and stop after the same step."""
        self.asked = bool(current().most(self.asked))
        return self.asked

    def handle(self, number: int, frame: object) -> None:
        """The signal handler."""
        if self.asked and current().size == 1:  # torchrun hands on the signal that a terminal has sent already
            raise KeyboardInterrupt
        self.asked = True
        if current().leads:
            sys.stderr.write("\nstopping after this step; Ctrl-C again stops at once and loses what is not saved\n")


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Catch SIGINT and SIGTERM for the time of a training loop; a thread that is not the main one gets no signals."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
