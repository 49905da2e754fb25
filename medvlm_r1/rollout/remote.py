"""Any OpenAI-compatible endpoint as an engine: a served 72B, a commercial model, a vLLM server.

Every request is tried again where that may help. What still fails is a
completion with an ``error``: one dead request must not cost the others.
"""

import base64
import http.client
import io
import json
import socket
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from PIL import Image

from medvlm_r1.errors import EngineError, ImageError
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.types import Completion, Prompt

PASSING = {408, 409, 429, 500, 502, 503, 504, 529}  # answers of a server that may answer better later
LONGEST_WAIT_S = 60.0


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, and how patiently.

    >>> Endpoint("http://127.0.0.1:8000/v1", "mine").chat
    'http://127.0.0.1:8000/v1/chat/completions'
    """

    url: str
    model: str
    key: str = ""
    timeout_s: float = 300.0
    attempts: int = 5
    concurrency: int = 16

    @property
    def chat(self) -> str:
        return f"{self.url.rstrip('/')}/chat/completions"


@dataclass
class RemoteEngine:
    """Generates through an endpoint, ``concurrency`` requests at a time. ``wait`` lets a test skip the pauses."""

    endpoint: Endpoint
    load_image: Callable[[str], Image.Image]
    wait: Callable[[float], None] = time.sleep

    def sync(self, policy: Any) -> None:
        """Raises EngineError: nobody can hand weights to a server that others own."""
        raise EngineError(f'"{self.endpoint.url}" cannot take over weights; train with a local model')

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """See Engine.generate; how reproducible it is, the server decides."""
        bodies = [self._body(prompt, sampling, k) for prompt in prompts for k in range(sampling.n)]
        with ThreadPoolExecutor(self.endpoint.concurrency) as pool:
            flat = list(pool.map(self._ask, bodies))
        return [flat[at : at + sampling.n] for at in range(0, len(flat), sampling.n)]

    def _body(self, prompt: Prompt, sampling: Sampling, k: int) -> dict[str, Any] | Completion:
        """The request of one completion; a picture that cannot be opened is its answer already."""
        try:
            images = [data_url(self.load_image(reference)) for reference in prompt.example.images]
        except ImageError as error:
            return Completion((), (), "", False, str(error))
        content = [{"type": "image_url", "image_url": {"url": url}} for url in images] + [{"type": "text", "text": prompt.text}]
        turns: list[dict[str, Any]] = [{"role": "user", "content": content}]
        opening: dict[str, Any] = {}
        if prompt.opening:  # what vLLM and SGLang understand; a server that does not would begin anew
            turns.append({"role": "assistant", "content": prompt.opening})
            opening = {"add_generation_prompt": False, "continue_final_message": True}
        return opening | {
            "model": self.endpoint.model,
            "messages": turns,
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "top_p": 1.0,
            "seed": zlib.crc32(f"{sampling.seed}\n{prompt.example.id}\n{k}".encode()),
        }

    def _ask(self, body: dict[str, Any] | Completion) -> Completion:
        if isinstance(body, Completion):
            return body
        fault = ""
        for attempt in range(self.endpoint.attempts):
            if attempt:
                self.wait(pause)
            pause = min(LONGEST_WAIT_S, 2.0**attempt)
            try:
                return read(post(self.endpoint, body))
            except urllib.error.HTTPError as error:
                fault = f"status {error.code} ({_said(error)})"
                if error.code not in PASSING:
                    break
                pause = _asked_for(error, pause)
            except (TimeoutError, socket.timeout) as error:
                fault = f"no answer within {self.endpoint.timeout_s:g} s ({error})"
            except (urllib.error.URLError, http.client.HTTPException, ConnectionError) as error:
                fault = f"no connection ({getattr(error, 'reason', error)})"
            except ValueError as error:
                fault = f"an answer that cannot be read ({error})"
        return Completion((), (), "", False, f"{self.endpoint.url}: {fault}")


def post(endpoint: Endpoint, body: dict[str, Any]) -> Any:
    """The JSON that the endpoint answers with."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {})
    request = urllib.request.Request(endpoint.chat, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=endpoint.timeout_s) as answer:
        return json.loads(answer.read())


def read(answer: Any) -> Completion:
    """The first choice. A server that keeps the thought apart gets it back in its tags. Raises ValueError for anything else.

    >>> read({"choices": [{"message": {"content": "<answer>B</answer>", "reasoning_content": "Dark."}, "finish_reason": "stop"}]}).text
    '<think>Dark.</think><answer>B</answer>'
    """
    try:
        choice = answer["choices"][0]
        message, reason = choice["message"], choice["finish_reason"]
        content, thought = message.get("content"), message.get("reasoning_content") or message.get("reasoning")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"no choice in it: {json.dumps(answer)[:80]}") from error
    if not isinstance(content, str) or not (content or thought):
        raise ValueError(f"no text in it: {json.dumps(choice)[:80]}")
    return Completion((), (), f"<think>{thought}</think>{content}" if thought else content, reason == "stop")


def data_url(image: Image.Image) -> str:
    """A picture inside the request: PNG, so that no level is lost."""
    data = io.BytesIO()
    image.save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def served_model(url: str, key: str = "", timeout_s: float = 30.0) -> str:
    """The one model that an endpoint serves. Raises EngineError where there is none, or a choice."""
    request = urllib.request.Request(f"{url.rstrip('/')}/models", headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            names = [row["id"] for row in json.loads(answer.read())["data"]]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        raise EngineError(f'"{url}" does not list its models ({error}); is the server up, and does the address end in /v1?') from error
    if len(names) != 1:
        raise EngineError(f'"{url}" serves {", ".join(names) or "no model"}; name one: {url}#MODEL')
    return names[0]


def _said(error: urllib.error.HTTPError) -> str:
    return " ".join(error.read(200).decode("utf-8", "replace").split()) or error.reason


def _asked_for(error: urllib.error.HTTPError, pause: float) -> float:
    """How long the server asks to be left alone, else ``pause``."""
    wanted = error.headers.get("Retry-After", "")
    return min(LONGEST_WAIT_S, float(wanted)) if wanted.isdigit() else pause
