"""Question sets of the hub: their parquet files, brought here where a network is."""

from collections.abc import Callable
from pathlib import Path

from medvlm_r1.errors import DataError

CONVERTED = "refs/convert/parquet"  # where the hub itself keeps a parquet copy of sets that have other files
Download = Callable[..., str]


def name_of(wanted: str) -> tuple[str, str | None, str]:
    """(OWNER/NAME, revision, folder in it) of what follows "hub:".

    >>> name_of("flaviagiammarino/vqa-rad"), name_of("a/b@v1.0/plain_text/en")
    (('flaviagiammarino/vqa-rad', None, ''), ('a/b', 'v1.0', 'plain_text/en'))
    """
    owner, _, rest = wanted.strip("/").partition("/")
    name, _, folder = rest.partition("/")
    name, _, revision = name.partition("@")
    if not (owner and name):
        raise DataError(f'"hub:{wanted}" names no set of the hub; write hub:OWNER/NAME, such as hub:flaviagiammarino/vqa-rad')
    return f"{owner}/{name}", revision or None, folder


def fetch(wanted: str, download: Download | None = None) -> Path:
    """The folder with the parquet files of a set, downloaded as far as they are not here yet.

    ``download`` is the hub's ``snapshot_download`` or stands in for it. Raises DataError
    where the set cannot be had, or has no parquet files, not even the hub's own copy.
    """
    repo, revision, inside = name_of(wanted)
    for version in (revision,) if revision else (None, CONVERTED):
        folder = _snapshot(download, repo, version, f"{inside}/*.parquet" if inside else "*.parquet")
        if folder and next(folder.joinpath(inside).rglob("*.parquet"), None):
            return folder / inside
    raise DataError(f'"hub:{wanted}" has no parquet files{f" in {inside}" if inside else ""}; download its archive, and see `medvlm-r1 data convert --help`')


def _snapshot(download: Download | None, repo: str, revision: str | None, pattern: str) -> Path | None:
    """Where the files lie; None where the hub has made no copy of its own."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RevisionNotFoundError

    try:
        return Path((download or snapshot_download)(repo, repo_type="dataset", revision=revision, allow_patterns=[pattern]))
    except RevisionNotFoundError as error:
        if revision == CONVERTED:
            return None
        raise DataError(f'"hub:{repo}" has no version "{revision}"; leave it out, or correct it') from error
    except (HFValidationError, OSError) as error:  # the hub's own errors are OSErrors
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]
        raise DataError(f'cannot bring "hub:{repo}" here ({reason}); download it where a network is, and give the folder of its parquet files') from error
