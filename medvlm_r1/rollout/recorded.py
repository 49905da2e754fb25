"""An engine that never asks twice: completions are kept in a file and come from there when asked again.

A key holds everything that decides a completion: who answers, the prompt's text,
its pictures, how it is sampled. An evaluation that is killed goes on where it
stopped and ends with the same bytes.
"""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medvlm_r1.errors import DataError, EngineError, ImageError, MedVLMError, RunError
from medvlm_r1.files import AppendFile, digest, output_errors, utf8
from medvlm_r1.rollout.engine import Engine, Sampling, Streaming
from medvlm_r1.types import Completion, Prompt


@dataclass
class Recorded:
    """Wraps ``engine``.

    ``identity`` says who answers (a hash of the model; an address and a model's
    name), ``image_key`` gives a picture's content hash. Failed completions are not kept.
    ``without`` gathers what of its requests an endpoint did not take, now or when an answer was recorded.
    The file is its own until ``close``; raises RunError where another has it.
    """

    engine: Engine
    path: Path
    identity: str
    image_key: Callable[[str], str]
    without: set[str] = field(default_factory=set, init=False)
    _known: dict[str, Completion] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._file = AppendFile(self.path, errors=output_errors)
        try:
            if not self._file.lock():  # before it is read: what looks cut off is what the other is writing
                raise RunError(f'"{self.path}" is in use by another evaluation; wait for it or name another --cache')
            with output_errors(self.path):
                self._known = _load(self.path)
        except MedVLMError:
            self._file.close()
            raise

    def close(self) -> None:
        """Leave the file to others; harmless when done twice."""
        self._file.close()

    def sync(self, policy: Any) -> None:
        """Raises EngineError: the record is of one model's answers."""
        raise EngineError(f'"{self.path}" records one model; weights that change need an engine without a record')

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """See Engine.generate. Only prompts with a completion missing are asked, all of theirs together.

        A prompt whose picture cannot be opened gets completions with an ``error``.
        """
        keyed = [self._keys(prompt, sampling) for prompt in prompts]
        askable = {p: keys_G for p, keys_G in enumerate(keyed) if not isinstance(keys_G, Completion)}
        missing = [p for p, keys_G in askable.items() if any(key not in self._known for key in keys_G)]
        found: dict[str, Completion] = {}
        for rows, groups in self._answered(missing, prompts, sampling):
            new = {askable[p][k]: c for p, group in zip(rows, groups, strict=True) for k, c in enumerate(group)}
            self._keep({key: completion for key, completion in new.items() if not completion.error and key not in self._known})
            found |= new
        groups = [[keys_G] * sampling.n if isinstance(keys_G, Completion) else [self._known.get(key) or found[key] for key in keys_G] for keys_G in keyed]
        self.without.update(name for group in groups for completion in group for name in completion.without)
        return groups

    def _answered(self, missing: Sequence[int], prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[tuple[Sequence[int], Sequence[list[Completion]]]]:
        """The missing rows and their completions, as many at a time as the engine can be cut off after."""
        asked = [prompts[p] for p in missing]
        if isinstance(self.engine, Streaming):
            yield from (([p], [group]) for p, group in zip(missing, self.engine.stream(asked, sampling), strict=True))
        elif missing:
            yield missing, self.engine.generate(asked, sampling)

    def _keys(self, prompt: Prompt, sampling: Sampling) -> list[str] | Completion:
        try:
            images = [self.image_key(reference) for reference in prompt.example.images]
        except ImageError as error:
            return Completion((), (), "", False, str(error))
        return [self.key(prompt, images, sampling, k) for k in range(sampling.n)]

    def key(self, prompt: Prompt, images: Sequence[str], sampling: Sampling, k: int) -> str:
        """32 hex digits. How many completions are drawn beside this one does not matter."""
        settings = {name: value for name, value in asdict(sampling).items() if name != "n"}
        text = json.dumps(
            [self.identity, prompt.example.id, prompt.text, prompt.opening, images, settings, prompt.first + k, *filter(None, [prompt.system])],
            ensure_ascii=False,
        )
        return digest(text)[:32]

    def _keep(self, completions: dict[str, Completion]) -> None:
        rows = (
            {"key": key, **{name: value for name, value in asdict(c).items() if value or name not in ("without", "version")}} for key, c in completions.items()
        )
        self._file.append(utf8("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)))
        self._known |= completions


_HEAD = b'{"key": "'


def _load(path: Path) -> dict[str, Completion]:
    """What an earlier run left; a row that its end cut off is dropped. A file that is none of ours stays as it is."""
    if not path.exists():
        return {}
    lines = io.BytesIO(path.read_bytes()).readlines()
    cut = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
    known = dict(_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, 1))
    if cut and cut[: len(_HEAD)] != _HEAD[: len(cut)]:
        raise DataError(f'"{path}" is no record of completions; name another file with --cache')
    if cut:
        with path.open("rb+") as file:
            file.truncate(sum(map(len, lines)))
    return known


def _parse(line: bytes, place: str) -> tuple[str, Completion]:
    try:
        row = json.loads(line)
        values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
        return values.pop("key"), Completion(**values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{place}: no recorded completion; delete the line, and what it held is asked again") from error
