"""Every error a user can cause, in one hierarchy.

Each class is also the standard-library error a Python caller would expect, so
``except ValueError`` keeps working. A message names the place (file, line, id),
shows the value, and says the remedy, in one sentence. The command line prints
it without a traceback and exits with code 2.
"""

import difflib
import shlex
import sys
from collections.abc import Iterable


class MedVLMError(Exception):
    """Base of all errors that are the input's fault, not the program's."""


class ConfigError(MedVLMError, ValueError):
    """An unknown recipe or key, or a value of the wrong type."""


class DataError(MedVLMError, ValueError):
    """A manifest line, an answer or an option that cannot be used."""


class TooLong(DataError):
    """A question that does not fit the model's context. ``max_pixels``: the image budget with which it does, None where none helps."""

    def __init__(self, message: str, max_pixels: int | None = None) -> None:
        super().__init__(message)
        self.max_pixels = max_pixels


class ImageError(MedVLMError, OSError):
    """An image that is missing, truncated or of an unknown kind."""


class ModelError(MedVLMError, OSError):
    """A model directory that cannot be loaded as it stands."""


class RunError(MedVLMError, FileExistsError):
    """A run directory that is in use, belongs to another run, or is full."""


class EngineError(MedVLMError, RuntimeError):
    """A generation engine that failed or answered nonsense."""


class RewardError(MedVLMError, ValueError):
    """A reward that cannot be loaded, fails, or gives no finite number."""


class NotFiniteError(MedVLMError, FloatingPointError):
    """Training that came to a loss, gradients or weights that are not finite; what was saved before is kept."""


def install(*requirements: str) -> str:
    """The command that gives a library to the Python that runs this, whichever environment is active.

    >>> install("peft>=0.17").removeprefix(sys.executable)
    " -m pip install 'peft>=0.17'"
    """
    return shlex.join([sys.executable, "-m", "pip", "install", *requirements])


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a mistyped name, ready to append to a message.

    >>> nearest("lerning_rate", ["learning_rate", "seed"])
    '; did you mean "learning_rate"?'
    >>> nearest("xyz", ["b", "a"])
    '; known are a, b'
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f'; did you mean "{close[0]}"?' if close else f"; known are {', '.join(known)}"
