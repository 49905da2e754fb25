"""A rank does not outlive the torchrun that started it.

torchrun gives each rank a session of its own. Killed outright, by the kernel's memory killer or a scheduler, it would leave them behind: they would
train on, and write into the same folder as the run that is started in their place.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2)


def die_with_parent() -> None:
    """From now on this process is killed when its parent is gone; on Linux, which alone can do so."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it went before we asked
        os.kill(os.getpid(), signal.SIGKILL)
