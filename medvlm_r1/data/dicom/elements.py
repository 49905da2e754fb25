"""Header elements as plain numbers and words. An empty element counts as absent, and so does an empty part of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medvlm_r1.data.foreign import errors_as
from medvlm_r1.errors import ImageError

GREY_MACROS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")


class Elements:
    """The elements of a data set, or of several of which the first that holds an element speaks (``scopes``).

    Raises ImageError, wherever it is asked, for an element that cannot be understood.
    """

    def __init__(self, scopes: Sequence[Any], name: str):
        self.scopes = scopes  # pydicom data sets
        self.name = name  # of the file, for messages

    def value(self, keyword: str) -> Any:
        """As pydicom reads it, or None."""
        for scope in self.scopes:
            with errors_as(f'image "{self.name}" has a {keyword} that cannot be read ({{why}}); correct its header'):
                value = scope.get(keyword)
            if not _is_empty(value):
                return value
        return None

    def numbers(self, keyword: str) -> list[float | None]:
        """All parts of an element, None for one that is empty; [] where it is absent."""
        value = self.value(keyword)
        if isinstance(value, bytes):  # "US or SS" that nothing resolves
            value = [int(part) for part in np.frombuffer(value[: len(value) // 2 * 2], "<u2")]
        parts = [] if value is None else [value] if isinstance(value, str) or not hasattr(value, "__len__") else list(value)
        return [None if _is_empty(part) else self._number(part, keyword) for part in parts]

    def number(self, keyword: str) -> float | None:
        """The first part of an element, as a finite number."""
        return next(iter(self.numbers(keyword)), None)

    def integer(self, keyword: str, default: int | None = None) -> int:
        """The first part as a whole number. Raises ImageError where it is absent and there is no default."""
        number = self.number(keyword)
        if number is None:
            if default is None:
                raise ImageError(f'image "{self.name}" has no {keyword}; correct its header, or drop the question')
            return default
        if number != int(number):
            raise ImageError(f'image "{self.name}" has {keyword} {number}, which is no whole number; correct its header')
        return int(number)

    def text(self, keyword: str) -> str:
        """The first part as a word in capitals, or ""."""
        value = self.value(keyword)
        first = value if isinstance(value, str) or not hasattr(value, "__len__") else value[0]
        return "" if first is None else str(first).strip(" \0").upper()

    def items(self, keyword: str) -> list[Elements]:
        """The items of a sequence, each by itself."""
        value = self.value(keyword)
        if value is not None and any(not hasattr(item, "get") for item in (value if isinstance(value, Sequence) else [value])):
            raise ImageError(f'image "{self.name}" has a {keyword} that is no sequence; correct its header')
        return [Elements([item], self.name) for item in value or []]

    def of_frame(self, frame: int, macros: Sequence[str] = GREY_MACROS) -> Elements:
        """With what enhanced objects say for one frame, or else for all of them (PS3.3 C.7.6.16), before the data set itself."""
        groups = [*self.items("PerFrameFunctionalGroupsSequence")[frame : frame + 1], *self.items("SharedFunctionalGroupsSequence")[:1]]
        found = [item for group in groups for macro in macros for item in group.items(macro)]
        return Elements([*(scope for item in found for scope in item.scopes), *self.scopes], self.name)

    def _number(self, part: Any, keyword: str) -> float:
        try:
            number = float(part)
        except (TypeError, ValueError, OverflowError) as error:
            raise ImageError(f'image "{self.name}" has {keyword} {str(part)[:40]!r}, which is no number; correct its header') from error
        if not np.isfinite(number):
            raise ImageError(f'image "{self.name}" has {keyword} {number}, which is no finite number; correct its header')
        return number


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip(" \0")) or (hasattr(value, "__len__") and len(value) == 0)
