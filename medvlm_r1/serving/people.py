"""Who may ask, and for what: developers, whose key opens every route, and readers, each with a key and a name of their own.

Where a reader is to answer first, no route may give away the model's answer: a reader's key then opens the page and nothing else.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medvlm_r1.errors import DataError

DEVELOPER, ALONE = "developer", "reader"  # whoever has the server's key; whoever sits at a machine that wants none
_MAY = ("/", "/health", "/ready", "/v1/models")
_MAY_BELOW = ("/page/", "/reading/")


@dataclass(frozen=True)
class Person:
    """Who asks.

    >>> Person("anna", is_reader=True).name
    'anna'
    """

    name: str
    is_reader: bool


@dataclass(frozen=True)
class People:
    """``key``: the developers'; ``readers``: names by SHA-256 of their keys, in the order of their file. Without either, whoever is here is a reader.

    >>> people = People("k" * 16, {hashlib.sha256(b"anna's key").hexdigest(): "anna"}, read_first=True)
    >>> people.of("Bearer " + "k" * 16), people.of("Bearer anna's key"), people.of("Bearer no")
    (Person(name='developer', is_reader=False), Person(name='anna', is_reader=True), None)
    >>> people.of("Basic anna's key")  # by no other scheme
    >>> people.may(Person("anna", True), "/v1/chat/completions"), people.may(Person("anna", True), "/reading/reads")
    (False, True)
    """

    key: str = field(default="", repr=False)
    readers: Mapping[str, str] = field(default_factory=dict)
    read_first: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """All readers, in their order."""
        return tuple(self.readers.values()) or (ALONE,)

    def of(self, authorization: str) -> Person | None:
        """Whose header that is; None for nobody's."""
        if not self.key and not self.readers:
            return Person(ALONE, is_reader=True)
        if self.key and hmac.compare_digest(authorization.encode(), f"Bearer {self.key}".encode()):
            return Person(DEVELOPER, is_reader=False)
        scheme, _, given = authorization.partition(" ")
        name = self.readers.get(hashlib.sha256(given.encode()).hexdigest()) if scheme == "Bearer" else None
        return None if name is None else Person(name, is_reader=True)

    def may(self, person: Person, path: str) -> bool:
        """A list of what is allowed: a route that is added later is closed until somebody has thought about it."""
        return not (self.read_first and person.is_reader) or path in _MAY or path.startswith(_MAY_BELOW)


def read_readers(path: Path) -> dict[str, str]:
    """Names by the hashes of keys, from lines ``NAME HASH``; ``#`` begins a comment. Raises DataError naming the line."""
    found: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f'--readers "{path}" cannot be read ({getattr(error, "strerror", None) or error}); write one line a reader: NAME HASH') from error
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or not re.fullmatch(r"[\w.-]{1,40}", words[0]) or not re.fullmatch(r"[0-9a-f]{64}", words[1]):
            raise DataError(f"{path}, line {number}: no reader; write NAME HASH, the hash made with: printf %s KEY | sha256sum")
        if words[0] in (*found.values(), DEVELOPER) or words[1] in found:
            raise DataError(f'{path}, line {number}: the name "{words[0]}" or its key is taken; give every reader a name and a key of their own')
        found[words[1]] = words[0]
    if not found:
        raise DataError(f'--readers "{path}" names nobody; write one line a reader: NAME HASH')
    return found
