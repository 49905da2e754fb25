"""Rewards of the user's own: functions in a file that a configuration names as FILE:FUNCTION.

The file is Python that runs here with the user's rights, so it is one that the user wrote and named; nothing
is fetched. What runs is the text that is hashed: no compiled copy is written or read.
"""

import hashlib
import sys
import traceback
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from medvlm_r1.errors import RewardError, nearest


def is_own(name: str) -> bool:
    """Does a reward's name say where its function is?

    >>> is_own("my.py:organ"), is_own("accuracy")
    (True, False)
    """
    return ":" in name


def load(name: str) -> Callable[..., Any]:
    """The function behind FILE:FUNCTION; the file lies relative to the working directory. Raises RewardError."""
    (path, _, function), source = name.rpartition(":"), _read(name)
    try:
        module = _module(path, source)
    except (Exception, SystemExit) as error:
        raise RewardError(f'reward "{name}": "{path}" cannot be loaded: {told(error, path)}; mend it and start again') from error
    found = getattr(module, function, None)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise RewardError(f'reward "{name}": "{path}" has no function "{function}"{nearest(function, functions) if functions else ""}')
    return found


def sha256(name: str) -> str:
    """Of the file behind FILE:FUNCTION, 64 hex digits. Raises RewardError."""
    return hashlib.sha256(_read(name)).hexdigest()


def _read(name: str) -> bytes:
    path = name.rpartition(":")[0]
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise RewardError(f'reward "{name}": cannot read "{path}" ({error.strerror}); write FILE:FUNCTION, FILE relative to "{Path.cwd()}"') from error


@lru_cache(maxsize=16)
def _module(path: str, source: bytes) -> ModuleType:
    """What the file defines, run once; a file that has changed is another module."""
    module = ModuleType(f"own_reward_{hashlib.sha256(source).hexdigest()[:12]}")
    module.__file__ = path
    sys.modules[module.__name__] = module  # where a dataclass looks for the names of its own module
    exec(compile(source, path, "exec"), vars(module))
    return module


def told(error: BaseException, path: str = "") -> str:
    """An exception in one line: its kind, its first line, and where in the file ``path`` it arose.

    >>> told(ZeroDivisionError("division by zero\\nmore"))
    'ZeroDivisionError: division by zero'
    """
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if path and frame.filename == path]
    place = f" in line {lines[-1]}" if lines else ""
    return f"{type(error).__name__}{place}" + (f": {text.splitlines()[0]}" if (text := str(error)) else "")
