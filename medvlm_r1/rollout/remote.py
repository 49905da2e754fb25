"""Any OpenAI-compatible endpoint as an engine: a served 72B, a commercial model, a vLLM server.

Every request is tried again where that may help. What still fails is a
completion with an ``error``: one dead request must not cost the others.
"""

import base64
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from threading import Event
from typing import Any

from PIL import Image

from medvlm_r1.errors import EngineError, ImageError
from medvlm_r1.files import utf8
from medvlm_r1.rollout.calling import LONGEST_WAIT_S, Endpoint, Fault, call
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.types import Completion, Prompt

FIRST_PAUSE_S = 1.0  # doubled from one attempt to the next
_SHOWN = 100  # characters of an answer that cannot be read


@dataclass
class RemoteEngine:
    """Generates through an endpoint, ``concurrency`` requests at a time. ``wait`` lets a test skip the pauses.

    Who has not answered through all attempts is gone: until something answers again, each request is tried once.
    """

    endpoint: Endpoint
    load_image: Callable[[str], Image.Image]
    wait: Callable[[float], Any] | None = None
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
        turns: list[dict[str, Any]] = [{"role": "user", "content": content}]
        opening: dict[str, Any] = {}
        if prompt.opening:  # what vLLM and SGLang understand; a server that does not would begin anew
            turns.append({"role": "assistant", "content": prompt.opening})
            opening = {"add_generation_prompt": False, "continue_final_message": True}
        settings = {"temperature": sampling.temperature, "max_tokens": sampling.max_tokens, "top_p": 1.0}
        body = opening | {"model": self.endpoint.model, "messages": turns} | settings
        return [body | {"seed": zlib.crc32(utf8(f"{sampling.seed}\n{prompt.example.id}\n{prompt.first + k}"))} for k in range(sampling.n)]

    def _ask(self, stopped: Event, body: dict[str, Any] | Completion) -> Completion:
        if isinstance(body, Completion):
            return body
        attempt, pause_s = 0, FIRST_PAUSE_S
        while True:
            try:
                completion = read(call(self.endpoint, "chat/completions", body))
                self._is_gone = False
                return completion
            except Fault as error:
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


def read(answer: Any) -> Completion:
    """The first choice. Raises ValueError where there is none.

    A server that keeps the thought apart gets it back in its tags. A refusal is an
    answer like another, and an answer that a filter withheld or that spent all its
    tokens on a thought it does not show is an empty one: asking again would bring the same.

    >>> read({"choices": [{"message": {"content": "<answer>B</answer>", "reasoning_content": "Dark."}, "finish_reason": "stop"}]}).text
    '<think>Dark.</think><answer>B</answer>'
    >>> read({"choices": [{"message": {"content": None, "refusal": "I cannot help."}, "finish_reason": "stop"}]}).text
    'I cannot help.'
    """
    try:
        choice = answer["choices"][0]
        message, reason = choice["message"], choice["finish_reason"]
        content, thought = message.get("content") or message.get("refusal"), message.get("reasoning_content") or message.get("reasoning")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"no choice in it: {json.dumps(answer)}") from error
    is_empty = not content and not thought and reason in ("length", "content_filter")
    text = "" if content is None and (is_empty or thought) else content
    if not isinstance(text, str) or not (text or thought or is_empty):
        raise ValueError(f"no text in it: {json.dumps(choice)}")
    return Completion((), (), f"<think>{thought}</think>{text}" if thought else text, reason in ("stop", "content_filter"))


def data_url(image: Image.Image) -> str:
    """A picture inside the request: PNG, so that no level is lost."""
    data = io.BytesIO()
    image.save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
