"""Who answers an evaluation: a model on this machine, or an endpoint; each behind a record that is never asked twice."""

import hashlib
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from medvlm_r1 import launch, preflight
from medvlm_r1.config import secret
from medvlm_r1.data.images import content_hash, load_image
from medvlm_r1.models.families import locate
from medvlm_r1.rollout.engine import Engine
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.rollout.recorded import Recorded
from medvlm_r1.rollout.remote import Endpoint, RemoteEngine, served_model
from medvlm_r1.types import Example

KEY = "MEDVLM_API_KEY"


@dataclass(frozen=True)
class Answerer:
    """A model as an evaluation sees it; ``engine`` and ``image_key`` belong to an arm."""

    template: str
    identity: str
    engine: Callable[[str], Engine]
    image_key: Callable[[str], Callable[[str], str]]

    def under(self, arm: str, folder: Path) -> Recorded:
        """The engine that shows what ``arm`` says, with its record in ``folder``."""
        return Recorded(self.engine(arm), folder / f"completions-{arm}.jsonl", self.identity, self.image_key(arm))


def answerer(arguments: Namespace, examples: Sequence[Example]) -> Answerer:
    """The one that ``--model`` names. Raises where a question cannot be put to it."""
    return _endpoint(arguments) if "://" in arguments.model else _local(arguments, examples)


def _local(arguments: Namespace, examples: Sequence[Example]) -> Answerer:
    policy = launch.load_model(arguments.model, arguments.dtype, arguments.max_pixels)
    template = arguments.template or policy.template
    for example in examples:
        preflight.check_prompt(policy, example, template)
    viewed = {}

    def under(arm: str) -> launch.Policy:
        if arm not in viewed:
            viewed.clear()  # one arm at a time: each keeps the pictures that it prepared
            viewed[arm] = policy.viewing(launch.view_of(arm))
        return viewed[arm]

    identity = f"{weights_sha256(locate(arguments.model))} {arguments.dtype}"
    return Answerer(template, identity, lambda arm: LocalEngine(under(arm)), lambda arm: lambda name: under(arm).encoder.pixels(name).key)


def _endpoint(arguments: Namespace) -> Answerer:
    url, _, name = arguments.model.partition("#")
    endpoint = Endpoint(url, name or served_model(url, secret(KEY)), secret(KEY))

    def opener(arm: str) -> Callable[[str], Image.Image]:
        view = launch.view_of(arm)
        return lambda reference: view(load_image(reference)) if view else load_image(reference)

    return Answerer(
        arguments.template or "paper-eval", f"{endpoint.url}#{endpoint.model}", lambda arm: RemoteEngine(endpoint, opener(arm)),
        lambda arm: lambda reference: content_hash(opener(arm)(reference)),
    )  # fmt: skip


def weights_sha256(directory: Path) -> str:
    """16 hex digits over all weight files of a model directory, by name and content."""
    digest = hashlib.sha256()
    for file in sorted(directory.glob("*.safetensors")):
        digest.update(file.name.encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]
