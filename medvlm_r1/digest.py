"""Texts as bytes, and a digest to name, order and draw by: it depends on the text alone, not on machine, moment or batch."""

import hashlib


def utf8(text: str) -> bytes:
    r"""UTF-8; half of a surrogate pair, which JSON may hold and UTF-8 may not, as its escape.

    >>> utf8("ä \ud83d")
    b'\xc3\xa4 \\ud83d'
    """
    return text.encode("utf-8", "backslashreplace")


def digest(text: str) -> str:
    """SHA-256, 64 hex digits.

    >>> digest("q1")[:16]
    'c75de8c1b7c3ae52'
    """
    return hashlib.sha256(utf8(text)).hexdigest()
