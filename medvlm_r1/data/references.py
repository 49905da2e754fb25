"""How a question set in a folder names its pictures, and what that means from here."""

import os
from pathlib import Path

from medvlm_r1.data.images import SCHEMES, scheme_of
from medvlm_r1.data.parquet import SCHEME as PARQUET
from medvlm_r1.data.urls import local


def resolved(reference: str, folder: Path) -> str:
    """The reference that ``load_image`` opens, for one that a set in ``folder`` wrote.

    >>> [resolved(r, Path("data")) for r in ("im/a.png", "im\\\\a.png", "/x/a.png", "file:///x/a%20b.png", "parquet:t.parquet#row=3")]
    ['data/im/a.png', 'data/im/a.png', '/x/a.png', '/x/a b.png', 'parquet:data/t.parquet#row=3']
    >>> resolved("HTTPS://example.org/a.png", Path("data")), resolved("phantom:mri/test/1", Path("data"))
    ('https://example.org/a.png', 'phantom:mri/test/1')
    """
    if ":" not in reference:
        return _path(reference, folder)
    written = scheme_of(reference)
    scheme = written.lower()
    if scheme == "file" and (path := local(reference)):
        return str(folder / path)
    if scheme == PARQUET:
        return f"{PARQUET}:{folder / reference[len(PARQUET) + 1 :]}"
    if scheme in SCHEMES or "://" in reference:
        return scheme + reference[len(written) :]
    return _path(reference, folder)


def relative(reference: str, folder: Path) -> str:
    """The reference as a set in ``folder`` writes it.

    >>> relative("data/im/a.png", Path("data")), relative("parquet:data/t.parquet#row=3", Path("out"))
    ('im/a.png', 'parquet:../data/t.parquet#row=3')
    """
    scheme = scheme_of(reference)
    if scheme == PARQUET:
        return f"{PARQUET}:{relative(reference[len(PARQUET) + 1 :], folder)}"
    return reference if scheme in SCHEMES or "://" in reference else Path(os.path.relpath(reference, folder)).as_posix()


def _path(reference: str, folder: Path) -> str:
    """A path written on Windows, or from the home folder, where nothing here has that very name."""
    path = folder / reference
    if ("\\" in reference or reference.startswith("~")) and not path.exists():
        path = folder / Path(reference.replace("\\", "/")).expanduser()
    return str(path)
