"""Another server as the one who answers: vLLM, or any OpenAI-compatible endpoint, by the rules of the remote engine.

It is asked for whole answers: one that breaks off is then no answer, and the split of thought and answer is ours. It
measures no options, so that ``option_probs`` stays empty and nothing is calibrated.
"""

import asyncio
import io
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from PIL import Image

from medvlm_r1.errors import ImageError
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.calling import Endpoint
from medvlm_r1.rollout.dialect import Dialect
from medvlm_r1.rollout.remote import RemoteEngine
from medvlm_r1.rollout.told import question
from medvlm_r1.serving.wire import Ask, Said
from medvlm_r1.types import Completion

_LATE = "no answer within"


class Upstream:
    """A ``wire.Backend``. ``dialect`` learns what the endpoint does not take; ``template``: how it is asked."""

    def __init__(self, endpoint: Endpoint, template: str, dialect: Dialect | None = None) -> None:
        self._endpoint, self._dialect = endpoint, dialect or Dialect(lambda text: None)
        self._pool = ThreadPoolExecutor(endpoint.concurrency, thread_name_prefix="upstream")
        self._about = {"model": endpoint.model, "identity": f"{endpoint.url}#{endpoint.model}", "template": template}

    @property
    def ready(self) -> bool:
        """It was reached when the server started; what it does now shows when it is asked."""
        return True

    @property
    def about(self) -> Mapping[str, Any]:
        """Its name, and the template that it is asked with."""
        return self._about

    async def ask(self, ask: Ask) -> AsyncGenerator[Said, None]:
        """See Backend.ask. An endpoint cannot be told to stop: who leaves is no longer waited for."""
        completions = await asyncio.get_running_loop().run_in_executor(self._pool, self._complete, ask)
        for k, completion in enumerate(completions):
            if completion.error:  # its words may be an echo of what was asked
                late = _LATE in completion.error
                why = "the model's server did not answer in time" if late else "the model's server gave no answer that can be read"
                yield Said(k, "", why=f"{why}; ask its operator, or try again later", status=504 if late else 502)
                return
        for k, completion in enumerate(completions):
            yield Said(k, completion.text, "stop" if completion.finished else "length")

    def _complete(self, ask: Ask) -> list[Completion]:
        pictures = {f"picture:{picture.sha256}": picture.png for picture in ask.pictures}

        def load(reference: str) -> Image.Image:
            if reference not in pictures:
                raise ImageError(f'image "{reference}" is missing; send it again')
            return Image.open(io.BytesIO(pictures[reference]), formats=("PNG",)).convert("RGB")

        example = replace(question("", ask.question, ask.options), images=tuple(f"picture:{picture.sha256}" for picture in ask.pictures))
        engine = RemoteEngine(self._endpoint, load, dialect=self._dialect)
        [completions] = engine.generate([render(example, ask.template or str(self._about["template"]))], ask.sampling)
        return completions
