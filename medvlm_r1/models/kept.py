"""What was computed once and may be needed again, up to a number of bytes."""

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """A dictionary that forgets what was not used for longest, once it holds more than ``limit`` bytes.

    >>> kept = Kept[str](limit=10)
    >>> for name in "abc":
    ...     kept.put(name, name * 2, size=4)
    >>> kept.get("a"), kept.get("c")
    (None, 'cc')
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.held, self._items = limit, 0, OrderedDict[str, tuple[T, int]]()

    def get(self, key: str) -> T | None:
        if key not in self._items:
            return None
        self._items.move_to_end(key)
        return self._items[key][0]

    def put(self, key: str, item: T, size: int) -> None:
        self._items[key] = (item, size)
        self.held += size
        while self.held > self.limit and len(self._items) > 1:
            self.held -= self._items.popitem(last=False)[1][1]

    def clear(self) -> None:
        self._items.clear()
        self.held = 0
