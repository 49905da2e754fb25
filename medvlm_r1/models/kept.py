"""What was computed once and may be needed again, as far as there is room for it."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """A dictionary that forgets what was not used for longest, once the sizes of what it holds exceed ``limit``.

    >>> kept = Kept[str](limit=10)
    >>> for name in "abc":
    ...     kept.put(name, name * 2, size=4)
    >>> kept.get("a"), kept.get("c"), kept.held
    (None, 'cc', 8)
    >>> kept.drop("c"), kept.drop("c"), kept.held
    ('cc', None, 4)
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.held, self._items = limit, 0, OrderedDict[Hashable, tuple[T, int]]()

    def get(self, key: Hashable) -> T | None:
        if key not in self._items:
            return None
        self._items.move_to_end(key)
        return self._items[key][0]

    def put(self, key: Hashable, item: T, size: int) -> None:
        self.held += size - self._items.pop(key, (None, 0))[1]
        self._items[key] = (item, size)
        while self.held > self.limit and len(self._items) > 1:
            self.held -= self._items.popitem(last=False)[1][1]

    def drop(self, key: Hashable) -> T | None:
        """Forget this one; returns what it was."""
        item, size = self._items.pop(key, (None, 0))
        self.held -= size
        return item

    def clear(self) -> None:
        self._items.clear()
        self.held = 0
