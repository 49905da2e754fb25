"""vLLM servers as an engine: token ids and log-probabilities in and out, the weights theirs, and sent after every step."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any
from uuid import uuid4

from medvlm_r1.errors import EngineError
from medvlm_r1.models.encode import Encoder
from medvlm_r1.models.kept import Kept
from medvlm_r1.rollout.calling import Endpoint, Fault, call, order
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.local import written
from medvlm_r1.rollout.remote import data_url, seed_of
from medvlm_r1.rollout.vllm.pool import Pool
from medvlm_r1.rollout.vllm.speaking import ROUTE, Row, difference, label, request, rows, version_of
from medvlm_r1.rollout.vllm.weights import Weights
from medvlm_r1.types import Completion, Prompt

KEPT_URL_BYTES = 2**30
ABORT_S = 5.0


@dataclass
class VLLMEngine:
    """Asks ``pool``; an Apart engine (rollout.engine). ``encoder`` is its own, since it works beside the trainer (Encoder.apart).

    What a row of a group is drawn from depends on the seed, the question and the row alone; how far the rest of a batch moves the
    last bits, the server decides.
    """

    pool: Pool
    weights: Weights
    encoder: Encoder
    banned: Sequence[int]
    stop_ids: Sequence[int]
    run: str = field(default_factory=lambda: uuid4().hex[:8])
    _urls: Kept[str] = field(default_factory=lambda: Kept(KEPT_URL_BYTES), init=False)
    _encoding: Lock = field(default_factory=Lock, init=False)

    def sync(self, policy: Any) -> None:
        """Bring the policy's weights to all servers. Raises EngineError where none takes them."""
        self.weights.take(policy, label(self.run, policy.version))
        self.pool.renew()
        self.weights.settle()

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """See Engine.generate. Raises EngineError where no server can write them, or one reads a prompt otherwise than we do."""
        threads = ThreadPoolExecutor(max(1, min(len(prompts), self.pool.width)))
        try:
            coming = [threads.submit(self.pool.run, self._asking(prompt, sampling)) for prompt in prompts]
            return [[self._completion(prompt, row) for row in each.result()] for prompt, each in zip(prompts, coming, strict=True)]
        finally:
            threads.shutdown(cancel_futures=True)

    def close(self) -> None:
        """See Apart.close. Servers stop writing for nobody."""
        ready = self.pool.ready
        self.pool.close()
        for server in ready:
            try:
                order(server.endpoint, "abort_requests", {}, ABORT_S)
            except Fault as fault:
                self.pool.say(f"warning: {server.endpoint.url} may go on writing ({fault})")
        self.weights.close()

    def _asking(self, prompt: Prompt, sampling: Sampling) -> Any:
        """What asks one server for all completions of a prompt."""
        with self._encoding:
            ids, pictures = self.encoder.prompt_ids(prompt, sampling.max_tokens), [self._url(reference) for reference in prompt.example.images]
            sent = self.encoder.sent_ids(prompt)
        seed = seed_of(f"{sampling.seed}\n{prompt.example.id}\n{prompt.first}")
        body = request(sent, pictures, sampling, seed, self.banned, self.stop_ids)
        return partial(self._ask, prompt, ids, body)

    def _url(self, reference: str) -> str:
        url = self._urls.get(reference)
        if url is None:
            url = data_url(self.encoder.sent_image(reference))
            self._urls.put(reference, url, len(url))
        return url

    def _ask(self, prompt: Prompt, ids: list[int], body: dict[str, Any], endpoint: Endpoint) -> list[Row]:
        answer = call(endpoint, ROUTE, body)
        try:
            found = rows(answer, body["sampling_params"]["n"])
        except ValueError as error:
            raise Fault(f"an answer that cannot be used: {error}", 200) from error
        if apart := difference(ids, answer.get("prompt_token_ids")):
            raise EngineError(
                f'{endpoint.url} reads question "{prompt.example.id}" otherwise than this run ({apart}); '
                "serve the model that the run begins with, with its own processor"
            )
        strange = next((text for row in found for text in row.labels if version_of(self.run, text) is None), None)
        if strange is not None:
            raise Fault(f'its weights are "{strange}" and none of this run: it was started again, or another run uses it', 200)
        return found

    def _completion(self, prompt: Prompt, row: Row) -> Completion:
        versions = [version for text in row.labels if (version := version_of(self.run, text)) is not None]
        with self._encoding:
            return written(self.encoder, prompt, self.stop_ids, row.ids, row.logprobs, min(versions))
