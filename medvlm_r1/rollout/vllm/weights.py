"""How servers get new weights by file: they are written once, and every server pauses, loads them, forgets what it kept of the old ones, and goes on.

The order is vLLM's (0.32): a reload without a reset of the encoder's cache ends the server at the next picture that it knows.
"""

import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from medvlm_r1.files import disk_errors
from medvlm_r1.rollout.calling import Endpoint, Fault, order

RESETS = ("reset_prefix_cache?reset_running_requests=true", "reset_encoder_cache", "reset_mm_cache")


class Weights(Protocol):
    """What carries weights to servers."""

    def take(self, policy: Any, label: str) -> None:
        """These are the newest; called while nothing changes them."""
        ...

    def give(self, endpoints: Sequence[Endpoint]) -> Mapping[Endpoint, Fault]:
        """Bring the newest to all of these; returns who did not take them, and why."""
        ...

    def settle(self) -> None:
        """The policy's own weights move again."""
        ...

    def close(self) -> None:
        """Nobody gets any more."""
        ...


def load(endpoint: Endpoint, path: str) -> None:
    """Let one server take the weights of a folder that it sees under the same name."""
    order(endpoint, "collective_rpc", {"method": "reload_from", "kwargs": {"path": path}})


def reset(endpoint: Endpoint, label: str) -> None:
    """What was computed with the old weights counts no more, and the new ones get their name."""
    for path in RESETS:
        order(endpoint, path)
    order(endpoint, "update_weight_version", {"new_version": label})


class ByFile:
    """A folder that trainer and servers share; two versions stay, since a server may still be reading the last but one.

    ``pause``: "wait" lets what is under way end before, "keep" lets it go on behind.
    """

    def __init__(self, folder: Path, pause: str) -> None:
        self.folder, self.pause = folder.absolute(), pause
        self._newest, self._kept = ("", ""), list[Path]()

    def take(self, policy: Any, label: str) -> None:
        """See Weights.take. Raises RunError where the disk is full."""
        final = self.folder / label.replace("/", "-")
        partial = final.with_name(f"{final.name}.partial")
        with disk_errors(self.folder, "rollout.folder"):
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(final, ignore_errors=True)
            partial.mkdir(parents=True)
            policy.save_weights(partial)
            partial.rename(final)
        self._newest = (str(final), label)
        self._kept.append(final)
        for older in self._kept[:-2]:
            shutil.rmtree(older, ignore_errors=True)
        self._kept = self._kept[-2:]

    def give(self, endpoints: Sequence[Endpoint]) -> Mapping[Endpoint, Fault]:
        """See Weights.give; all at once."""
        path, label = self._newest
        with ThreadPoolExecutor(max(1, len(endpoints))) as threads:
            found = list(threads.map(lambda endpoint: self._give(endpoint, path, label), endpoints))
        return {endpoint: fault for endpoint, fault in zip(endpoints, found, strict=True) if fault}

    def settle(self) -> None:
        """See Weights.settle: a file stays as it is."""

    def close(self) -> None:
        """See Weights.close; leaves nothing behind."""
        for folder in self._kept:
            shutil.rmtree(folder, ignore_errors=True)

    def _give(self, endpoint: Endpoint, path: str, label: str) -> Fault | None:
        try:
            order(endpoint, f"pause?mode={self.pause}")
            load(endpoint, path)
            reset(endpoint, label)
            order(endpoint, "resume")
        except Fault as fault:
            return fault
        return None
