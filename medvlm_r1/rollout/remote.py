"""Any OpenAI-compatible endpoint as an engine: a served 72B, a commercial model, a vLLM server.

Every request is tried again where that may help. What still fails is a
completion with an ``error``: one dead request must not cost the others.
"""

import base64
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from threading import Event
from typing import Any

from PIL import Image

from medvlm_r1.errors import EngineError, ImageError
from medvlm_r1.files import utf8
from medvlm_r1.rollout.calling import LONGEST_WAIT_S, Endpoint, Fault, call
from medvlm_r1.rollout.dialect import Dialect, changed, spoken
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.reading import read
from medvlm_r1.types import Completion, Prompt

FIRST_PAUSE_S = 1.0  # doubled from one attempt to the next
_SHOWN = 100  # characters of an answer that cannot be read


@dataclass
class RemoteEngine:
    """Generates through an endpoint, ``concurrency`` requests at a time. ``wait`` lets a test skip the pauses.

    ``dialect`` learns what of a request the endpoint does not take; such a refusal costs no attempt.
    Who has not answered through all attempts is gone: until something answers again, each request is tried once.
    """

    endpoint: Endpoint
    load_image: Callable[[str], Image.Image]
    wait: Callable[[float], Any] | None = None
    dialect: Dialect = field(default_factory=lambda: Dialect(lambda text: None))
    _is_gone: bool = field(default=False, init=False)

    def sync(self, policy: Any) -> None:
        """Raises EngineError: nobody can hand weights to a server that others own."""
        raise EngineError(f'"{self.endpoint.url}" cannot take over weights; train with a local model')

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """See Engine.generate; how reproducible it is, the server decides."""
        return list(self.stream(prompts, sampling))

    def stream(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[list[Completion]]:
        """See Streaming.stream."""
        bodies = [body for prompt in prompts for body in self._bodies(prompt, sampling)]
        pool, stopped = ThreadPoolExecutor(self.endpoint.concurrency), Event()
        try:
            flat = pool.map(partial(self._ask, stopped), bodies)
            for _ in prompts:
                yield list(islice(flat, sampling.n))
        finally:  # stopped half-way, nothing more is asked
            stopped.set()
            pool.shutdown(cancel_futures=True)

    def _bodies(self, prompt: Prompt, sampling: Sampling) -> Sequence[dict[str, Any] | Completion]:
        """The requests for one prompt's completions; a picture that cannot be opened is their answer already."""
        try:
            images = [data_url(self.load_image(reference)) for reference in prompt.example.images]
        except ImageError as error:
            return [Completion((), (), "", False, str(error))] * sampling.n
        content = [{"type": "image_url", "image_url": {"url": url}} for url in images] + [{"type": "text", "text": prompt.text}]
        turns: list[dict[str, Any]] = [{"role": "system", "content": prompt.system}] if prompt.system else []
        turns.append({"role": "user", "content": content})
        opening: dict[str, Any] = {}
        if prompt.opening:  # what vLLM and SGLang understand; a server that does not would begin anew
            turns.append({"role": "assistant", "content": prompt.opening})
            opening = {"add_generation_prompt": False, "continue_final_message": True}
        settings = {"temperature": sampling.temperature, "max_tokens": sampling.max_tokens, "top_p": 1.0}
        body = opening | {"model": self.endpoint.model, "messages": turns} | settings
        return [body | {"seed": seed_of(f"{sampling.seed}\n{prompt.example.id}\n{prompt.first + k}")} for k in range(sampling.n)]

    def _ask(self, stopped: Event, body: dict[str, Any] | Completion) -> Completion:
        if isinstance(body, Completion):
            return body
        attempt, pause_s = 0, FIRST_PAUSE_S
        while True:
            without = self.dialect.without
            sent = spoken(body, without)
            try:
                completion = read(call(self.endpoint, "chat/completions", sent), body["max_tokens"])
                self.dialect.answered(sent)
                self._is_gone = False
                return replace(completion, without=changed(body, without))
            except Fault as error:
                if self.dialect.learn(error, body, sent):
                    continue
                fault = error
            except ValueError as error:
                fault = Fault(f"an answer that cannot be read ({self.endpoint.hide(str(error))[:_SHOWN]})", 200)
            attempt += 1
            if fault.wait_s is None or attempt >= self.endpoint.attempts or self._is_gone or stopped.is_set():
                break
            (self.wait or stopped.wait)(max(fault.wait_s, pause_s))
            pause_s = min(LONGEST_WAIT_S, 2 * pause_s)
        self._is_gone = fault.status == 0
        return Completion((), (), "", False, f"{self.endpoint.url}: {fault}")  # a fault holds no key any more


def seed_of(text: str) -> int:
    """31 bits, since some servers read a seed as a number with a sign.

    >>> seed_of("0\\nq1\\n0") < 2**31
    True
    """
    return zlib.crc32(utf8(text)) >> 1


def data_url(image: Image.Image) -> str:
    """A picture inside the request: PNG, so that no level is lost."""
    data = io.BytesIO()
    image.save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
