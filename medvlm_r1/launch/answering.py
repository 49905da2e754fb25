"""Who answers an evaluation: a model on this machine, or an endpoint; each behind a record that is never asked twice."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from medvlm_r1.config import secret
from medvlm_r1.console import notice
from medvlm_r1.data.images import content_hash, load_image
from medvlm_r1.errors import ConfigError
from medvlm_r1.evaluation.asking.run import Probe
from medvlm_r1.launch.loading import load_model
from medvlm_r1.launch.request import Request
from medvlm_r1.models.families import locate
from medvlm_r1.models.policy import Policy
from medvlm_r1.preflight import questions as preflight
from medvlm_r1.rollout.answer import option_probs
from medvlm_r1.rollout.calling import Endpoint, check_up, served_model
from medvlm_r1.rollout.dialect import Dialect
from medvlm_r1.rollout.engines import local
from medvlm_r1.rollout.guarded import Guarded
from medvlm_r1.rollout.recorded import Recorded
from medvlm_r1.rollout.remote import RemoteEngine
from medvlm_r1.types import Example, Prompt

KEY = "MEDVLM_API_KEY"
DECIDING = ("*.safetensors", "*.json", "*.jinja", "*.txt")  # weights, configuration, chat template, tokenizer


@dataclass(frozen=True)
class Answerer:
    """A model as an evaluation sees it; ``probe`` reads option probabilities, where that can be done.

    ``unused``: options that decide nothing about its answers. ``dtype``: in which numbers it computes; "" where its server knows.
    ``trained_under``: the views that its training showed it beside its own pictures.
    ``as_sent``: a prompt with all that the chat template puts around it; None where a server does that.
    """

    template: str
    identity: str
    engine: Recorded
    probe: Probe | None
    unused: tuple[str, ...] = ()
    dtype: str = ""
    trained_under: tuple[str, ...] = ()
    as_sent: Callable[[Prompt], str] | None = None


def answerer(request: Request, examples: Sequence[Example], record: Path, loaded: Policy | None = None) -> Answerer:
    """The one that ``--model`` names, ``loaded`` already or not, with its ``record``. Raises where a question cannot be put to it."""
    return _endpoint(request, record) if "://" in request.model else _local(request, examples, record, loaded)


def _local(request: Request, examples: Sequence[Example], record: Path, loaded: Policy | None) -> Answerer:
    policy = loaded or load_model(request.model, request.dtype, request.max_pixels)
    template = request.template or policy.template
    preflight.check_askable(policy, examples, template, request.max_tokens)
    dtype = str(policy.model.dtype).removeprefix("torch.")
    name = f"{model_sha256(locate(request.model))} {dtype}"
    engine = Recorded(Guarded(local(policy), policy.encoder), record, name, lambda reference: policy.encoder.pixels(reference).key)
    return Answerer(template, name, engine, partial(option_probs, policy), dtype=dtype, trained_under=policy.other_views, as_sent=policy.encoder.as_sent)


def _endpoint(request: Request, record: Path) -> Answerer:
    url, _, name = request.model.partition("#")
    if request.probs:
        raise ConfigError("--probs needs the model on this machine; an endpoint is calibrated by --samples 4 or more")
    if request.max_pixels:
        raise ConfigError(f"--max-pixels {request.max_pixels} does nothing at an endpoint, whose server decides how large a picture may be; drop it")
    if request.dtype:
        raise ConfigError(f"--dtype {request.dtype} does nothing at an endpoint, whose server holds the weights; drop it")
    endpoint = reached(Endpoint(url, name, secret(KEY), request.timeout))
    return Answerer(request.template or "paper-eval", identity(endpoint), recorded(endpoint, record), None, ("max_pixels", "dtype"))


def reached(endpoint: Endpoint) -> Endpoint:
    """The endpoint, with the name of its one model where none was given. Raises EngineError where it does not answer."""
    check_up(endpoint)
    return endpoint if endpoint.model else replace(endpoint, model=served_model(endpoint.url, endpoint.key))


def identity(endpoint: Endpoint) -> str:
    """Who answers there, as the record and the settings name it."""
    return f"{endpoint.url}#{endpoint.model}"


def recorded(endpoint: Endpoint, record: Path) -> Recorded:
    """An endpoint that is never asked twice."""
    engine = RemoteEngine(endpoint, load_image, dialect=Dialect(notice))
    return Recorded(engine, record, identity(endpoint), cache(lambda reference: content_hash(load_image(reference))))


def model_sha256(directory: Path) -> str:
    """16 hex digits over the files of a model directory that decide what it writes, by name and content; its folders are not read."""
    digest = hashlib.sha256()
    for file in sorted(file for pattern in DECIDING for file in directory.glob(pattern)):
        digest.update(file.name.encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]
